"""A stream whose connection breaks, of both clients, comes back to its answer."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from genie import errors
from genie.sdk.aio import AsyncStream
from genie.sdk.results import Result
from genie.sdk.retries import ConnectionBroken
from genie.sdk.streams import Stream
from unit.genie.sdk.test_streams import END, LAST, TALLY, TwinSource, chunk

WHOLE = (chunk(""), chunk("Hel"), chunk("lo, "), chunk("you"), LAST, TALLY, END)
CANCELLED = (
    'data: {"error": {"message": "cancelled", "type": "x", "param": null, '
    '"code": "job_cancelled"}}'
)


class Source(TwinSource):
    """Lines after which the connection breaks, unless they are the whole answer."""

    def lines(self) -> Iterator[str]:
        yield from self._lines
        raise ConnectionBroken("cut")


class Road:
    """The connections that tell it again, one after the other."""

    def __init__(self, *sources: Source | errors.GenieError) -> None:
        self._sources = list(sources)
        self.made: list[Source] = []
        self.cancels = 0

    def again(self) -> Source:
        source = self._sources.pop(0)
        if isinstance(source, errors.GenieError):
            raise source
        self.made.append(source)
        return source

    def cancel(self) -> None:
        self.cancels += 1


class AsyncRoad:
    """The same, awaited."""

    def __init__(self, road: Road) -> None:
        self._road = road

    async def again(self) -> "AsyncTwin":
        return AsyncTwin(self._road.again())

    async def cancel(self) -> None:
        self._road.cancel()


class AsyncTwin:
    """A source, awaited."""

    def __init__(self, source: Source) -> None:
        self._source = source

    async def lines(self) -> AsyncIterator[str]:
        for line in self._source.lines():
            yield line

    async def aclose(self) -> None:
        self._source.close()


Reading = Callable[[Source, Road, int | None], tuple[list[str], Result | None]]


def plainly(
    first: Source, road: Road, most: int | None = None
) -> tuple[list[str], Result | None]:
    pieces = []
    with Stream(first, way=road, job_id="01a") as stream:
        for piece in stream:
            pieces.append(piece)
            if len(pieces) == most:
                return pieces, None
    return pieces, stream.result


def awaited(
    first: Source, road: Road, most: int | None = None
) -> tuple[list[str], Result | None]:
    async def read() -> tuple[list[str], Result | None]:
        pieces = []
        source, way = AsyncTwin(first), AsyncRoad(road)
        async with AsyncStream(source, way=way, job_id="01a") as stream:
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
    first = Source(chunk(""), chunk("Hel"), chunk("lo, "))
    road = Road(Source(chunk(""), chunk("He")), Source(*WHOLE))
    pieces, result = reading(first, road, None)

    assert pieces == ["Hel", "lo, ", "you"]
    assert result is not None
    assert (result.text, result.usage.completion_tokens) == ("Hello, you", 2)
    assert first.is_closed
    assert all(source.is_closed for source in road.made)
    assert road.cancels == 0


def test_what_comes_in_larger_pieces_the_second_time_is_given_once(
    reading: Reading,
) -> None:
    road = Road(Source(chunk("Hello, you"), LAST, END))
    pieces, _result = reading(Source(chunk("Hel")), road, None)

    assert pieces == ["Hel", "lo, you"]


def test_an_answer_that_another_worker_begins_anew_is_not_sewn_on(
    reading: Reading,
) -> None:
    road = Road(Source(chunk("Good"), chunk(" morning"), LAST, END))
    with pytest.raises(errors.JobFailed, match="another answer"):
        reading(Source(chunk("Hel"), chunk("lo")), road, None)
    assert road.cancels == 0


def test_each_connection_is_held_to_all_that_was_given(reading: Reading) -> None:
    road = Road(Source(chunk("H")), Source(chunk("He")), Source(*WHOLE))
    pieces, _result = reading(Source(chunk("Hel")), road, None)

    assert pieces == ["Hel", "lo, ", "you"]


def test_a_connection_that_brings_nothing_is_the_last(reading: Reading) -> None:
    road = Road(Source(), Source(*WHOLE))
    with pytest.raises(errors.CloudUnreachable, match="cut"):
        reading(Source(chunk("Hel")), road, None)
    assert len(road.made) == 1


@pytest.mark.parametrize(
    "answer",
    [Source(CANCELLED), errors.JobCancelled("gone"), errors.UnknownJob("unknown")],
)
def test_a_cut_that_the_cloud_took_for_our_leaving_is_said_as_a_cut(
    reading: Reading, answer: Source | errors.GenieError
) -> None:
    with pytest.raises(errors.CloudUnreachable, match="cut"):
        reading(Source(chunk("Hel")), Road(answer), None)


def test_a_job_somebody_cancels_is_said_to_be_cancelled(reading: Reading) -> None:
    with pytest.raises(errors.JobCancelled):
        reading(Source(chunk("Hel"), CANCELLED), Road(), None)


def test_a_fault_of_the_work_is_no_cut(reading: Reading) -> None:
    fault = chunk("", "error")
    road = Road(Source(chunk("Hel"), fault, END))
    with pytest.raises(errors.JobFailed):
        reading(Source(chunk("Hel")), road, None)
    assert road.cancels == 0


def test_leaving_a_later_connection_cancels_the_job(reading: Reading) -> None:
    road = Road(Source(*WHOLE))
    pieces, _none = reading(Source(chunk("Hel")), road, 2)

    assert pieces == ["Hel", "lo, "]
    assert road.cancels == 1
    assert road.made[0].is_closed


def test_leaving_the_first_connection_says_enough(reading: Reading) -> None:
    first, road = Source(*WHOLE), Road()
    reading(first, road, 1)

    assert first.is_closed
    assert road.cancels == 0


def test_a_stream_that_is_closed_while_it_is_read_does_not_come_back() -> None:
    class Closed(Source):
        def lines(self) -> Iterator[str]:
            yield chunk("Hel")
            stream.close()  # from another thread, which breaks what is read here
            raise ConnectionBroken("closed")

    road = Road(Source(*WHOLE))
    stream = Stream(Closed(), way=road, job_id="01a")
    with pytest.raises(errors.CloudUnreachable, match="closed"):
        list(stream)
    assert road.made == []
