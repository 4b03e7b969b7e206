"""Every field of a request, from the official client to a real engine and back."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionMessageFunctionToolCall,
    ChatCompletionMessageParam,
    ChatCompletionToolParam,
)

from cloud_app.context import Context
from fixtures import tiny, tiny_door, web
from fixtures.doors import Door
from genie.contracts.inference import Sampling

SAY: list[ChatCompletionMessageParam] = [{"role": "user", "content": "say"}]
FIVE = ["one", "two", "three", "four", "five"]
EOS = 257
"""The end token of `fixtures.tiny`; below 256 a token is a byte."""

WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"unit": {"enum": ["C", "F"]}},
            "required": ["unit"],
            "additionalProperties": False,
        },
    },
}
NOW: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "now",
        "parameters": {
            "type": "object",
            "properties": {},
            "additionalProperties": False,
        },
    },
}


NOT = {"not": {"type": "null"}}
JSON_OBJECT = {"type": "json_object"}
CALL_NOW = {"type": "function", "function": {"name": "now"}}
NAMELESS = {"type": "function", "function": {"name": "no spaces"}}
NOT_A_SCHEMA = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "objec"}},
}


@pytest.fixture(scope="module")
def ctx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    """A cloud whose one worker holds a tiny random model."""
    made = tiny_door.context(tmp_path_factory.mktemp("requests"))
    yield made
    made.db.dispose()


@pytest.fixture(scope="module")
def door(ctx: Context) -> Iterator[Door]:
    """The web application with that model's engine behind it."""
    with tiny_door.opened(ctx) as opened:
        yield opened


@pytest.fixture(scope="module")
def openai(ctx: Context, door: Door) -> Iterator[OpenAI]:
    """The official client at that door."""
    with door.openai(web.key(ctx)[1]) as client:
        yield client


def chat(openai: OpenAI, **more: Any) -> ChatCompletion:
    """An answer of eight tokens, unless ``more`` says otherwise."""
    body = {"max_tokens": 8, **more}
    known = {"tools", "tool_choice", "response_format", "n", "seed", "logprobs"}
    named = {name: body.pop(name) for name in known & body.keys()}
    made: ChatCompletion = openai.chat.completions.create(
        model="tiny", messages=SAY, extra_body=body, **named
    )
    return made


def text(openai: OpenAI, **more: Any) -> str:
    return chat(openai, **more).choices[0].message.content or ""


FIELDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"temperature": 0.7}, {}),
    ({"top_p": 0.5, "temperature": 1}, {"temperature": 1.0}),
    ({"top_k": 3}, {}),
    ({"min_p": 0.25}, {}),
    ({"seed": 11}, {}),
    ({"seed": -(2**63)}, {}),
    ({"presence_penalty": 1.5}, {}),
    ({"frequency_penalty": -0.5}, {}),
    ({"repetition_penalty": 1.25}, {}),
    ({"logit_bias": {"65": 7.5, "66": -3}}, {"logit_bias": {"65": 7.5, "66": -3.0}}),
    ({"stop": "one"}, {"stop": ("one",)}),
    ({"stop": ["one", "two", "three", "four", "five"]}, {"stop": tuple(FIVE)}),
    ({"ignore_eos": True}, {}),
    ({"min_tokens": 2}, {}),
    ({"max_tokens": 3}, {}),
]


@pytest.mark.parametrize(("given", "meant"), FIELDS)
@pytest.mark.parametrize("endpoint", ["chat", "plain"])
def test_a_field_reaches_the_engine_as_it_was_meant(
    openai: OpenAI,
    door: Door,
    given: dict[str, Any],
    meant: dict[str, Any],
    endpoint: str,
) -> None:
    if endpoint == "chat":
        chat(openai, **given)
    else:
        body = {"max_tokens": 8, **given}
        openai.completions.create(model="tiny", prompt="say", extra_body=body)
    wanted = {"max_tokens": 8, **given, **meant}
    assert door.engine.requests[-1].sampling == Sampling(**wanted)


def test_the_newer_name_of_max_tokens_wins(openai: OpenAI, door: Door) -> None:
    chat(openai, max_completion_tokens=5)
    assert door.engine.requests[-1].sampling.max_tokens == 5


BAD: list[tuple[dict[str, Any], str]] = [
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "warm"}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": -1}, "top_k"),
    ({"top_k": 1.5}, "top_k"),
    ({"min_p": 1.1}, "min_p"),
    ({"seed": 2**63}, "seed"),
    ({"seed": "x"}, "seed"),
    ({"presence_penalty": 2.1}, "presence_penalty"),
    ({"frequency_penalty": -2.1}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"logit_bias": {"one": 1}}, "logit_bias.one"),
    ({"logit_bias": {"65": 101}}, "logit_bias.65"),
    ({"logit_bias": {"99999": 1}}, "logit_bias"),
    ({"logit_bias": [65]}, "logit_bias"),
    ({"stop": [""]}, "stop[0]"),
    ({"stop": 5}, "stop"),
    ({"ignore_eos": "yes"}, "ignore_eos"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"min_tokens": 9}, "min_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"n": 9}, "n"),
    ({"n": 0}, "n"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": NOT}}},
        "response_format.json_schema.schema",
    ),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": "always"}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": CALL_NOW}, "tool_choice"),
    ({"tools": [{"type": "code"}]}, "tools[0].type"),
    ({"tools": [NAMELESS]}, "tools[0].function.name"),
    ({"tools": [NOT_A_SCHEMA], "tool_choice": "required"}, "tools"),
    ({"tools": [WEATHER], "response_format": JSON_OBJECT}, "response_format"),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
]


@pytest.mark.parametrize(("given", "param"), BAD)
def test_a_wrong_value_is_refused_by_its_name(
    openai: OpenAI, given: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequestError) as refused:
        chat(openai, **given)
    assert refused.value.param == param
    assert refused.value.code in ("invalid_request", "unsupported_parameter")


def test_a_seed_gives_the_same_whatever_else_is_in_the_batch(openai: OpenAI) -> None:
    alone = {seed: text(openai, temperature=1.5, seed=seed) for seed in (5, 6, 7)}
    assert len(set(alone.values())) == 3
    together = chat(openai, temperature=1.5, seed=5, n=3)
    said = [one.message.content for one in together.choices]
    assert said == list(alone.values())
    with_others = chat(openai, temperature=1.5, seed=6, n=8)
    assert with_others.choices[0].message.content == alone[6]


def test_one_of_several_reads_the_prompt_for_all(openai: OpenAI) -> None:
    long: list[ChatCompletionMessageParam] = [{"role": "user", "content": "x" * 400}]
    answer = openai.chat.completions.create(
        model="tiny", messages=long, n=4, max_tokens=2, temperature=1.0
    )
    usage = answer.usage
    assert usage is not None
    assert 400 < usage.prompt_tokens < 440
    assert usage.completion_tokens <= 8
    again = openai.chat.completions.create(
        model="tiny", messages=long, n=4, max_tokens=2, temperature=1.0
    )
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert (again.usage.prompt_tokens_details.cached_tokens or 0) > 390


def test_narrowing_to_one_token_is_greedy(openai: OpenAI) -> None:
    greedy = text(openai)
    for narrow in ({"top_k": 1}, {"top_p": 0}, {"min_p": 1.0}):
        assert text(openai, temperature=2.0, seed=3, **narrow) == greedy
    assert text(openai, temperature=2.0, seed=3) != greedy


def test_a_bias_and_the_penalties_decide_between_tokens(openai: OpenAI) -> None:
    token = tiny.byte_tokenizer()("a")["input_ids"][0]
    bias = {"logit_bias": {str(token): 100}}
    assert text(openai, **bias) == "a" * 8
    for penalty in (
        {"presence_penalty": 2.0},
        {"frequency_penalty": 2.0},
        {"repetition_penalty": 10.0},
    ):
        said = text(openai, **penalty)
        assert said != text(openai), penalty


def test_a_stop_ends_across_tokens_and_is_not_shown(openai: OpenAI) -> None:
    whole = text(openai, max_tokens=24)
    stop = whole[10:13]
    cut = chat(openai, max_tokens=24, stop=[stop])
    assert cut.choices[0].message.content == whole[: whole.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_the_end_can_be_put_off_or_ignored(openai: OpenAI) -> None:
    ends_at_once = {"logit_bias": {str(EOS): 100}}
    first = chat(openai, **ends_at_once)
    assert (first.choices[0].finish_reason, text(openai, **ends_at_once)) == (
        "stop",
        "",
    )
    late = chat(openai, **ends_at_once, min_tokens=5)
    assert late.choices[0].finish_reason == "stop"
    assert late.usage is not None
    assert late.usage.completion_tokens == 5 + 1  # and the end itself
    never = chat(openai, **ends_at_once, ignore_eos=True)
    assert never.choices[0].finish_reason == "length"


def test_log_probabilities_are_of_the_text_that_came(openai: OpenAI) -> None:
    answer = openai.chat.completions.create(
        model="tiny",
        messages=SAY,
        logprobs=True,
        top_logprobs=3,
        temperature=1.5,
        seed=4,
        max_tokens=12,
    )
    told = answer.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    whole = b"".join(bytes(one.bytes or ()) for one in told.content)
    # A character that the last token leaves half done is never shown.
    content = answer.choices[0].message.content or ""
    assert whole.decode(errors="replace").removesuffix("\ufffd") == content
    for one in told.content:
        assert one.logprob <= 0
        assert len(one.top_logprobs) == 3
        likeliest = [top.logprob for top in one.top_logprobs]
        assert likeliest == sorted(likeliest, reverse=True)
        assert one.logprob <= likeliest[0]


def test_an_answer_is_held_to_json(openai: OpenAI) -> None:
    anything = chat(
        openai, response_format=JSON_OBJECT, temperature=1.0, seed=1, max_tokens=400
    )
    if anything.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(anything.choices[0].message.content or ""), dict)
    schema = {
        "type": "object",
        "properties": {"unit": {"enum": ["C", "F"]}},
        "required": ["unit"],
        "additionalProperties": False,
    }
    several = chat(
        openai,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "unit", "schema": schema, "strict": True},
        },
        temperature=1.0,
        max_tokens=200,
        n=4,
    )
    for choice in several.choices:
        assert choice.finish_reason == "stop"
        assert json.loads(choice.message.content or "")["unit"] in ("C", "F")


def calls(answer: ChatCompletion) -> list[ChatCompletionMessageFunctionToolCall]:
    found = [call for one in answer.choices for call in one.message.tool_calls or ()]
    made = [c for c in found if isinstance(c, ChatCompletionMessageFunctionToolCall)]
    assert len(made) == len(found)
    return made


def test_a_tool_is_called_when_it_must_be(openai: OpenAI) -> None:
    answer = chat(
        openai,
        tools=[WEATHER, NOW],
        tool_choice="required",
        temperature=1.0,
        max_tokens=1500,
        n=3,
    )
    assert {one.finish_reason for one in answer.choices} == {"tool_calls"}
    assert {call.function.name for call in calls(answer)} <= {"get_weather", "now"}
    assert len({call.id for call in calls(answer)}) == len(calls(answer)) >= 3
    single = chat(
        openai,
        tools=[WEATHER, NOW],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=1.0,
        max_tokens=300,
        n=4,
    )
    assert [len(one.message.tool_calls or ()) for one in single.choices] == [1] * 4
    named = chat(openai, tools=[WEATHER, NOW], tool_choice=CALL_NOW, max_tokens=300)
    assert [call.function.name for call in calls(named)] == ["now"]


def test_tools_are_offered_or_kept_back_as_the_choice_says(
    openai: OpenAI, door: Door
) -> None:
    chat(openai, tools=[WEATHER], tool_choice="none")
    assert door.engine.requests[-1].tools == ()
    for more in ({}, {"tool_choice": "auto"}):
        chat(openai, tools=[WEATHER], **more)
        asked = door.engine.requests[-1]
        assert [tool.name for tool in asked.tools] == ["get_weather"]
        assert asked.force_tool is None


def test_calls_of_several_streamed_answers_are_told_apart(openai: OpenAI) -> None:
    made: dict[int, list[tuple[int, str]]] = {0: [], 1: []}
    reasons: dict[int, str | None] = {}
    tokens = {0: 0, 1: 0}
    for chunk in openai.chat.completions.create(
        model="tiny",
        messages=SAY,
        tools=[WEATHER],
        tool_choice="required",
        temperature=1.0,
        seed=9,
        n=2,
        logprobs=True,
        max_tokens=1500,
        stream=True,
    ):
        for choice in chunk.choices:
            for call in choice.delta.tool_calls or ():
                assert call.function is not None
                assert call.function.name == "get_weather"
                made[choice.index].append((call.index, call.id or ""))
            if choice.logprobs and choice.logprobs.content:
                tokens[choice.index] += len(choice.logprobs.content)
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    assert reasons == {0: "tool_calls", 1: "tool_calls"}
    for found in made.values():
        assert [number for number, _ in found] == list(range(len(found)))
    ids = [name for found in made.values() for _, name in found]
    assert len(set(ids)) == len(ids)
    assert min(tokens.values()) > 10
