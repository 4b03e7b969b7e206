"""The client against a real HTTP server on loopback: sockets, streams, broken lines."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

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
from genie.sdk.client import Client
from genie.sdk.streams import Waiting


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    """A cloud that follows a script."""
    server = Cloud()
    yield server
    server.stop()


@pytest.fixture
def client(cloud: Cloud) -> Iterator[Client]:
    """A client of that cloud."""
    with Client(cloud.url, "sk-genie-a-1") as made:
        yield made


def test_a_question_is_answered(cloud: Cloud, client: Client) -> None:
    cloud.script[CHAT] = [completes]
    assert client.ask("hi").text == "Hello"
    assert cloud.headers[0]["authorization"] == "Bearer sk-genie-a-1"
    assert cloud.headers[0]["user-agent"].startswith("genie-python/")


def test_a_connection_cut_before_the_answer_is_tried_again_with_the_same_key(
    cloud: Cloud, client: Client
) -> None:
    cloud.script[CHAT] = [Request.cut, Request.cut, completes]
    assert client.ask("hi").text == "Hello"
    assert len(cloud.headers) == 3
    assert len({headers["idempotency-key"] for headers in cloud.headers}) == 1
    assert len(set(cloud.bodies)) == 1


def test_a_busy_cloud_is_asked_again(cloud: Cloud, client: Client) -> None:
    def busy(request: Request) -> None:
        request.say(503, {"error": {"message": "busy"}}, retry_after="0")

    cloud.script[CHAT] = [busy, completes]
    assert client.ask("hi").text == "Hello"


def test_a_cloud_that_is_not_there_is_said_so(free_port: Callable[[], int]) -> None:
    client = Client(f"http://127.0.0.1:{free_port()}", retry_s=0.3)
    with client, pytest.raises(errors.CloudUnreachable, match="`genie up`"):
        client.ask("hi")


def test_a_cloud_that_restarts_finishes_the_job_for_us(
    free_port: Callable[[], int],
) -> None:
    port = free_port()
    asked_once, is_down = threading.Event(), threading.Event()

    def running(request: Request) -> None:
        request.close_connection = True  # a process that ends takes them along
        request.say(200, {"id": "01a", "status": "running"}, connection="close")
        asked_once.set()

    def restart() -> None:
        assert asked_once.wait(PATIENCE_S)
        clouds[0].stop()
        is_down.set()
        clouds.append(Cloud(port))
        clouds[1].script["/v1/jobs/01a"] = [
            lambda r: r.say(
                200, {"id": "01a", "status": "completed", "result": COMPLETION}
            )
        ]

    clouds = [Cloud(port)]
    clouds[0].script = {
        CHAT: [lambda r: r.say(202, {"id": "chatcmpl-01a", "status": "queued"})],
        "/v1/jobs/01a": [running],
    }
    restarter = threading.Thread(target=restart)
    restarter.start()
    try:
        with Client(clouds[0].url, retry_s=0.2) as client:
            assert client.submit("hi").result(timeout=PATIENCE_S).text == "Hello"
    finally:
        restarter.join(PATIENCE_S)
        clouds[-1].stop()
    assert is_down.is_set()


def test_the_first_piece_arrives_before_the_last_is_written(
    cloud: Cloud, client: Client
) -> None:
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

    cloud.script[CHAT] = [answer]
    stream = client.stream("hi", on_wait=waits.append)
    assert next(stream) == "Hel"
    has_read.set()
    assert list(stream) == ["lo"]
    assert stream.result.text == "Hello"
    assert stream.job_id == "01a"
    assert waits == [Waiting(position=1, eta_s=0.5)]


def test_closing_a_stream_hangs_up_on_the_cloud(cloud: Cloud, client: Client) -> None:
    has_hung_up = threading.Event()

    def endless(request: Request) -> None:
        request.open_stream()
        try:
            while True:
                request.tell(chunk("x" * 1000))
        except OSError:
            has_hung_up.set()

    cloud.script[CHAT] = [endless]
    with client.stream("hi") as stream:
        assert next(stream).startswith("x")
    assert has_hung_up.wait(PATIENCE_S)


def test_a_stream_that_is_cut_is_no_answer(cloud: Cloud, client: Client) -> None:
    def cut_short(request: Request) -> None:
        request.open_stream()
        request.tell(chunk("Hel"))

    cloud.script[CHAT] = [cut_short]
    stream = client.stream("hi")
    with pytest.raises(errors.CloudUnreachable, match="middle of the answer"):
        list(stream)


def test_a_refusal_before_a_stream_is_raised_at_once(
    cloud: Cloud, client: Client
) -> None:
    def refuse(request: Request) -> None:
        error = {"message": "there is no model x", "code": "model_not_found"}
        request.say(404, {"error": error}, x_request_id="req_7")

    cloud.script[CHAT] = [refuse]
    with pytest.raises(errors.UnknownModel, match="no model x") as caught:
        client.stream("hi", model="x")
    assert caught.value.request_id == "req_7"


def test_a_cloud_that_never_answers_is_given_up(
    cloud: Cloud, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_over = threading.Event()
    cloud.script["/health"] = [lambda _: assert_set(is_over)]
    monkeypatch.setattr("genie.sdk.verbs.PROBE_S", 0.2)
    with pytest.raises(errors.CloudUnreachable, match="did not answer"):
        client.health()
    is_over.set()


def assert_set(event: threading.Event) -> None:
    """Wait for an event that must come."""
    assert event.wait(PATIENCE_S)


def test_the_package_asks_the_cloud_of_the_environment(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GENIE_HOME", str(tmp_path))
    monkeypatch.setenv("GENIE_URL", cloud.url)
    monkeypatch.setenv("GENIE_API_KEY", "sk-genie-a-2")
    # a proxy is for the world outside, never for this machine's own address
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    cloud.script[CHAT] = [completes]
    assert genie.ask("hi").text == "Hello"
    assert cloud.headers[0]["authorization"] == "Bearer sk-genie-a-2"
