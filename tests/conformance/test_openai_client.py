"""The official client, strict about every answer, at every endpoint we serve.

``_strict_response_validation`` makes the client check each body against its own types
instead of trusting it; an answer of another shape raises.
"""

import asyncio
import json
from collections.abc import Callable, Iterator

import pytest
from openai import (
    AsyncOpenAI,
    AuthenticationError,
    BadRequestError,
    InvalidWebhookSignatureError,
    NotFoundError,
    OpenAI,
)
from openai.types import Batch
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionMessageParam,
    ChatCompletionToolParam,
)
from pydantic import BaseModel, Field

from fixtures import tiny_catalog
from fixtures.batches import jsonl
from fixtures.fleet import Fleet, wait_until
from fixtures.receiver import receiving

pytestmark = pytest.mark.timeout(240)  # of the first, the fleet's start is part

SECRET = "a secret between two"
MODEL, EMBEDDER = tiny_catalog.MODEL, "echo:embed"
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather now.",
        "parameters": {
            "type": "object",
            "properties": {"unit": {"enum": ["C", "F"]}},
            "required": ["unit"],
            "additionalProperties": False,
        },
    },
}


class City(BaseModel):
    """What the model is held to say."""

    name: str = Field(max_length=8)
    people: int = Field(ge=0, le=9)


@pytest.fixture
def client(fleet: Fleet) -> Iterator[OpenAI]:
    """The client as people use it, with strict validation on."""
    with OpenAI(
        base_url=f"{fleet.url}/v1",
        api_key=fleet.api_key,
        max_retries=0,
        _strict_response_validation=True,
    ) as opened:
        yield opened


@pytest.fixture
def later(fleet: Fleet) -> Callable[[], AsyncOpenAI]:
    """The same for asyncio: a client for one event loop."""
    return lambda: AsyncOpenAI(
        base_url=f"{fleet.url}/v1",
        api_key=fleet.api_key,
        max_retries=0,
        _strict_response_validation=True,
    )


def chat(words: str = "hi") -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": words}]


def test_a_chat_is_answered(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=chat(), max_tokens=8, n=2, logprobs=True, top_logprobs=2
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage is not None
    assert answer.usage.completion_tokens >= 2
    for choice in answer.choices:
        assert choice.message.role == "assistant"
        odds = choice.logprobs.content if choice.logprobs else None
        assert odds
        assert all(one.logprob <= 0 and len(one.top_logprobs) == 2 for one in odds)


def test_a_chat_is_streamed(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=chat(),
            max_tokens=8,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason in ("length", "stop")
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None


def test_the_helper_for_streams_puts_the_answer_together(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=chat(), response_format=City, max_tokens=200
    ) as stream:
        kinds = {event.type for event in stream}
        whole = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert isinstance(whole.choices[0].message.parsed, City)


def test_an_answer_is_parsed_as_the_class_it_was_asked_for(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=chat(), response_format=City, max_tokens=200
    )
    city = answer.choices[0].message.parsed
    assert isinstance(city, City)
    assert 0 <= city.people <= 9


def test_a_tool_is_called_and_its_result_taken(client: OpenAI) -> None:
    asked = chat("weather?")
    answer = client.chat.completions.create(
        model=MODEL,
        messages=asked,
        tools=[WEATHER],
        tool_choice="required",
        max_tokens=120,
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments)["unit"] in ("C", "F")
    told: ChatCompletionMessageParam = {
        "role": "tool",
        "tool_call_id": call.id,
        "content": "12 C",
    }
    said = choice.message.to_dict()
    again = client.chat.completions.create(
        model=MODEL,
        messages=[*asked, said, told],  # type: ignore[list-item]  # the message as it came
        tools=[WEATHER],
        max_tokens=4,
    )
    assert again.choices[0].message.role == "assistant"


def test_a_tool_is_called_in_a_stream(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL,
        messages=chat("weather?"),
        tools=[WEATHER],
        tool_choice="required",
        max_tokens=120,
    ) as stream:
        stream.until_done()
        whole = stream.get_final_completion()
    (call,) = whole.choices[0].message.tool_calls or []
    assert call.function.name == "get_weather"


def test_a_text_is_continued(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="once", max_tokens=4, n=2, logprobs=2
    )
    assert len(answer.choices) == 2
    odds = answer.choices[0].logprobs
    assert odds is not None
    assert odds.tokens


def test_a_text_is_streamed(fleet: Fleet) -> None:
    """Not strictly: the client's type for a chunk wants a reason to end in each, and
    neither OpenAI nor we send one before the last."""
    url = f"{fleet.url}/v1"
    with OpenAI(base_url=url, api_key=fleet.api_key, max_retries=0) as client:
        stream = client.completions.create(
            model=MODEL, prompt="once", max_tokens=4, stream=True
        )
        chunks = list(stream)
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert chunks[-1].choices[0].finish_reason in ("length", "stop")


def test_texts_are_embedded(client: OpenAI) -> None:
    answer = client.embeddings.create(
        model=EMBEDDER, input=["one", "two"], encoding_format="float"
    )
    assert [one.index for one in answer.data] == [0, 1]
    assert len(answer.data[0].embedding) == 16


def test_the_client_s_own_way_to_embed_gives_the_same_vectors(
    fleet: Fleet, client: OpenAI
) -> None:
    """It asks for base64 by itself, which its own strict validation then refuses."""
    wanted = client.embeddings.create(
        model=EMBEDDER, input="one", encoding_format="float"
    )
    with OpenAI(base_url=client.base_url, api_key=fleet.api_key) as lenient:
        found = lenient.embeddings.create(model=EMBEDDER, input="one")
    assert found.data[0].embedding == wanted.data[0].embedding


def test_models_are_listed_and_shown(client: OpenAI) -> None:
    assert {MODEL, EMBEDDER} < {one.id for one in client.models.list()}
    assert client.models.retrieve(MODEL).owned_by == "genie"
    with pytest.raises(NotFoundError) as missing:
        client.models.retrieve("nothing:1b")
    assert missing.value.code == "model_not_found"
    assert missing.value.request_id


def test_a_file_is_sent_read_listed_and_removed(client: OpenAI) -> None:
    data = jsonl([line(0)])
    file = client.files.create(
        file=("work.jsonl", data),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert file.expires_at == file.created_at + 3600
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == data
    assert file.id in {one.id for one in client.files.list(purpose="batch")}
    assert file.id in {one.id for one in client.files.list(order="asc")}
    assert client.files.delete(file.id).deleted
    with pytest.raises(NotFoundError):
        client.files.retrieve(file.id)


def line(number: int, **body: object) -> dict[str, object]:
    asked = {"model": MODEL, "messages": chat(), "max_tokens": 2, **body}
    return {
        "custom_id": f"line-{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": asked,
    }


def test_a_batch_runs_to_its_files(client: OpenAI) -> None:
    data = jsonl([line(0), line(1, tools=[WEATHER], tool_choice={"no": 1})])
    assert refused(client, data).errors is not None
    file = client.files.create(file=("work.jsonl", jsonl([line(0)])), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"of": "tests"},
    )
    batch = ended(client, batch.id)
    assert batch.status == "completed"
    assert batch.output_file_id is not None
    (answer,) = client.files.content(batch.output_file_id).text.splitlines()
    body = json.loads(answer)["response"]["body"]
    ChatCompletion.model_validate(body, strict=True)
    assert batch.id in {one.id for one in client.batches.list()}
    assert client.batches.cancel(batch.id).status == "completed"


def refused(client: OpenAI, data: bytes) -> Batch:
    file = client.files.create(file=("bad.jsonl", data), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
    )
    batch = ended(client, batch.id)
    assert batch.status == "failed"
    found = batch.errors.data if batch.errors else None
    assert [one.line for one in found or []] == [2]
    return batch


def ended(client: OpenAI, batch_id: str) -> Batch:
    ends = ("completed", "failed", "expired", "cancelled")
    wait_until(
        lambda: client.batches.retrieve(batch_id).status in ends,
        60,
        "the batch has ended",
        every_s=0.5,
    )
    return client.batches.retrieve(batch_id)


def test_errors_are_of_the_classes_the_client_has(fleet: Fleet, client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as bad:
        client.chat.completions.create(model=MODEL, messages=[])
    assert (bad.value.param, bad.value.code) == ("messages", "invalid_request")
    assert bad.value.request_id
    stranger = OpenAI(base_url=f"{fleet.url}/v1", api_key="sk-no", max_retries=0)
    with stranger, pytest.raises(AuthenticationError) as unknown:
        stranger.models.list()
    assert unknown.value.code == "invalid_api_key"


def test_the_client_verifies_our_webhooks(client: OpenAI) -> None:
    with receiving() as receiver:
        client.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=chat(),
            max_tokens=2,
            extra_body={
                "mode": "async",
                "label": "night",
                "webhook": {"url": receiver.url, "secret": SECRET},
            },
        )
        wait_until(lambda: bool(receiver.told), 30, "the receiver was told")
    _path, headers, body = receiver.told[0]
    client.webhooks.verify_signature(body, headers, secret=SECRET)
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.verify_signature(body + b" ", headers, secret=SECRET)
    # An event of ours is none that OpenAI has: it is verified, not read as one.
    assert json.loads(body)["type"] == "job.completed"
    assert json.loads(body)["data"]["label"] == "night"


async def everything(opened: AsyncOpenAI) -> None:
    """Each endpoint once, as `async` code calls it."""
    async with opened as client:
        whole = await client.chat.completions.create(
            model=MODEL, messages=chat(), max_tokens=4
        )
        assert whole.choices[0].finish_reason in ("length", "stop")
        stream = await client.chat.completions.create(
            model=MODEL, messages=chat(), max_tokens=4, stream=True
        )
        assert [chunk async for chunk in stream][-1].choices[0].finish_reason
        parsed = await client.chat.completions.parse(
            model=MODEL, messages=chat(), response_format=City, max_tokens=200
        )
        assert isinstance(parsed.choices[0].message.parsed, City)
        called = await client.chat.completions.create(
            model=MODEL,
            messages=chat("weather?"),
            tools=[WEATHER],
            tool_choice="required",
            max_tokens=120,
        )
        assert called.choices[0].message.tool_calls
        text = await client.completions.create(model=MODEL, prompt="a", max_tokens=2)
        assert text.usage is not None
        vectors = await client.embeddings.create(
            model=EMBEDDER, input="one", encoding_format="float"
        )
        assert len(vectors.data[0].embedding) == 16
        assert EMBEDDER in [one.id async for one in client.models.list()]
        await files_and_batches(client)


async def files_and_batches(client: AsyncOpenAI) -> None:
    data = jsonl([line(0)])
    file = await client.files.create(file=("work.jsonl", data), purpose="batch")
    batch = await client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="1h",  # type: ignore[arg-type]  # theirs is always 24h
    )
    assert (await client.batches.cancel(batch.id)).id == batch.id
    assert batch.id in [one.id async for one in client.batches.list()]
    assert file.id in [one.id async for one in client.files.list()]
    content = await client.files.content(file.id)
    assert content.read() == data


def test_asyncio_reaches_every_endpoint(later: Callable[[], AsyncOpenAI]) -> None:
    asyncio.run(everything(later()))
