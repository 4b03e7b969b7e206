"""What a caller may ask of an answer's shape: JSON of a schema, or calls of tools."""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from cloud_app.web.shape import Shape, wrong
from genie.contracts.inference import ANY_TOOL, Tool, ToolCall

FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class JsonSchema(Shape):
    """A schema by name; ``strict`` or not, the answer always satisfies it."""

    name: str | None = Field(None, max_length=64)
    description: str | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class ResponseFormat(Shape):
    """The shape of the answer: text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _whole(self) -> "ResponseFormat":
        if self.type == "json_schema" and self.json_schema is None:
            raise wrong("needs json_schema with a name and a schema", ".json_schema")
        return self

    @property
    def schema_text(self) -> str | None:
        """The schema the answer must satisfy, None for free text."""
        if self.type == "text":
            return None
        if self.type == "json_schema" and self.json_schema is not None:
            return json.dumps(self.json_schema.schema_)
        return json.dumps({"type": "object"})


class FunctionShape(Shape):
    """A function the model may call; ``parameters`` is a JSON schema."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolShape(Shape):
    """A tool: always a function."""

    type: Literal["function"]
    function: FunctionShape

    def contract(self) -> Tool:
        """The tool as a worker takes it."""
        function = self.function
        schema = function.parameters or {"type": "object", "properties": {}}
        return Tool(
            name=function.name,
            description=function.description or "",
            parameters=json.dumps(schema),
        )


def _json_object(value: str) -> str:
    try:
        read = json.loads(value or "{}")
    except ValueError as error:
        raise wrong(f"is not JSON: {error}") from error
    if not isinstance(read, dict):
        raise wrong("must be a JSON object, as text")
    return value or "{}"


class CalledFunction(Shape):
    """What the model called; ``arguments`` is a JSON object as text."""

    name: FunctionName
    arguments: Annotated[str, AfterValidator(_json_object)] = "{}"


class ToolCallShape(Shape):
    """One call of an earlier answer, given back."""

    id: str = Field(min_length=1, max_length=64)
    type: Literal["function"] = "function"
    function: CalledFunction

    def contract(self) -> ToolCall:
        """The call as a worker takes it."""
        name, arguments = self.function.name, self.function.arguments
        return ToolCall(id=self.id, name=name, arguments=arguments)


def _choice(value: object) -> object:
    if value is None or value in ("none", "auto", "required"):
        return value
    function = value.get("function") if isinstance(value, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if isinstance(value, dict) and value.get("type") == "function" and name:
        return {"name": str(name)}
    raise wrong(
        'must be "none", "auto", "required" or {"type": "function", "function": '
        '{"name": …}}'
    )


ToolChoice = Annotated[Any, BeforeValidator(_choice)]


def forced(choice: object) -> str | None:
    """The tool that must be called, ``*`` for any, None for the model's choice."""
    if choice == "required":
        return ANY_TOOL
    return str(choice["name"]) if isinstance(choice, dict) else None
