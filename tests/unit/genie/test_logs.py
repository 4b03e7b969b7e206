import json
from collections.abc import Iterator

import pytest
import structlog

from genie import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    captured = capsys.readouterr()
    assert captured.out == "", "stdout belongs to the program's answers"
    return [json.loads(line) for line in captured.err.splitlines()]


def test_an_event_is_one_line_with_its_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure(as_json=True)
    logs.logger("registry").info("worker_joined", worker="gpu-1")
    (line,) = lines(capsys)
    assert (line["event"], line["worker"]) == ("worker_joined", "gpu-1")
    assert (line["module"], line["level"]) == ("registry", "info")
    assert str(line["timestamp"]).endswith("Z")


@pytest.mark.parametrize("name", sorted(logs.SECRET_FIELDS))
def test_no_secret_field_reaches_a_log(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(as_json=True)
    logs.logger("any").warning("happened", **{name: "hunter2-hunter2"})
    (line,) = lines(capsys)
    assert line[name] == "<15 characters>"


def test_a_bound_secret_is_dropped_too(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(as_json=True)
    with structlog.contextvars.bound_contextvars(token="gj-hunter2"):
        logs.logger("any").info("happened")
    assert "hunter2" not in json.dumps(lines(capsys))


def test_a_quieter_level_says_less(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="warning", as_json=True)
    log = logs.logger("any")
    log.info("quiet")
    log.error("loud")
    assert [line["event"] for line in lines(capsys)] == ["loud"]


def test_a_terminal_gets_words_instead_of_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure(as_json=False)
    logs.logger("any").info("happened", prompt="hunter2")
    said = capsys.readouterr().err
    assert "happened" in said
    assert "hunter2" not in said
    assert not said.startswith("{")
