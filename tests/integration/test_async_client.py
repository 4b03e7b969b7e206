"""The awaiting client against a real HTTP server: many at once, cut off, cancelled."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import anyio
import pytest

import genie
from fixtures.scripted_cloud import (
    CHAT,
    COMPLETION,
    PATIENCE_S,
    Cloud,
    Request,
    chunk,
    completes,
)
from genie import errors
from genie.sdk.aio import AsyncClient, AsyncJob
from genie.sdk.streams import Waiting

T = TypeVar("T")

JOB = {"id": "01a", "status": "completed", "result": COMPLETION}


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    """A cloud that follows a script."""
    server = Cloud()
    yield server
    server.stop()


def run(cloud: Cloud, main: Callable[[AsyncClient], Awaitable[T]]) -> T:
    """What ``main`` returns, given a client of ``cloud``."""

    async def with_client() -> T:
        async with AsyncClient(cloud.url, "sk-genie-a-1", retry_s=2) as client:
            return await main(client)

    return asyncio.run(with_client())


def test_a_question_is_answered(cloud: Cloud) -> None:
    async def main(client: AsyncClient) -> str:
        return (await client.ask("hi")).text

    cloud.script[CHAT] = [completes]
    assert run(cloud, main) == "Hello"
    assert cloud.headers[0]["authorization"] == "Bearer sk-genie-a-1"


def test_it_runs_on_trio_as_well(cloud: Cloud) -> None:
    async def main() -> str:
        async with AsyncClient(cloud.url) as client:
            return (await (await client.submit("hi")).result()).text

    cloud.script[CHAT] = [lambda r: r.say(202, {"id": "01a", "status": "queued"})]
    cloud.script["/v1/jobs/01a"] = [
        lambda r: r.say(200, {"id": "01a", "status": "running"}),
        lambda r: r.say(200, JOB),
    ]
    assert anyio.run(main, backend="trio") == "Hello"


def test_questions_are_asked_at_once_on_one_thread(cloud: Cloud) -> None:
    everybody = threading.Barrier(8)

    def together(request: Request) -> None:
        everybody.wait(PATIENCE_S)
        completes(request)

    async def main(client: AsyncClient) -> list[str]:
        asked = [client.ask("hi") for _ in range(8)]
        return [result.text for result in await asyncio.gather(*asked)]

    cloud.script[CHAT] = [together]
    assert run(cloud, main) == ["Hello"] * 8


def test_a_connection_cut_before_the_answer_is_tried_again_with_the_same_key(
    cloud: Cloud,
) -> None:
    async def main(client: AsyncClient) -> str:
        return (await client.ask("hi")).text

    cloud.script[CHAT] = [Request.cut, completes]
    assert run(cloud, main) == "Hello"
    assert len({headers["idempotency-key"] for headers in cloud.headers}) == 1


def test_a_cloud_that_is_not_there_is_said_so(free_port: Callable[[], int]) -> None:
    async def main() -> None:
        url = f"http://127.0.0.1:{free_port()}"
        async with AsyncClient(url, retry_s=0.3) as client:
            await client.ask("hi")

    with pytest.raises(errors.CloudUnreachable, match="`genie up`"):
        asyncio.run(main())


def test_pieces_arrive_while_the_answer_is_written(cloud: Cloud) -> None:
    has_read = threading.Event()
    waits: list[Waiting] = []

    def answer(request: Request) -> None:
        request.open_stream()
        request.tell(": queued position=1 eta_s=0.5")
        request.tell(chunk("Hel"))
        assert has_read.wait(PATIENCE_S)
        request.tell(chunk("lo"))
        request.tell(chunk("", "stop"))
        request.tell("data: [DONE]")

    async def main(client: AsyncClient) -> tuple[list[str], str]:
        stream = await client.stream("hi", on_wait=waits.append)
        pieces = [await anext(stream)]
        has_read.set()
        pieces += [piece async for piece in stream]
        return pieces, stream.result.text

    cloud.script[CHAT] = [answer]
    assert run(cloud, main) == (["Hel", "lo"], "Hello")
    assert waits == [Waiting(position=1, eta_s=0.5)]


def test_cancelling_a_reader_hangs_up_on_the_cloud(cloud: Cloud) -> None:
    has_hung_up = threading.Event()

    def endless(request: Request) -> None:
        request.open_stream()
        try:
            while True:
                request.tell(chunk("x" * 1000))
        except OSError:
            has_hung_up.set()

    async def main(client: AsyncClient) -> None:
        async def read() -> None:
            async with await client.stream("hi") as stream:
                async for _piece in stream:
                    is_reading.set()

        is_reading = asyncio.Event()
        task = asyncio.create_task(read())
        await asyncio.wait_for(is_reading.wait(), PATIENCE_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    cloud.script[CHAT] = [endless]
    run(cloud, main)
    assert has_hung_up.wait(PATIENCE_S)


def test_cancelling_a_question_frees_its_connection(cloud: Cloud) -> None:
    is_asked, is_over = threading.Event(), threading.Event()

    def silent(_request: Request) -> None:
        is_asked.set()
        assert is_over.wait(PATIENCE_S)

    async def main(client: AsyncClient) -> str:
        task = asyncio.create_task(client.ask("hi"))
        await asyncio.to_thread(is_asked.wait, PATIENCE_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        is_over.set()
        return (await client.ask("hi again")).text

    cloud.script[CHAT] = [silent, completes]
    assert run(cloud, main) == "Hello"


def test_waiting_ends_after_its_timeout_and_the_job_goes_on(cloud: Cloud) -> None:
    async def main(client: AsyncClient) -> None:
        await (await client.submit("hi")).result(timeout=0.2)

    cloud.script[CHAT] = [lambda r: r.say(202, {"id": "01a", "status": "queued"})]
    cloud.script["/v1/jobs/01a"] = [
        lambda r: r.say(200, {"id": "01a", "status": "running"})
    ]
    with pytest.raises(errors.JobTimeout, match="still running") as caught:
        run(cloud, main)
    assert caught.value.error_code == "wait_timeout"


def test_a_follower_goes_on_where_the_connection_broke(cloud: Cloud) -> None:
    def event(name: str) -> str:
        return f'id: {name}\nevent: {name}\ndata: {{"event": "{name}", "at": 1}}'

    def first(request: Request) -> None:
        request.open_stream()
        request.tell(event("accepted"))
        request.tell(event("started-1"))
        request.cut()

    def second(request: Request) -> None:
        request.open_stream()
        request.tell(event("completed"))

    async def main(client: AsyncClient) -> list[str]:
        return [one.event async for one in (await client.job("01a")).events()]

    cloud.script["/v1/jobs/01a"] = [lambda r: r.say(200, JOB)]
    cloud.script["/v1/jobs/01a/events"] = [first, second]
    assert run(cloud, main) == ["accepted", "started-1", "completed"]
    assert [headers.get("last-event-id") for headers in cloud.headers[1:]] == [
        None,
        "started-1",
    ]


def test_a_job_is_read_on_where_the_connection_broke(cloud: Cloud) -> None:
    def first(request: Request) -> None:
        request.open_stream()
        request.tell(chunk("Hel"))
        request.cut()

    def second(request: Request) -> None:
        request.open_stream()
        request.tell(chunk("He"))
        request.tell(chunk("llo"))
        request.tell(chunk("", "stop"))
        request.tell("data: [DONE]")

    async def main(client: AsyncClient) -> list[str]:
        return [piece async for piece in (await client.job("01a")).stream()]

    cloud.script["/v1/jobs/01a"] = [lambda r: r.say(200, JOB)]
    cloud.script["/v1/jobs/01a/stream"] = [first, second]
    assert run(cloud, main) == ["Hel", "lo"]


def test_a_callback_is_called_and_awaited_at_the_end(cloud: Cloud) -> None:
    async def main(client: AsyncClient) -> str:
        told: asyncio.Queue[str] = asyncio.Queue()

        async def tell(job: AsyncJob) -> None:
            await told.put(job.id)

        (await client.job("01a")).add_done_callback(tell)
        return await asyncio.wait_for(told.get(), PATIENCE_S)

    cloud.script["/v1/jobs/01a"] = [lambda r: r.say(200, JOB)]
    assert run(cloud, main) == "01a"


def test_many_jobs_are_gathered_and_mapped(cloud: Cloud) -> None:
    async def main(client: AsyncClient) -> list[str]:
        jobs = [await client.submit("a"), await client.submit("b")]
        gathered = [result.text for result in await client.gather(jobs)]
        return gathered + [r.text async for r in client.map(["a", "b"])]

    numbers = iter(range(10))
    cloud.script[CHAT] = [
        lambda r: r.say(202, JOB | {"id": f"0{next(numbers)}"}),
    ]
    for number in range(4):
        cloud.script[f"/v1/jobs/0{number}"] = [
            lambda r: r.say(200, JOB | {"id": r.path.rpartition("/")[2]})
        ]
    assert run(cloud, main) == ["Hello"] * 4


def test_a_slow_disk_stops_nobody(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def slowly(path: Path) -> Iterator[bytes]:
        time.sleep(1)
        yield path.read_bytes()

    async def main(client: AsyncClient) -> tuple[str, int]:
        upload = asyncio.create_task(client.files.upload(tmp_path / "work.jsonl"))
        turns = 0
        while not upload.done():
            await asyncio.sleep(0.01)
            turns += 1
        return (await upload).id, turns

    (tmp_path / "work.jsonl").write_bytes(b"one")
    monkeypatch.setattr("genie.sdk.files.pieces", slowly)
    cloud.script["/v1/files"] = [lambda r: r.say(200, {"id": "file-1"})]
    file_id, turns = run(cloud, main)
    assert file_id == "file-1"
    assert b"one" in cloud.bodies[0]
    assert turns > 5  # others ran while the disk was read


def test_the_package_names_it() -> None:
    assert genie.AsyncClient is AsyncClient
