import inspect
import re

import pytest

from genie import errors
from genie.errors import GenieError

TREE = [value for value in vars(errors).values() if inspect.isclass(value)]
CLASSES = [cls for cls in TREE if issubclass(cls, GenieError)]
LINE = re.compile(r"^(?P<indent>[ │├└─]*)(?P<name>[A-Z]\w+)(?P<rest>.*)$")


def drawn() -> dict[str, tuple[str | None, str]]:
    """Each class in the docstring's picture: its parent there, and its line."""
    found: dict[str, tuple[str | None, str]] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = LINE.match(line)
        if match is None or not line.startswith("    "):
            continue
        depth = len(match["indent"])
        above = [(at, name) for at, name in above if at < depth]
        found[match["name"]] = (above[-1][1] if above else None, match["rest"])
        above.append((depth, match["name"]))
    return found


PICTURE = drawn()


def test_the_picture_shows_every_class_and_no_other() -> None:
    assert sorted(PICTURE) == sorted(cls.__name__ for cls in CLASSES)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_picture_shows_parent_status_and_retry(cls: type[GenieError]) -> None:
    parent, rest = PICTURE[cls.__name__]
    base = cls.__bases__[0]
    assert (parent or "Exception") == base.__name__
    status = re.match(r" +(\d{3})\b", rest)
    if status is not None:
        assert cls.http_status == int(status[1])
    elif parent not in (None, "GenieError"):
        assert cls.http_status == getattr(base, "http_status", 500)
    if "(retryable)" in rest:
        assert cls.retryable


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_class_knows_its_code(cls: type[GenieError]) -> None:
    assert re.fullmatch(r"[a-z_]+", cls.code)
    assert 400 <= cls.http_status < 600
    assert cls.__doc__


def test_codes_are_told_apart() -> None:
    codes = [cls.code for cls in CLASSES]
    assert len(set(codes)) == len(codes)


def test_an_error_keeps_what_it_was_given() -> None:
    error = errors.NoCapacity(
        "no worker; run `genie worker join`",
        param="model",
        request_id="r1",
        retry_after_s=5,
    )
    assert str(error) == error.message == "no worker; run `genie worker join`"
    assert (error.param, error.request_id, error.retry_after_s) == ("model", "r1", 5)
    assert (error.error_code, error.http_status) == ("no_capacity", 503)
    assert errors.JobFailed("x", code="poison").error_code == "poison"
