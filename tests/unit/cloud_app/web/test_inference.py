import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
from flask import Flask
from flask.testing import FlaskClient
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.completion import Completion

from cloud_app.context import Context
from cloud_app.jobs import lifecycle
from fixtures import web
from fixtures.web import TwinBus
from genie.contracts.inference import Event, InferenceTask, JobState
from genie.errors import DatabaseDown

CHAT = "/v1/chat/completions"


def ask(**more: object) -> dict[str, object]:
    return {"model": "chat", "messages": [{"role": "user", "content": "hi"}], **more}


def events(text: str) -> list[Any]:
    lines = [line for line in text.split("\n") if line.startswith("data: ")]
    bodies = [line.removeprefix("data: ") for line in lines]
    return [json.loads(body) for body in bodies if body != "[DONE]"]


def error(response: Any) -> dict[str, Any]:
    found: dict[str, Any] = response.get_json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found


def test_a_waited_for_answer_has_openais_shape_and_says_where_it_was_made(
    client: FlaskClient,
) -> None:
    response = client.post(CHAT, json=ask())

    answer = ChatCompletion.model_validate(response.get_json())
    assert answer.choices[0].message.content == "hello world"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 7
    assert answer.system_fingerprint == "f" * 12
    genie = response.get_json()["genie"]
    assert genie["worker"] == "atlas"
    assert genie["locality"] == "local"
    assert genie["tokens_per_s"] == 2.5
    assert response.get_json()["model_substituted"] is None


def test_every_answer_carries_its_request_and_where_there_is_one_its_job(
    client: FlaskClient,
) -> None:
    response = client.post(CHAT, json=ask(), headers={"X-Request-Id": "mine-1"})

    assert response.headers["x-request-id"] == "mine-1"
    assert response.get_json()["id"] == f"chatcmpl-{response.headers['x-genie-job-id']}"
    assert response.headers["x-genie-model"] == "echo:small"
    assert response.headers["x-genie-locality"] == "local"
    assert response.headers["x-genie-worker"] == "atlas"
    assert client.get("/v1/jobs/none").headers["x-request-id"].startswith("req_")


def test_a_stream_is_a_role_then_text_then_the_end(client: FlaskClient) -> None:
    response = client.post(CHAT, json=ask(stream=True))

    assert response.content_type.startswith("text/event-stream")
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert response.text.endswith("data: [DONE]\n\n")
    chunks = [ChatCompletionChunk.model_validate(e) for e in events(response.text)]
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [c.choices[0].delta.content or "" for c in chunks]
    assert texts == ["", "hello", " world", ""]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert events(response.text)[-1]["genie"]["worker"] == "atlas"


def test_a_stream_ends_with_the_usage_for_those_who_ask(client: FlaskClient) -> None:
    options = {"include_usage": True}
    response = client.post(CHAT, json=ask(mode="stream", stream_options=options))

    last = ChatCompletionChunk.model_validate(events(response.text)[-1])
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 2


def test_without_a_live_worker_only_what_nobody_waits_for_is_accepted(
    client: FlaskClient, ctx: Context, bus: TwinBus
) -> None:
    bus.work = lambda _task: ()  # the worker is away
    cast(web.Clock, ctx.now).pass_s(3600)

    refused = client.post(CHAT, json=ask())
    assert (refused.status_code, error(refused)["code"]) == (503, "no_capacity")

    accepted = client.post(CHAT, json=ask(mode="async"))
    assert accepted.status_code == 202
    job = client.get(f"/v1/jobs/{accepted.get_json()['id']}").get_json()
    assert job["status"] == "queued"
    assert "atlas (lost) to return" in job["route"]["waits"]
    assert [task.job_id for task in bus.published] == [job["id"]]

    asked = {"persona": "chat", "mode": "async"}
    shown = client.post("/v1/route", json=asked).get_json()["route"]
    assert shown["waits"] == job["route"]["waits"]
    refusal = client.post("/v1/route", json={"persona": "chat"}).get_json()["route"]
    assert refusal["refused"] == "no_capacity"


def test_an_async_request_is_accepted_with_a_place_to_ask(
    client: FlaskClient, bus: TwinBus
) -> None:
    response = client.post(CHAT, json=ask(mode="async"))

    assert response.status_code == 202
    body = response.get_json()
    assert body["object"] == "chat.completion.async"
    assert body["status"] == "queued"
    assert response.headers["Location"] == body["polling_url"]
    job = client.get(body["polling_url"]).get_json()
    assert job["status"] == "completed"
    result = ChatCompletion.model_validate(job["result"])
    assert result.choices[0].message.content == "hello world"
    assert bus.published[0].reply_to is None


def test_a_plain_completion_sends_the_prompt_as_it_is(
    client: FlaskClient, bus: TwinBus
) -> None:
    response = client.post("/v1/completions", json={"model": "chat", "prompt": "Once"})

    answer = Completion.model_validate(response.get_json())
    assert answer.id.startswith("cmpl-")
    assert answer.choices[0].text == "hello world"
    assert bus.published[0].prompt == "Once"
    assert bus.published[0].messages == ()


def test_a_plain_completion_streams_without_a_role(client: FlaskClient) -> None:
    body = {"model": "chat", "prompt": "Once", "stream": True}
    response = client.post("/v1/completions", json=body)

    pieces = [e["choices"][0] for e in events(response.text)]
    assert [p["text"] for p in pieces] == ["hello", " world", ""]
    assert [p["finish_reason"] for p in pieces] == [None, None, "stop"]


def test_text_parts_are_joined_and_the_developer_speaks_as_the_system(
    client: FlaskClient, bus: TwinBus
) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": parts, "name": "eve"},
    ]
    client.post(CHAT, json=ask(messages=messages))

    system, user = bus.published[0].messages
    assert (system.role, system.content) == ("system", "be brief")
    assert (user.content, user.name) == ("a\nb", "eve")


def test_sampling_reaches_the_worker_and_what_is_not_said_is_the_personas(
    client: FlaskClient, bus: TwinBus
) -> None:
    given = {"temperature": 0.5, "stop": "END", "seed": 7, "logit_bias": {"12": -3}}
    client.post(CHAT, json=ask(max_completion_tokens=9, **given))

    sampling = bus.published[0].sampling
    assert sampling.max_tokens == 9
    assert sampling.temperature == 0.5
    assert sampling.stop == ("END",)
    assert sampling.logit_bias == {"12": -3.0}
    assert sampling.top_p == 1.0


def test_fields_nobody_knows_and_harmless_values_are_let_through(
    client: FlaskClient,
) -> None:
    harmless = {"tools": [], "tool_choice": "none", "n": 1, "logprobs": False}
    text = {"response_format": {"type": "text"}, "store": True, "user": "u1"}

    assert client.post(CHAT, json=ask(**harmless, **text)).status_code == 200


def test_json_without_a_content_type_is_read_as_json(client: FlaskClient) -> None:
    assert client.post(CHAT, data=json.dumps(ask())).status_code == 200


def test_the_same_idempotency_key_gives_the_same_job_and_another_body_a_conflict(
    client: FlaskClient, bus: TwinBus
) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = client.post(CHAT, json=ask(), headers=headers)
    again = client.post(CHAT, json=ask(), headers=headers)
    other = client.post(CHAT, json=ask(seed=1), headers=headers)

    assert first.get_json()["id"] == again.get_json()["id"]
    assert again.headers["x-genie-replayed"] == "true"
    assert again.get_json()["choices"] == first.get_json()["choices"]
    assert len(bus.published) == 1
    assert other.status_code == 409


def test_a_broker_that_is_away_means_503_and_when_to_come_again(
    client: FlaskClient, bus: TwinBus
) -> None:
    bus.is_down = True
    response = client.post(CHAT, json=ask())

    assert response.status_code == 503
    assert 0 < int(response.headers["Retry-After"]) <= 120
    assert error(response)["code"] == "broker_unavailable"


def test_work_that_is_in_its_queue_was_accepted_whatever_happens_next(
    client: FlaskClient, bus: TwinBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def confirmed(_ctx: Context, _job_id: str) -> None:
        raise DatabaseDown("the database went away in this very moment")

    bus.work = lambda _task: ()
    monkeypatch.setattr(lifecycle, "mark_confirmed", confirmed)
    response = client.post(CHAT, json=ask(mode="async"))
    assert response.status_code == 202
    assert len(bus.published) == 1


def test_a_job_that_fails_is_told_with_its_reason(
    client: FlaskClient, bus: TwinBus
) -> None:
    bus.work = web.failing("load_failed", "the model does not load")
    response = client.post(CHAT, json=ask())

    assert response.status_code == 500
    assert error(response)["code"] == "load_failed"
    assert error(response)["message"] == "the model does not load"


def test_a_stream_says_a_failure_in_a_chunk_and_an_error_and_closes(
    client: FlaskClient, bus: TwinBus
) -> None:
    bus.work = web.failing("load_failed", "the model does not load")
    response = client.post(CHAT, json=ask(stream=True))

    assert response.status_code == 200
    *_, last, fault = events(response.text)
    assert last["choices"][0]["finish_reason"] == "error"
    assert fault["error"]["code"] == "load_failed"
    assert "[DONE]" not in response.text


def test_a_long_prompt_goes_to_a_rung_with_more_context(
    client: FlaskClient, bus: TwinBus
) -> None:
    messages = [{"role": "user", "content": "word " * 3000}]
    response = client.post(CHAT, json={"persona": "chat", "messages": messages})
    assert response.status_code == 200
    assert [task.model for task in bus.published] == ["echo:large"]


def test_closing_a_stream_cancels_the_job_and_frees_the_place(
    app: Flask, client: FlaskClient, ctx: Context, bus: TwinBus
) -> None:
    def endless(task: InferenceTask) -> Iterator[Event]:
        yield from list(web.answer(task))[:-1]

    bus.work = endless
    limit = app.extensions["genie.stream_limit"]
    response = client.post(CHAT, json=ask(stream=True), buffered=False)
    body = response.iter_encoded()
    next(body)
    assert limit.taken == 1

    response.close()
    response.close()

    assert limit.taken == 0
    job = lifecycle.get(ctx, web.ORG, response.headers["x-genie-job-id"])
    assert job.state is JobState.CANCELLED


def test_a_stream_that_is_never_read_cancels_its_job_too(
    app: Flask, client: FlaskClient, ctx: Context, bus: TwinBus
) -> None:
    bus.work = lambda task: [web.started(task), *list(web.answer(task))[1:2]]
    response = client.post(CHAT, json=ask(stream=True), buffered=False)

    response.close()

    assert app.extensions["genie.stream_limit"].taken == 0
    job = lifecycle.get(ctx, web.ORG, response.headers["x-genie-job-id"])
    assert job.state is JobState.CANCELLED


def test_without_a_free_place_waiting_requests_are_refused_and_others_served(
    app: Flask, client: FlaskClient
) -> None:
    limit = app.extensions["genie.stream_limit"]
    for _ in range(limit.total):
        limit.take()
    refused = client.post(CHAT, json=ask())

    assert refused.status_code == 503
    assert error(refused)["code"] == "too_many_waiting"
    assert refused.headers["Retry-After"] == "2"
    assert client.post(CHAT, json=ask(mode="async")).status_code == 202
    limit.give_back()
    assert client.post(CHAT, json=ask()).status_code == 200
    assert limit.taken == limit.total - 1


def test_a_refused_request_gives_its_place_back(
    app: Flask, client: FlaskClient
) -> None:
    for stream in (False, True):
        client.post(CHAT, json=ask(model="nobody", stream=stream))

    assert app.extensions["genie.stream_limit"].taken == 0
