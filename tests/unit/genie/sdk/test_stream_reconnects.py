"""A stream whose connection breaks, of both clients, comes back to its answer."""

import asyncio
from collections.abc import Callable, Iterator

import httpx2
import pytest

from fixtures.twin_cloud import CHAT, TwinBody, TwinCloud
from genie import errors
from genie.sdk.results import Result
from unit.genie.sdk.test_streams import END, LAST, TALLY, chunk

AGAIN = "GET /v1/jobs/01a/stream"
CANCEL = "POST /v1/jobs/01a/cancel"
WHOLE = (chunk(""), chunk("Hel"), chunk("lo, "), chunk("you"), LAST, TALLY, END)
CANCELLED = (
    'data: {"error": {"message": "cancelled", "type": "x", "param": null, '
    '"code": "job_cancelled"}}'
)


def source(*lines: str) -> TwinBody:
    """Lines after which the connection breaks, unless they are the whole answer."""
    return TwinBody(*lines, cut="cut")


def refusal(status: int, code: str) -> httpx2.Response:
    """The answer of a cloud that has no such answer."""
    return httpx2.Response(status, json={"error": {"message": "gone", "code": code}})


class Road:
    """A cloud whose first connection breaks, and the connections that repeat it."""

    def __init__(self, first: TwinBody, *again: TwinBody | httpx2.Response) -> None:
        self.twin = TwinCloud()
        later = [
            one if isinstance(one, httpx2.Response) else one.response() for one in again
        ]
        self.twin.replies = {
            CHAT: first.response(),
            AGAIN: iter(later),
            CANCEL: {"id": "01a", "status": "cancelled"},
        }

    def made(self, wanted: str) -> int:
        """How often a request was sent."""
        sent = [f"{one.method} {one.url.path}" for one in self.twin.requests]
        return sent.count(wanted)


Reading = Callable[[Road, int | None], tuple[list[str], Result | None]]


def plainly(road: Road, most: int | None = None) -> tuple[list[str], Result | None]:
    pieces = []
    with road.twin.client().stream("hi") as stream:
        for piece in stream:
            pieces.append(piece)
            if len(pieces) == most:
                return pieces, None
    return pieces, stream.result


def awaited(road: Road, most: int | None = None) -> tuple[list[str], Result | None]:
    async def read() -> tuple[list[str], Result | None]:
        pieces = []
        async with await road.twin.async_client().stream("hi") as stream:
            async for piece in stream:
                pieces.append(piece)
                if len(pieces) == most:
                    return pieces, None
        return pieces, stream.result

    return asyncio.run(read())


@pytest.fixture(params=[plainly, awaited])
def reading(request: pytest.FixtureRequest) -> Reading:
    found: Reading = request.param
    return found


def test_a_broken_stream_goes_on_where_it_was(reading: Reading) -> None:
    first = source(chunk(""), chunk("Hel"), chunk("lo, "))
    again = source(chunk(""), chunk("He")), source(*WHOLE)
    road = Road(first, *again)
    pieces, result = reading(road, None)

    assert pieces == ["Hel", "lo, ", "you"]
    assert result is not None
    assert (result.text, result.usage.completion_tokens) == ("Hello, you", 2)
    assert first.is_closed
    assert all(body.is_closed for body in again)
    assert road.made(CANCEL) == 0


def test_what_comes_in_larger_pieces_the_second_time_is_given_once(
    reading: Reading,
) -> None:
    road = Road(source(chunk("Hel")), source(chunk("Hello, you"), LAST, END))
    pieces, _result = reading(road, None)

    assert pieces == ["Hel", "lo, you"]


def test_an_answer_that_another_worker_begins_anew_is_not_sewn_on(
    reading: Reading,
) -> None:
    other = source(chunk("Good"), chunk(" morning"), LAST, END)
    road = Road(source(chunk("Hel"), chunk("lo")), other)
    with pytest.raises(errors.JobFailed, match="another answer"):
        reading(road, None)
    assert road.made(CANCEL) == 0


def test_each_connection_is_held_to_all_that_was_given(reading: Reading) -> None:
    again = source(chunk("H")), source(chunk("He")), source(*WHOLE)
    pieces, _result = reading(Road(source(chunk("Hel")), *again), None)

    assert pieces == ["Hel", "lo, ", "you"]


def test_a_connection_that_brings_nothing_is_the_last(reading: Reading) -> None:
    road = Road(source(chunk("Hel")), source(), source(*WHOLE))
    with pytest.raises(errors.CloudUnreachable, match="cut"):
        reading(road, None)
    assert road.made(AGAIN) == 1


@pytest.mark.parametrize(
    "answer",
    [
        lambda: source(CANCELLED),
        lambda: refusal(409, "job_cancelled"),
        lambda: refusal(404, "job_not_found"),
    ],
)
def test_a_cut_that_the_cloud_took_for_our_leaving_is_said_as_a_cut(
    reading: Reading, answer: Callable[[], TwinBody | httpx2.Response]
) -> None:
    with pytest.raises(errors.CloudUnreachable, match="cut"):
        reading(Road(source(chunk("Hel")), answer()), None)


def test_a_job_somebody_cancels_is_said_to_be_cancelled(reading: Reading) -> None:
    with pytest.raises(errors.JobCancelled):
        reading(Road(source(chunk("Hel"), CANCELLED)), None)


def test_a_fault_of_the_work_is_no_cut(reading: Reading) -> None:
    fault = source(chunk("Hel"), chunk("", "error"), END)
    road = Road(source(chunk("Hel")), fault)
    with pytest.raises(errors.JobFailed):
        reading(road, None)
    assert road.made(CANCEL) == 0


def test_leaving_a_later_connection_cancels_the_job(reading: Reading) -> None:
    again = source(*WHOLE)
    road = Road(source(chunk("Hel")), again)
    pieces, _none = reading(road, 2)

    assert pieces == ["Hel", "lo, "]
    assert road.made(CANCEL) == 1
    assert again.is_closed


def test_leaving_the_first_connection_says_enough(reading: Reading) -> None:
    first = source(*WHOLE)
    road = Road(first)
    reading(road, 1)

    assert first.is_closed
    assert road.made(CANCEL) == 0


def test_a_stream_that_is_closed_while_it_is_read_does_not_come_back() -> None:
    class Closed(TwinBody):
        def __iter__(self) -> Iterator[bytes]:
            yield f"{chunk('Hel')}\n\n".encode()
            stream.close()  # from another thread, which breaks what is read here
            raise httpx2.ReadError("closed")

    road = Road(Closed(), source(*WHOLE))
    stream = road.twin.client().stream("hi")
    with pytest.raises(errors.CloudUnreachable, match="closed"):
        list(stream)
    assert road.made(AGAIN) == 0
