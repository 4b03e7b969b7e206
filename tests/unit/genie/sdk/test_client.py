"""The client's calls: what is sent, and what becomes of the answer."""

from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

import genie
from fixtures.twin_cloud import TwinCloud
from genie import errors
from genie.contracts.inference import JobState
from genie.sdk.client import Client, default
from genie.sdk.credentials import Credentials, save

URL = "http://127.0.0.1:1"

CHOICE = {"index": 0, "message": {"role": "assistant", "content": "Hello"}}
HEAD = {"object": "chat.completion", "id": "chatcmpl-01a", "model": "m"}
COMPLETION = {**HEAD, "choices": [CHOICE]}
JOB = {"id": "01a", "status": "completed", "result": COMPLETION}


CHAT = "POST /v1/chat/completions"


def test_asking_sends_one_question_and_reads_its_answer() -> None:
    twin = TwinCloud({CHAT: COMPLETION})
    result = twin.client().ask("hi", persona="review", timeout=30)
    assert result.text == "Hello"
    assert twin.sent["persona"] == "review"
    assert twin.sent["mode"] == "sync"
    assert twin.sent["deadline_s"] == 30


def test_every_question_has_an_idempotency_key_of_its_own() -> None:
    twin = TwinCloud({CHAT: COMPLETION})
    twin.client().ask("hi")
    twin.client().ask("hi")
    first, second = (request.headers["idempotency-key"] for request in twin.requests)
    assert first != second


def test_an_idempotency_key_can_be_brought() -> None:
    twin = TwinCloud({CHAT: COMPLETION})
    twin.client().ask("hi", idempotency_key="mine")
    assert twin.requests[0].headers["idempotency-key"] == "mine"


def test_a_second_try_has_the_same_idempotency_key() -> None:
    twin = TwinCloud({CHAT: iter([httpx2.ReadError("reset"), COMPLETION])})
    assert twin.client(retry_s=1).ask("hi").text == "Hello"
    first, second = (request.headers["idempotency-key"] for request in twin.requests)
    assert first == second


def test_a_submitted_job_has_no_deadline_unless_given() -> None:
    later = {"id": "chatcmpl-01a", "status": "queued", "created": 1}
    twin = TwinCloud({CHAT: later, "GET /v1/jobs/01a": JOB})
    job = twin.client().submit("hi")
    assert twin.sent["mode"] == "async"
    assert "deadline_s" not in twin.sent
    assert job.id == "01a"
    assert job.result().text == "Hello"
    twin.client().submit("hi", timeout=60)
    assert twin.sent["deadline_s"] == 60


def test_a_job_is_found_with_its_prefix_too() -> None:
    twin = TwinCloud({"GET /v1/jobs/01a": JOB, "POST /v1/jobs/01a/cancel": JOB})
    assert twin.client().job("chatcmpl-01a").status is JobState.COMPLETED
    assert twin.client().job("01a").cancel().id == "01a"


def test_an_id_cannot_leave_its_place_in_the_path() -> None:
    twin = TwinCloud({"GET /v1/jobs/../keys": JOB})
    twin.client().job("../keys")
    assert twin.requests[0].url.raw_path == b"/v1/jobs/..%2Fkeys"


def test_filters_of_jobs_are_sent_as_given() -> None:
    twin = TwinCloud(
        {"GET /v1/jobs": {"object": "list", "data": [JOB], "has_more": False}}
    )
    found = twin.client().jobs(state="completed", limit=5, worker=None)
    assert [job.id for job in found] == ["01a"]
    assert dict(twin.requests[0].url.params) == {"state": "completed", "limit": "5"}


def test_a_filter_that_does_not_exist_is_named() -> None:
    with pytest.raises(
        TypeError, match="'status'; the options are: after, label, limit"
    ):
        TwinCloud({}).client().jobs(status="completed")  # type: ignore[call-arg]  # the point


def test_a_route_is_the_decision_with_its_reasons() -> None:
    route = {
        "model": "m",
        "queue": "genie",
        "class": "interactive",
        "reasons": ["fits"],
        "skipped": [{"model": "big", "why": "no memory"}],
    }
    twin = TwinCloud({"POST /v1/route": {"object": "route", "route": route}})
    found = twin.client().route("hi", persona="review")
    assert twin.sent == {"persona": "review", "input": "hi"}
    assert (found.model, found.work_class) == ("m", "interactive")
    assert found.skipped[0].why == "no memory"
    twin.client().route()
    assert twin.sent == {"persona": "chat"}


LISTS: list[tuple[str, Callable[[Client], object], object]] = [
    ("GET /v1/models", Client.models, {"id": "m", "object": "model"}),
    ("GET /v1/personas", Client.personas, {"id": "review", "ladder": ["m"]}),
    ("GET /v1/workers", Client.workers, {"id": "w1", "name": "gpu-1"}),
    ("GET /v1/queues", Client.queues, {"queue": "genie", "class": "job", "waiting": 2}),
    ("GET /v1/keys", Client.keys, {"id": "k1", "name": "ci"}),
]


@pytest.mark.parametrize(("path", "call", "item"), LISTS)
@pytest.mark.parametrize("is_wrapped", [True, False])
def test_a_list_is_read_wrapped_or_plain(
    path: str, call: Callable[[Client], object], item: object, is_wrapped: bool
) -> None:
    body = {"object": "list", "data": [item, item]} if is_wrapped else [item, item]
    found = call(TwinCloud({path: body}).client())
    assert isinstance(found, tuple)
    assert len(found) == 2


def test_a_key_is_made_and_revoked() -> None:
    made = {"id": "k1", "name": "ci", "secret": "sk-genie-a-2"}
    twin = TwinCloud({"POST /v1/keys": made, "DELETE /v1/keys/k1": made})
    assert (
        twin.client().create_key("ci", admin=True, models=["m"]).secret
        == "sk-genie-a-2"
    )
    assert twin.sent == {"name": "ci", "is_admin": True, "allowed_models": ["m"]}
    twin.client().revoke_key("k1")
    assert twin.requests[-1].method == "DELETE"


def test_a_join_token_can_be_for_queues() -> None:
    twin = TwinCloud({"POST /v1/join-tokens": {"token": "gj-1"}})
    assert twin.client().join_token(["org.acme"]).token == "gj-1"
    assert twin.sent == {"queues": ["org.acme"]}


def test_health_is_read_even_when_it_is_bad() -> None:
    sick = {"status": "unavailable", "checks": {"database": "down", "broker": "ok"}}
    twin = TwinCloud({"GET /health": httpx2.Response(503, json=sick)})
    assert twin.client().health().checks["database"] == "down"


def test_an_answer_of_something_else_says_what_to_look_at() -> None:
    twin = TwinCloud({"GET /v1/models": httpx2.Response(200, text="<html>")})
    with pytest.raises(
        errors.CodecError, match="does GENIE_URL point to a Genie cloud"
    ):
        twin.client().models()


def test_an_error_carries_its_request_id() -> None:
    refused = httpx2.Response(
        404,
        headers={"x-request-id": "req_7"},
        json={"error": {"message": "no model x", "code": "model_not_found"}},
    )
    with pytest.raises(errors.UnknownModel) as caught:
        TwinCloud({CHAT: refused}).client().ask("hi", model="x")
    assert caught.value.request_id == "req_7"


def test_the_client_finds_the_local_fleet(tmp_path: Path) -> None:
    save(tmp_path, Credentials(url=URL, api_key="sk-genie-local-1"))
    with Client() as client:
        assert client.url == URL
    assert default() is default()


def test_a_timeout_comes_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENIE_TIMEOUT_S", "7")
    with Client(URL) as client:
        assert client.timeout == 7.0


def test_asking_without_a_cloud_names_the_next_step() -> None:
    with pytest.raises(errors.SettingsError, match="genie up"):
        genie.ask("hi")
    with pytest.raises(errors.SettingsError, match="genie up"):
        genie.submit("hi")
    with pytest.raises(errors.SettingsError, match="genie up"):
        genie.stream("hi")


def test_a_stream_that_breaks_again_and_again_comes_back_ever_later() -> None:
    def broken() -> httpx2.Response:
        headers = {"x-genie-job-id": "01a"}
        return httpx2.Response(200, headers=headers, text=": queued position=1\n")

    rounds = iter([*(broken() for _ in range(5)), errors.CloudUnreachable("away")])
    twin = TwinCloud({CHAT: broken(), "GET /v1/jobs/01a/stream": rounds})
    with pytest.raises(errors.CloudUnreachable, match="ended in the middle"):
        list(twin.client().stream("hi"))
    assert len(twin.slept) == 6
    assert twin.slept == sorted(set(twin.slept))
