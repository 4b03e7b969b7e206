"""Every way to call the product answers, on a fleet in its production shape."""

import json
import subprocess

import pytest
from openai import NotFoundError, OpenAI
from openai.types.chat import ChatCompletionUserMessageParam

from fixtures.fleet import Fleet, wait_until
from genie import Client
from genie.contracts.inference import JobState, Locality
from genie.errors import Unauthorized, UnknownModel


def user(text: str) -> ChatCompletionUserMessageParam:
    return {"role": "user", "content": text}


def test_ask_answers_and_says_who_answered(client: Client) -> None:
    result = client.ask("one two three", persona="chat", max_tokens=6)
    assert result.text.split() == ["one", "two", "three", "one", "two", "three"]
    assert result.worker in ("atlas", "borealis")
    assert (result.model, result.locality) == ("echo:small", Locality.LOCAL)
    assert result.usage.completion_tokens == 6


def test_submit_gives_a_job_whose_result_comes(client: Client) -> None:
    job = client.submit("alpha beta", persona="review", max_tokens=4)
    assert job.result(timeout=30).text.split() == ["alpha", "beta", "alpha", "beta"]
    assert client.job(job.id).status is JobState.COMPLETED


def test_stream_gives_the_answer_in_pieces(client: Client) -> None:
    with client.stream("a b c", max_tokens=30) as stream:
        pieces = list(stream)
    assert len(pieces) > 3
    assert "".join(pieces) == stream.result.text
    assert stream.result.usage.completion_tokens == 30


def test_a_hundred_requests_are_answered_by_both_workers(client: Client) -> None:
    jobs = [client.submit(f"word{n}", max_tokens=1) for n in range(100)]
    results = [job.result(timeout=60) for job in jobs]
    assert [r.text.strip() for r in results] == [f"word{n}" for n in range(100)]
    assert {r.worker for r in results} == {"atlas", "borealis"}


def test_the_openai_chats(openai: OpenAI) -> None:
    answer = openai.chat.completions.create(
        model="chat", messages=[user("hello there")], max_tokens=2
    )
    assert (answer.choices[0].message.content or "").split() == ["hello", "there"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2


def test_the_openai_streams(openai: OpenAI) -> None:
    chunks = list(
        openai.chat.completions.create(
            model="echo:small",
            messages=[user("x y z")],
            max_tokens=9,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text.split() == ["x", "y", "z", "x", "y", "z", "x", "y", "z"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 9


def test_the_openai_asks_for_later_and_polls(openai: OpenAI) -> None:
    accepted = openai.chat.completions.with_raw_response.create(
        model="chat",
        messages=[user("later please")],
        max_tokens=2,
        extra_body={"mode": "async", "persona": "review"},
    )
    assert accepted.status_code == 202
    ticket = json.loads(accepted.text)
    assert (ticket["object"], ticket["status"]) == ("chat.completion.async", "queued")
    path = ticket["polling_url"].partition("/v1")[2]

    def is_completed() -> bool:
        job = openai.get(path, cast_to=dict[str, object])
        return job["status"] == "completed"

    wait_until(is_completed, 30, "the job completes")
    job = openai.get(path, cast_to=dict[str, object])
    assert "later please" in json.dumps(job["result"])


def test_the_openai_lists_models(openai: OpenAI) -> None:
    assert {"echo:small", "echo:large"} <= {m.id for m in openai.models.list()}


def test_an_unknown_model_is_a_404_with_suggestions(openai: OpenAI) -> None:
    with pytest.raises(NotFoundError, match="echo:small"):
        openai.chat.completions.create(model="echo:smal", messages=[user("hello")])


def test_curl_gets_an_answer(fleet: Fleet) -> None:
    body = json.dumps({"model": "chat", "messages": [user("curl")], "max_tokens": 1})
    done = subprocess.run(
        [
            *("curl", "-sS", "-i", f"{fleet.url}/v1/chat/completions"),
            *("-H", f"Authorization: Bearer {fleet.api_key}"),
            *("-H", "Content-Type: application/json", "-d", body),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    head, _, answer = done.stdout.partition("\n\n")
    assert json.loads(answer)["choices"][0]["message"]["content"].strip() == "curl"
    for header in ("x-request-id", "x-genie-job-id", "x-genie-model: echo:small"):
        assert header in head.lower()


def test_the_command_line_asks_and_lists(fleet: Fleet) -> None:
    environ = {"GENIE_URL": fleet.url, "GENIE_API_KEY": fleet.api_key}
    assert "hi" in fleet.run("genie", "ask", "hi", "--max-tokens", "1", **environ)
    workers = json.loads(fleet.run("genie", "workers", "--json", **environ))
    assert {worker["name"] for worker in workers} == {"atlas", "borealis"}
    assert "echo:small" in fleet.run("genie", "models", **environ)
    assert "echo:small" in fleet.run("genie", "route", "-p", "review", "x", **environ)
    assert "completed" in fleet.run("genie", "jobs", **environ)
    assert "genie" in fleet.run("genie", "queues", **environ)
    fleet.run("genie", "doctor", **environ)


def test_a_revoked_key_is_refused(fleet: Fleet, client: Client) -> None:
    made = client.create_key("for a moment")
    assert made.secret is not None
    with Client(url=fleet.url, api_key=made.secret) as second:
        assert second.ask("hi", max_tokens=1).text.strip() == "hi"
        client.revoke_key(made.id)
        with pytest.raises(Unauthorized, match="revoked"):
            second.ask("hi", max_tokens=1)


def test_an_unknown_persona_is_refused_with_what_there_is(client: Client) -> None:
    with pytest.raises(UnknownModel, match="review"):
        client.ask("hi", persona="reviw")
