"""Types as schemas on the way out, answers as their values on the way in."""

import json
from dataclasses import dataclass
from typing import TypedDict

import msgspec
import pydantic
import pytest

from fixtures.twin_cloud import TwinCloud
from genie import errors
from genie.contracts.inference import ToolCall
from genie.sdk import schemas
from genie.sdk.results import Result

CHAT = "POST /v1/chat/completions"
HEAD = {"object": "chat.completion", "id": "chatcmpl-1"}
BERLIN = '{"name": "Berlin", "rivers": ["Spree"]}'


class Model(pydantic.BaseModel):
    name: str
    rivers: list[str]


@dataclass
class Plain:
    name: str
    rivers: list[str]


class Typed(TypedDict):
    name: str
    rivers: list[str]


class Struct(msgspec.Struct):
    name: str
    rivers: list[str]


KINDS: list[tuple[type, object]] = [
    (Model, Model(name="Berlin", rivers=["Spree"])),
    (Plain, Plain("Berlin", ["Spree"])),
    (Typed, {"name": "Berlin", "rivers": ["Spree"]}),
    (Struct, Struct("Berlin", ["Spree"])),
]


def twin_of(text: str | None, **message: object) -> TwinCloud:
    choice = {"message": {"content": text, **message}, "finish_reason": "stop"}
    return TwinCloud({CHAT: {**HEAD, "choices": [choice]}})


@pytest.mark.parametrize(("kind", "value"), KINDS, ids=lambda one: str(one)[:20])
def test_a_type_is_sent_as_its_schema_and_comes_back_as_a_value(
    kind: type, value: object
) -> None:
    twin = twin_of(BERLIN)
    result: Result = twin.client().ask("Which city?", schema=kind)
    assert result.parsed == value
    assert result.text == BERLIN
    wanted = json.loads(json.dumps(twin.sent["response_format"]))
    assert wanted["type"] == "json_schema"
    assert wanted["json_schema"]["name"] == kind.__name__
    assert wanted["json_schema"]["strict"] is True
    assert "rivers" in json.dumps(wanted["json_schema"]["schema"])


def test_a_json_schema_is_sent_as_it_is_and_gives_plain_values() -> None:
    twin = twin_of(BERLIN)
    given = {"type": "object", "required": ["name"]}
    parsed = twin.client().ask("Which city?", schema=given).parsed
    assert parsed == {"name": "Berlin", "rivers": ["Spree"]}
    sent = json.loads(json.dumps(twin.sent["response_format"]))
    assert sent["json_schema"]["schema"] == given


@pytest.mark.parametrize("kind", [Model, Plain, {"type": "object"}])
@pytest.mark.parametrize("text", ['{"name": "Ber', "Berlin."])
def test_an_answer_that_was_cut_is_an_error_that_holds_it(
    kind: schemas.Schema, text: str
) -> None:
    with pytest.raises(errors.AnswerMismatch, match="larger max_tokens") as caught:
        schemas.parse(kind, text)
    assert caught.value.text == text
    assert caught.value.error_code == "answer_mismatch"


def test_without_a_schema_nothing_is_parsed() -> None:
    twin = twin_of(BERLIN)
    assert twin.client().ask("Which city?").parsed is None
    assert "response_format" not in twin.sent


def test_a_type_without_a_schema_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        twin_of(BERLIN).client().ask("Which city?", schema=object)


def test_a_submitted_job_parses_its_result() -> None:
    twin = twin_of(BERLIN)
    answer = twin.replies[CHAT]
    twin.replies = {
        CHAT: {"id": "chatcmpl-1", "status": "queued"},
        "GET /v1/jobs/1": {"id": "1", "status": "completed", "result": answer},
    }
    job = twin.client().submit("Which city?", schema=Plain)
    assert job.result().parsed == Plain("Berlin", ["Spree"])


def test_prompts_are_mapped_to_values() -> None:
    answer = twin_of(BERLIN).replies[CHAT]
    twin = TwinCloud()
    done = {"id": "1", "status": "completed", "result": answer}
    later = {"object": "chat.completion.async", "id": "1", "status": "completed"}
    twin.replies = {CHAT: later, "GET /v1/jobs/1": done}
    found = twin.client().map(["Which city?", "And now?"], schema=Plain)
    assert [result.parsed for result in found] == [Plain("Berlin", ["Spree"])] * 2


WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object"}},
}
CALL = {"id": "c1", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
CALLED = ToolCall(id="c1", name="weather", arguments='{"city": "Ulm"}')


def test_calls_of_tools_come_with_the_result() -> None:
    twin = twin_of(None, tool_calls=[CALL])
    client = twin.client()
    result = client.ask("Weather?", tools=[WEATHER], tool_choice="required")
    assert (result.text, result.tool_calls) == ("", (CALLED,))
    assert twin.sent["tools"] == [WEATHER]
    assert twin.sent["tool_choice"] == "required"


def test_what_a_tool_said_goes_back_as_it_was_given() -> None:
    twin = twin_of("Sunny.")
    asked = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    said = {"role": "tool", "tool_call_id": "c1", "content": "sunny"}
    question = {"role": "user", "content": "Weather?"}
    assert twin.client().ask(messages=[question, asked, said]).text == "Sunny."
    assert twin.sent["messages"] == [question, asked, said]
