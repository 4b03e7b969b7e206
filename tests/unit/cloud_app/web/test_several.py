"""Several answers to one request, and how likely their tokens were, over HTTP."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from msgspec.structs import replace
from openai import BadRequestError, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam
from openai.types.completion import Completion

from cloud_app.context import Context
from fixtures.doors import Door
from fixtures.engines import EchoEngine
from fixtures.web import TwinBus, outcome
from genie import Client
from genie.contracts.inference import (
    AnswerExtras,
    Chunk,
    Event,
    InferenceTask,
    Outcome,
    PartialAnswer,
    SampledToken,
    Sampling,
)
from unit.cloud_app.web.test_inference import ask, events

CHAT = "/v1/chat/completions"
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "one two"}]


@pytest.fixture
def door(ctx: Context) -> Iterator[Door]:
    """A web application with an echo engine behind it."""
    engine = EchoEngine(slots=4)
    yield Door(ctx, engine)
    engine.close()


@pytest.fixture
def openai(door: Door, secret: str) -> Iterator[OpenAI]:
    """The official client at that door."""
    with door.openai(secret) as client:
        yield client


@pytest.fixture
def lax(door: Door, secret: str) -> Iterator[OpenAI]:
    """The same without checks: its own type knows no piece without finish_reason."""
    with door.openai(secret, is_strict=False) as client:
        yield client


@pytest.fixture
def sdk(door: Door, secret: str) -> Iterator[Client]:
    """Our own client at that door."""
    with door.sdk(secret) as client:
        yield client


def test_the_sdk_has_all_answers_and_their_tokens(sdk: Client, door: Door) -> None:
    result = sdk.ask("one two", n=2, logprobs=1, max_tokens=2, seed=3)
    assert [str(one) for one in result.alternatives] == ["one two", "one two"]
    assert {one.finish_reason for one in result.alternatives} == {"length"}
    assert result.usage.completion_tokens == 4
    assert [(one.token, one.logprob) for one in result.logprobs] == [
        ("one", 0.0),
        (" two", 0.0),
    ]
    assert [one.token for one in result.logprobs[0].top_logprobs] == ["one"]
    assert [one.sampling.seed for one in door.engine.requests] == [3, 4]
    job = sdk.submit("one two", n=3, max_tokens=1)
    assert [one.text for one in job.result().alternatives] == ["one"] * 3


def test_the_sdk_streams_one_answer_with_its_tokens(sdk: Client) -> None:
    with sdk.stream("one two", logprobs=0, max_tokens=2) as stream:
        assert "".join(stream) == "one two"
    assert [one.token for one in stream.result.logprobs] == ["one", " two"]
    with pytest.raises(TypeError, match="one answer"):
        sdk.stream("one two", n=2)


def test_every_option_of_the_sdk_reaches_the_engine(sdk: Client, door: Door) -> None:
    wanted = Sampling(
        max_tokens=3,
        min_tokens=2,
        ignore_eos=True,
        seed=4,
        temperature=0.5,
        top_p=0.9,
        top_k=5,
        min_p=0.1,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        repetition_penalty=1.5,
        logit_bias={"7": 2.0},
        stop=("x",),
        logprobs=0,
    )
    sdk.ask(
        "one",
        max_tokens=3,
        min_tokens=2,
        ignore_eos=True,
        seed=4,
        temperature=0.5,
        top_p=0.9,
        top_k=5,
        min_p=0.1,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        repetition_penalty=1.5,
        logit_bias={7: 2.0},
        stop="x",
        logprobs=0,
    )
    assert door.engine.requests[-1].sampling == wanted


def test_several_answers_come_as_choices_with_one_usage(
    openai: OpenAI, door: Door
) -> None:
    answer = openai.chat.completions.create(
        model="chat", messages=HELLO, n=3, max_tokens=2, seed=5
    )
    assert [one.index for one in answer.choices] == [0, 1, 2]
    assert {one.message.content for one in answer.choices} == {"one two"}
    assert {one.finish_reason for one in answer.choices} == {"length"}
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 6)
    assert [one.sampling.seed for one in door.engine.requests] == [5, 6, 7]


def test_a_stream_of_several_answers_tells_them_apart(openai: OpenAI) -> None:
    chunks = list(
        openai.chat.completions.create(
            model="chat",
            messages=HELLO,
            n=2,
            max_tokens=9,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    texts, reasons, roles = ["", ""], ["", ""], ["", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            assert not reasons[choice.index], "it had ended"
            texts[choice.index] += choice.delta.content or ""
            roles[choice.index] += choice.delta.role or ""
            reasons[choice.index] = choice.finish_reason or ""
    assert texts == [" ".join(["one two"] * 4 + ["one"])] * 2
    assert reasons == ["length", "length"]
    assert roles == ["assistant", "assistant"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 18


def test_plain_completions_come_several_at_once_too(
    openai: OpenAI, lax: OpenAI
) -> None:
    answer = openai.completions.create(
        model="chat", prompt="a b c", n=2, best_of=2, max_tokens=3
    )
    assert [(one.index, one.text) for one in answer.choices] == [
        (0, "a b c"),
        (1, "a b c"),
    ]
    pieces = lax.completions.create(
        model="chat", prompt="a b c", n=2, max_tokens=3, stream=True
    )
    texts = ["", ""]
    for piece in pieces:
        texts[piece.choices[0].index] += piece.choices[0].text
    assert texts == ["a b c", "a b c"]


def test_several_answers_for_later_are_all_in_the_result(
    client: FlaskClient, door: Door
) -> None:
    accepted = client.post(CHAT, json=ask(mode="async", n=2, max_tokens=3)).get_json()
    job = client.get(accepted["polling_url"]).get_json()
    result = ChatCompletion.model_validate(job["result"])
    assert [one.message.content for one in result.choices] == ["hi hi hi"] * 2
    assert door.tasks[0].n == 2


def test_a_plain_completion_for_later_keeps_its_shape(
    client: FlaskClient, door: Door
) -> None:
    body = {"model": "chat", "prompt": "Once", "max_tokens": 3, "logprobs": 1}
    body |= {"mode": "async", "n": 2}
    accepted = client.post("/v1/completions", json=body).get_json()
    job = client.get(accepted["polling_url"]).get_json()
    result = Completion.model_validate(job["result"])
    assert [one.text for one in result.choices] == ["Once Once Once"] * 2
    assert result.choices[1].logprobs is not None


def test_no_answers_and_too_many_are_refused_by_name(openai: OpenAI) -> None:
    for n in (0, 9):
        with pytest.raises(BadRequestError) as refused:
            openai.chat.completions.create(model="chat", messages=HELLO, n=n)
        assert refused.value.param == "n"
    with pytest.raises(BadRequestError) as refused:
        openai.completions.create(model="chat", prompt="a", n=2, best_of=4)
    assert refused.value.param == "best_of"


def test_a_chat_tells_how_likely_each_token_was(openai: OpenAI) -> None:
    answer = openai.chat.completions.create(
        model="chat", messages=HELLO, logprobs=True, top_logprobs=2, max_tokens=2
    )
    told = answer.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert [(one.token, one.logprob) for one in told.content] == [
        ("one", 0.0),
        (" two", 0.0),
    ]
    assert told.content[1].bytes == list(b" two")
    assert [one.token for one in told.content[1].top_logprobs] == [" two"]


def test_a_chat_stream_tells_of_every_token_once(openai: OpenAI) -> None:
    tokens: dict[int, list[str]] = {0: [], 1: []}
    for chunk in openai.chat.completions.create(
        model="chat", messages=HELLO, logprobs=True, n=2, max_tokens=5, stream=True
    ):
        for choice in chunk.choices:
            if choice.logprobs and choice.logprobs.content:
                tokens[choice.index] += [t.token for t in choice.logprobs.content]
    assert tokens == {n: ["one", " two", " one", " two", " one"] for n in (0, 1)}


def test_a_plain_completion_tells_them_in_its_own_shape(
    openai: OpenAI, lax: OpenAI
) -> None:
    answer = openai.completions.create(
        model="chat", prompt="one two", logprobs=1, max_tokens=2
    )
    told = answer.choices[0].logprobs
    assert told is not None
    assert told.tokens == ["one", " two"]
    assert told.token_logprobs == [0.0, 0.0]
    assert told.top_logprobs == [{"one": 0.0}, {" two": 0.0}]
    assert told.text_offset == [0, 3]

    offsets: list[int] = []
    for piece in lax.completions.create(
        model="chat", prompt="one two", logprobs=0, max_tokens=3, stream=True
    ):
        part = piece.choices[0].logprobs
        offsets += (part.text_offset or []) if part else []
    assert offsets == [0, 3, 7]


def test_nothing_is_told_of_tokens_unless_asked(openai: OpenAI, door: Door) -> None:
    answer = openai.chat.completions.create(
        model="chat", messages=HELLO, logprobs=False, max_tokens=2
    )
    assert answer.choices[0].logprobs is None
    assert door.engine.requests[0].sampling.logprobs is None


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
    ],
)
def test_a_wrong_wish_for_log_probabilities_is_refused_by_name(
    client: FlaskClient, more: dict[str, object], param: str
) -> None:
    response = client.post(CHAT, json=ask(**more))
    assert response.status_code == 400
    assert response.get_json()["error"]["param"] == param


def test_characters_of_several_tokens_keep_their_bytes_and_places(
    client: FlaskClient, bus: TwinBus
) -> None:
    parts = [(0xE2,), (0x82,), (0xAC,)]
    tokens = (
        SampledToken(token="a", logprob=-0.5),
        *(SampledToken(token="\ufffd", logprob=-1.0, raw=raw) for raw in parts),
        SampledToken(token="b", logprob=-9999.0),
    )

    def work(task: InferenceTask) -> Iterator[Event]:
        answer = PartialAnswer(text="a€b", choices=tokens)
        yield said(task, answer)

    bus.work = work
    plain = client.post(
        "/v1/completions", json={"model": "chat", "prompt": "x", "logprobs": 0}
    ).get_json()
    assert plain["choices"][0]["logprobs"]["text_offset"] == [0, 1, 1, 1, 2]
    chat = client.post(CHAT, json=ask(logprobs=True)).get_json()
    content = chat["choices"][0]["logprobs"]["content"]
    assert b"".join(bytes(one["bytes"]) for one in content).decode() == "a€b"


def said(task: InferenceTask, *answers: PartialAnswer) -> Outcome:
    first, *others = answers
    return replace(
        outcome(task, text=first.text, tokens=1),
        extras=AnswerExtras(choices=first.choices, others=tuple(others)),
    )


def test_a_stream_whose_worker_changes_goes_on_with_each_answer(
    client: FlaskClient, bus: TwinBus
) -> None:
    def chunk(task: InferenceTask, attempt: str, seq: int, **what: Any) -> Chunk:
        return Chunk(job_id=task.job_id, attempt_id=attempt, seq=seq, tokens=1, **what)

    def work(task: InferenceTask) -> Iterator[Event]:
        yield chunk(task, "a", 0, text="one", index=0)
        yield chunk(task, "a", 1, text="uno", index=1)
        yield chunk(task, "b", 0, text="uno dos", index=1)
        yield chunk(task, "b", 1, text="one two", index=0)
        yield said(task, PartialAnswer(text="one two"), PartialAnswer(text="uno dos"))

    bus.work = work
    response = client.post(CHAT, json=ask(stream=True, n=2, temperature=0))
    texts = ["", ""]
    for event in events(response.text):
        for choice in event["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == ["one two", "uno dos"]
    assert json.loads(response.text.split("data: ")[-2])["genie"]["worker"] == "atlas"
