"""JSON of a schema and calls of tools at the chat door, with a worker as a function."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from cloud_app.context import Context
from fixtures import web
from fixtures.web import TwinBus
from genie import catalog
from genie.contracts.inference import ANY_TOOL, Tool, ToolCall

CHAT = "/v1/chat/completions"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather now.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = (
    '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Ulm"}}\n</tool_call>'
)


@pytest.fixture
def ctx(tmp_path: Path) -> Iterator[Context]:
    """The echo catalog, whose small model can also keep to a shape."""
    file = tmp_path / "catalog.toml"
    able = 'engine = "echo"\ncapabilities = ["chat", "json", "tools"]\n'
    text = catalog.ECHO.read_text()
    file.write_text(
        text.replace('engine = "echo"\n', able + 'tool_format = "hermes"\n', 1)
    )
    settings = web.cloud_settings(tmp_path, catalog_path=file)
    made = web.context(tmp_path, settings=settings)
    web.join(made, models=(web.ready(),))
    yield made
    made.db.dispose()


def ask(**more: object) -> dict[str, object]:
    said = [{"role": "user", "content": "hi"}]
    return {"model": "echo:small", "messages": said, **more}


def says(*pieces: str) -> Callable[[Any], Any]:
    return lambda task: web.answer(task, *pieces)


def error(response: Any) -> dict[str, Any]:
    assert response.status_code == 400, response.text
    found: dict[str, Any] = response.get_json()["error"]
    return found


def chunks(response: Any) -> list[ChatCompletionChunk]:
    lines = [line for line in response.text.split("\n") if line.startswith("data: {")]
    bodies = [json.loads(line.removeprefix("data: ")) for line in lines]
    return [ChatCompletionChunk.model_validate(body) for body in bodies]


class TestJson:
    def test_a_schema_reaches_the_worker(
        self, client: FlaskClient, bus: TwinBus
    ) -> None:
        wanted = {"name": "a", "schema": SCHEMA, "strict": True}
        body = ask(response_format={"type": "json_schema", "json_schema": wanted})
        assert client.post(CHAT, json=body).status_code == 200
        assert json.loads(bus.published[0].json_schema or "") == SCHEMA

    def test_any_object_is_a_schema_too(
        self, client: FlaskClient, bus: TwinBus
    ) -> None:
        client.post(CHAT, json=ask(response_format={"type": "json_object"}))
        assert json.loads(bus.published[0].json_schema or "") == {"type": "object"}

    def test_text_asks_for_nothing(self, client: FlaskClient, bus: TwinBus) -> None:
        client.post(CHAT, json=ask(response_format={"type": "text"}))
        assert bus.published[0].json_schema is None

    @pytest.mark.parametrize(
        ("wrong", "param"),
        [
            ({"type": "xml"}, "response_format.type"),
            ({"type": "json_schema"}, "response_format.json_schema"),
            (
                {"type": "json_schema", "json_schema": {"schema": 3}},
                "response_format.json_schema.schema",
            ),
            ("json", "response_format"),
        ],
    )
    def test_a_mistake_names_the_field(
        self, client: FlaskClient, wrong: object, param: str
    ) -> None:
        said = error(client.post(CHAT, json=ask(response_format=wrong)))
        assert said["param"] == param

    def test_a_model_that_cannot_is_refused(self, client: FlaskClient) -> None:
        body = ask(response_format={"type": "json_object"}, model="echo:large")
        assert (
            "cannot follow a JSON schema"
            in error(client.post(CHAT, json=body))["message"]
        )

    def test_a_schema_the_worker_refuses_is_the_caller_s_mistake(
        self, client: FlaskClient, bus: TwinBus
    ) -> None:
        bus.work = web.failing("invalid_request", "this schema cannot be followed")
        body = ask(response_format={"type": "json_object"})
        assert error(client.post(CHAT, json=body))["code"] == "invalid_request"


class TestTools:
    def test_a_call_is_read_out_of_the_answer(
        self, client: FlaskClient, bus: TwinBus
    ) -> None:
        bus.work = says("Let me look.", CALL)
        response = client.post(CHAT, json=ask(tools=[WEATHER]))
        (choice,) = ChatCompletion.model_validate(response.get_json()).choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content == "Let me look."
        assert choice.message.tool_calls is not None
        (call,) = choice.message.tool_calls
        assert call.type == "function"
        assert call.function.name == "get_weather"
        assert json.loads(call.function.arguments) == {"city": "Ulm"}
        job = client.get(f"/v1/jobs/{response.headers['x-genie-job-id']}").get_json()
        assert job["result"]["choices"] == response.get_json()["choices"]

    def test_tools_reach_the_worker(self, client: FlaskClient, bus: TwinBus) -> None:
        client.post(CHAT, json=ask(tools=[WEATHER]))
        (task,) = bus.published
        assert task.tools == (
            Tool(
                name="get_weather",
                description="The weather now.",
                parameters=json.dumps(WEATHER["function"]["parameters"]),  # type: ignore[index]  # a dict in it
            ),
        )
        assert task.force_tool is None

    @pytest.mark.parametrize(
        ("choice", "force"),
        [
            ("auto", None),
            ("required", ANY_TOOL),
            ({"type": "function", "function": {"name": "get_weather"}}, "get_weather"),
        ],
    )
    def test_a_choice_says_what_must_be_called(
        self, client: FlaskClient, bus: TwinBus, choice: object, force: str | None
    ) -> None:
        client.post(CHAT, json=ask(tools=[WEATHER], tool_choice=choice))
        assert bus.published[0].force_tool == force

    def test_none_offers_no_tool(self, client: FlaskClient, bus: TwinBus) -> None:
        bus.work = says(CALL)
        body = ask(tools=[WEATHER], tool_choice="none")
        answer = client.post(CHAT, json=body).get_json()
        assert bus.published[0].tools == ()
        assert answer["choices"][0]["message"]["content"] == CALL

    def test_a_stream_has_text_then_the_call_then_its_reason(
        self, client: FlaskClient, bus: TwinBus
    ) -> None:
        bus.work = says("Let me ", "look.\n<tool", CALL[5:30], CALL[30:], "\n", CALL)
        response = client.post(CHAT, json=ask(tools=[WEATHER], stream=True))
        told = [chunk.choices[0] for chunk in chunks(response)]
        texts = [choice.delta.content or "" for choice in told]
        calls = [call for choice in told for call in choice.delta.tool_calls or ()]
        assert "".join(texts) == "Let me look."
        assert [call.index for call in calls] == [0, 1]
        assert calls[0].function is not None
        assert json.loads(calls[0].function.arguments or "") == {"city": "Ulm"}
        assert calls[0].id != calls[1].id
        assert told[-1].finish_reason == "tool_calls"
        whole = client.get(f"/v1/jobs/{response.headers['x-genie-job-id']}").get_json()
        kept = whole["result"]["choices"][0]["message"]["tool_calls"]
        assert [call["id"] for call in kept] == [call.id for call in calls]

    def test_text_held_back_as_a_possible_call_is_shown_at_the_end(
        self, client: FlaskClient, bus: TwinBus
    ) -> None:
        bus.work = says("a <tool_", "b <tool_")
        response = client.post(CHAT, json=ask(tools=[WEATHER], stream=True))
        told = [chunk.choices[0] for chunk in chunks(response)]
        assert "".join(one.delta.content or "" for one in told) == "a <tool_b <tool_"
        assert told[-1].finish_reason == "stop"

    def test_an_earlier_call_and_its_result_are_given_back(
        self, client: FlaskClient, bus: TwinBus
    ) -> None:
        call = {
            "id": "abcdefghi",
            "type": "function",
            "function": {"name": "get_weather", "arguments": '{"city": "Ulm"}'},
        }
        turns = [
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "abcdefghi", "content": "sunny"},
        ]
        body = ask(tools=[WEATHER], messages=turns)
        assert client.post(CHAT, json=body).status_code == 200
        _, assistant, tool = bus.published[0].messages
        arguments = '{"city": "Ulm"}'
        (given,) = assistant.tool_calls
        assert given == ToolCall(
            id="abcdefghi", name="get_weather", arguments=arguments
        )
        assert (tool.tool_call_id, tool.content) == ("abcdefghi", "sunny")

    @pytest.mark.parametrize(
        ("more", "param"),
        [
            ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
            (
                {"tools": [{"type": "function", "function": {"name": "a b"}}]},
                "tools[0].function.name",
            ),
            ({"tools": [WEATHER], "tool_choice": "maybe"}, "tool_choice"),
            ({"tool_choice": "required"}, "tool_choice"),
            (
                {
                    "tools": [WEATHER],
                    "tool_choice": {"type": "function", "function": {"name": "x"}},
                },
                "tool_choice",
            ),
            (
                {"tools": [WEATHER], "response_format": {"type": "json_object"}},
                "response_format",
            ),
            (
                {"messages": [{"role": "user", "content": None}]},
                "messages[0].content",
            ),
            (
                {"messages": [{"role": "tool", "content": "x"}]},
                "messages[0].tool_call_id",
            ),
            (
                {
                    "messages": [
                        {
                            "role": "assistant",
                            "tool_calls": [
                                {
                                    "id": "a",
                                    "function": {"name": "f", "arguments": "[1]"},
                                }
                            ],
                        }
                    ]
                },
                "messages[0].tool_calls[0].function.arguments",
            ),
        ],
    )
    def test_a_mistake_names_the_field(
        self, client: FlaskClient, more: dict[str, object], param: str
    ) -> None:
        assert error(client.post(CHAT, json=ask(**more)))["param"] == param

    def test_a_model_that_calls_no_tools_is_refused(self, client: FlaskClient) -> None:
        body = ask(tools=[WEATHER], model="echo:large")
        assert "cannot call tools" in error(client.post(CHAT, json=body))["message"]
