"""The same doors with a real model behind them, fetched once and then cached."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from openai import BadRequestError, OpenAI
from openai.types.chat import ChatCompletionMessageParam

import genie
from fixtures.fleet import Fleet, wait_until
from genie import Client, catalog, env
from genie.contracts.inference import JobState
from genie.errors import ContextTooLong
from genie.sdk.client import default

CATALOG = Path(__file__).with_name("real-model.toml")
MODEL = "smollm2:135m"
EMBEDDER = "all-minilm:22m"
WORKER = "atlas"
STORY = "Write a long story about a lighthouse keeper and a storm."
FETCH_S = 600.0
"""The first run of a machine fetches 98 MB; every later one takes seconds."""

pytestmark = [pytest.mark.real_model, pytest.mark.timeout(FETCH_S + 120)]


@pytest.fixture(scope="module")
def fleet(rabbitmq_url: str, postgres_url: str) -> Iterator[Fleet]:
    """A whole fleet whose one worker holds the real model, on one thread."""
    environ = {
        "GENIE_CATALOG": str(CATALOG),
        "GENIE_MODELS_DIR": str(env.models()),
        "GENIE_THREADS": "1",
    }
    with Fleet(
        broker_url=rabbitmq_url,
        database_url=postgres_url,
        environ=environ,
        heartbeat_s=2.0,
    ) as started:
        started.start_worker(WORKER)
        started.wait_ready(MODEL, timeout_s=FETCH_S)
        yield started


def test_its_catalog_entry_is_the_shipped_one() -> None:
    mine, shipped = catalog.load(CATALOG).models, catalog.load().models
    assert {name: shipped[name] for name in mine} == mine


def test_ask_gets_a_true_answer(
    fleet: Fleet, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENIE_URL", fleet.url)
    monkeypatch.setenv("GENIE_API_KEY", fleet.api_key)
    result = genie.ask("What is the capital of France?", max_tokens=24)
    default().close()
    assert "Paris" in result.text
    assert (result.model, result.worker) == (MODEL, WORKER)
    assert result.usage.prompt_tokens > 8
    assert result.fingerprint == client.ask("Hi.", max_tokens=1).fingerprint


def test_a_stream_gives_the_text_that_ask_gives(client: Client) -> None:
    asked = client.ask("List three colours.", max_tokens=24)
    with client.stream("List three colours.", max_tokens=24) as stream:
        pieces = list(stream)
    assert len(pieces) > 2
    assert "".join(pieces) == asked.text == stream.result.text


def test_the_openai_client_chats(openai: OpenAI) -> None:
    answer = openai.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Name one animal that can fly."}],
        max_tokens=24,
    )
    assert (answer.choices[0].message.content or "").strip()
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 24


def test_the_openai_client_gets_json_of_its_schema(openai: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 30},
            "people": {"type": "integer", "minimum": 0, "maximum": 99_999_999},
        },
        "required": ["city", "people"],
        "additionalProperties": False,
    }
    answer = openai.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Tell me about Paris."}],
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "city", "schema": schema, "strict": True},
        },
        max_tokens=80,
    )
    found = json.loads(answer.choices[0].message.content or "")
    assert found.keys() == {"city", "people"}
    assert isinstance(found["people"], int)
    with pytest.raises(BadRequestError, match="not"):
        openai.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Hi."}],
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "no", "schema": {"not": {"type": "null"}}},
            },
        )


def test_the_openai_client_gets_several_answers_and_their_tokens(
    openai: OpenAI,
) -> None:
    question: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": "Name a colour, and a fruit of that colour. 🍋"}
    ]
    answer = openai.chat.completions.create(
        model=MODEL,
        messages=question,
        n=3,
        seed=11,
        temperature=1.2,
        max_tokens=16,
        logprobs=True,
        top_logprobs=2,
    )
    assert [one.index for one in answer.choices] == [0, 1, 2]
    assert len({one.message.content for one in answer.choices}) == 3
    assert answer.usage is not None
    assert answer.usage.prompt_tokens < 60
    for choice in answer.choices:
        assert choice.logprobs is not None
        told = choice.logprobs.content or []
        assert b"".join(bytes(one.bytes or ()) for one in told).decode(
            errors="ignore"
        ) == (choice.message.content or "").replace("\ufffd", "")
        assert all(one.logprob <= 0 for one in told)
        assert all(len(one.top_logprobs) == 2 for one in told)
    again = openai.chat.completions.create(
        model=MODEL, messages=question, seed=12, temperature=1.2, max_tokens=16
    )
    assert again.choices[0].message.content == answer.choices[1].message.content


def test_a_model_without_a_format_for_tools_refuses_them(openai: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="cannot call tools"):
        openai.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Hi."}],
            tools=[{"type": "function", "function": {"name": "now"}}],
        )


def test_the_openai_client_embeds(fleet: Fleet, client: Client, openai: OpenAI) -> None:
    fleet.wait_ready(EMBEDDER, timeout_s=FETCH_S)
    texts = ["A man eats bread.", "Someone has a loaf.", "Stocks fell by a tenth."]
    answer = openai.embeddings.create(model="embed", input=texts)
    bread, loaf, stocks = (one.embedding for one in answer.data)
    assert len(bread) == 384
    assert _cosine(bread, loaf) > _cosine(bread, stocks)
    ours = client.embed(texts)
    assert ours.model == answer.model == EMBEDDER
    assert _cosine(ours.vectors[0], bread) > 0.9999
    assert ours.usage.prompt_tokens == answer.usage.prompt_tokens > 10


def test_a_job_outlives_the_engine_that_ran_it(fleet: Fleet, client: Client) -> None:
    whole = client.ask(STORY, max_tokens=64).text
    job = client.submit(STORY, max_tokens=64)
    wait_until(lambda: _is_running(client, job.id), 30, "the job runs", every_s=0.02)
    _kill_engine(fleet)
    result = job.result(timeout=90)
    assert result.text == whole
    assert client.job(job.id).details.attempts == 2


def test_a_prompt_over_the_context_is_refused_with_both_numbers(
    client: Client,
) -> None:
    held = next(m for w in client.workers() for m in w.models if m.model == MODEL)
    with pytest.raises(ContextTooLong) as refused:
        client.ask("fleet " * (held.context + 500))
    assert refused.value.http_status == 400
    assert str(held.context) in refused.value.message
    numbers = [int(word) for word in refused.value.message.split() if word.isdigit()]
    assert max(numbers) > held.context


def test_the_engine_s_memory_goes_back_with_the_worker(fleet: Fleet) -> None:
    children = psutil.Process(fleet.pid(WORKER)).children(recursive=True)
    assert sum(child.memory_info().rss for child in children) > 300_000_000
    fleet.kill_leader(WORKER)
    _gone, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Of two vectors of length 1."""
    return sum(a * b for a, b in zip(one, other, strict=True))


def _is_running(client: Client, job_id: str) -> bool:
    return client.job(job_id).status is JobState.RUNNING


def _kill_engine(fleet: Fleet) -> None:
    for child in psutil.Process(fleet.pid(WORKER)).children(recursive=True):
        child.kill()
