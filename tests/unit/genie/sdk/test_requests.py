"""How steps are taken: errors go into them, and leaving them closes them."""

from collections.abc import Generator

import pytest

from genie.errors import GenieError, NotFound, Unavailable
from genie.sdk import requests
from genie.sdk.requests import Call, Item, Items, ReadLines, Step, Steps, get


def answer(step: Step) -> bytes:
    """The path of a call; an error for one called away."""
    assert isinstance(step, Call)
    if step.path == "/away":
        raise Unavailable("away")
    return step.path.encode()


def no_lines(call: Call) -> Generator[str]:
    """Two lines and the end of the connection."""
    yield from ("one", "two")
    raise Unavailable("cut")


def test_an_error_goes_to_the_steps_which_may_go_on() -> None:
    def ask() -> Steps[bytes]:
        try:
            return (yield get("/away"))
        except Unavailable:
            return (yield get("/near"))

    assert requests.run(ask(), answer) == b"/near"


def test_an_error_that_the_steps_leave_alone_is_raised() -> None:
    def ask() -> Steps[bytes]:
        return (yield get("/away"))

    with pytest.raises(Unavailable, match="away"):
        requests.run(ask(), answer)


def test_an_error_of_the_steps_themselves_is_raised() -> None:
    def ask() -> Steps[bytes]:
        yield get("/near")
        raise NotFound("nothing there")

    with pytest.raises(NotFound):
        requests.run(ask(), answer)


def test_items_lines_and_steps_come_in_their_order() -> None:
    def items() -> Items[str]:
        yield Item((yield get("/near")).decode())
        try:
            yield ReadLines(call=get("/lines"), take=lambda line: line.upper())
        except Unavailable as error:
            yield Item(str(error))

    found = requests.each(items(), answer, no_lines)
    assert list(found) == ["/near", "ONE", "TWO", "cut"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, GenieError("ours")])
def test_steps_end_with_whoever_takes_them(error: BaseException) -> None:
    ends: list[str] = []

    def ask() -> Steps[None]:
        try:
            yield get("/near")
        finally:
            ends.append("closed")

    def fail(_step: Step) -> bytes:
        raise error

    with pytest.raises((KeyboardInterrupt, GenieError)):
        requests.run(ask(), fail)
    assert ends == ["closed"]


def test_items_nobody_wants_any_more_close_their_steps() -> None:
    ends: list[str] = []

    def items() -> Items[int]:
        try:
            yield Item(1)
            yield Item(2)
        finally:
            ends.append("closed")

    found = requests.each(items(), answer, no_lines)
    assert next(found) == 1
    found.close()
    assert ends == ["closed"]
