"""Tools in a prompt: rendered by the model's template, forced by a grammar."""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from typing import Any

from msgspec.structs import replace

from genie import toolcalls
from genie.contracts.inference import ANY_TOOL, Message, Tool
from workers.engine.errors import refused
from workers.engine.protocol import EngineRequest

CALLS_MAX = 8
"""How many calls an answer that must call some tool may hold; of Llama's one."""

ChatTurn = dict[str, Any]


def turns(
    messages: Iterable[Message], format: str | None = None, *, template: str = ""
) -> list[ChatTurn]:
    """Messages as the ``template`` of a model with a format of calls reads them."""
    if format == toolcalls.LLAMA3:  # its templates refuse several calls in one turn
        messages = one_by_one(messages)
    made = [_turn(one) for one in messages]
    if format == toolcalls.HERMES and "tool_calls" not in template:
        # SmolLM 3's shows only the content of a turn.
        made = [_with_calls(turn) for turn in made]
    return made


def _with_calls(turn: ChatTurn) -> ChatTurn:
    calls = [call["function"] for call in turn.pop("tool_calls", ())]
    written = [
        f"{toolcalls.OPEN}\n{json.dumps(call, ensure_ascii=False)}\n{toolcalls.CLOSE}"
        for call in calls
    ]
    text = [turn["content"]] if turn["content"] else []
    return turn | {"content": "\n".join([*text, *written])}


def one_by_one(messages: Iterable[Message]) -> Iterator[Message]:
    """The same with one call a turn, each followed by its own result."""
    left = deque(messages)
    while left:
        message = left.popleft()
        if len(message.tool_calls) < 2:
            yield message
            continue
        results = [left.popleft() for _ in takewhile(_is_result, tuple(left))]
        for call in message.tool_calls:
            yield replace(message, tool_calls=(call,))
            message = replace(message, content="")
            yield from (one for one in results if one.tool_call_id == call.id)


def _is_result(message: Message) -> bool:
    return message.role == "tool"


def _turn(message: Message) -> ChatTurn:
    turn: ChatTurn = {"role": message.role, "content": message.content}
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_call_id is not None:
        turn["tool_call_id"] = _short(message.tool_call_id)
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "id": _short(call.id),
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": json.loads(call.arguments or "{}"),
                },
            }
            for call in message.tool_calls
        ]
    return turn


def _short(identity: str) -> str:
    """An id all templates accept; another maker's longer one becomes one of ours."""
    if len(identity) == toolcalls.ID_LENGTH and identity.isalnum():
        return identity
    return toolcalls.call_id(identity)


def tool_schemas(tools: Iterable[Tool]) -> list[ChatTurn]:
    """Tools as chat templates read them."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": json.loads(tool.parameters),
            },
        }
        for tool in tools
    ]


def variables(tools: Iterable[ChatTurn], template: str) -> ChatTurn:
    """What a template is given besides the tools themselves.

    SmolLM 3's knows them by another name, and writes what it finds there as it is.
    """
    if "xml_tools" not in template:
        return {}
    return {"xml_tools": [json.dumps(tool, ensure_ascii=False) for tool in tools]}


def check_keys(value: object, controls: Iterable[str], param: str) -> None:
    """Refuse control tokens in the names of fields: templates write those as they are.

    Raises RequestRefused naming ``param``.
    """
    found = next((key for key in _keys(value) if any(c in key for c in controls)), None)
    if found is not None:
        message = f"{param} has a field named like a control token; rename it"
        raise refused("invalid_request", message, param)


def _keys(value: object) -> Iterable[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)


def forced_grammar(
    request: EngineRequest, format: str, marks: Mapping[str, int]
) -> str | None:
    """The grammar of an answer that must call, None when the model may choose.

    ``marks`` are the ids of the format's marks that are control tokens.
    """
    if request.force_tool is None or not request.tools:
        return None
    is_any = request.force_tool == ANY_TOOL
    chosen = [t for t in request.tools if is_any or t.name == request.force_tool]
    rules = [rule for n, tool in enumerate(chosen) for rule in _rules(n, tool, format)]
    calls = " | ".join(f"call_{n}" for n in range(len(chosen)))
    several = is_any and not request.one_call
    start = _start(format, marks, most=CALLS_MAX if several else 1)
    return "\n".join([start, f"call: {calls}", *rules])


def _rules(number: int, tool: Tool, format: str) -> list[str]:
    schema = json.loads(tool.parameters)
    schema.setdefault("type", "object")
    key = "parameters" if format == toolcalls.LLAMA3 else "arguments"
    head = json.dumps(f'{{"name": "{tool.name}", "{key}": ')
    return [
        f'call_{number}: {head} args_{number} "}}"',
        f"args_{number}: %json {json.dumps(schema)}",
    ]


def _start(format: str, marks: Mapping[str, int], *, most: int) -> str:
    if format == toolcalls.MISTRAL:
        mark = _mark(toolcalls.MISTRAL_MARK, marks)
        return f'start: {mark} " "? "[" {_repeated("call", ", ", most)} "]"'
    if format == toolcalls.LLAMA3:
        return "start: call"
    begin, end = _mark(toolcalls.OPEN, marks), _mark(toolcalls.CLOSE, marks)
    one = f'one: {begin} "\\n" call "\\n" {end}'
    return f"start: {_repeated('one', chr(10), most)}\n{one}"


def _repeated(rule: str, between: str, most: int) -> str:
    if most == 1:
        return rule
    return f"{rule} ({json.dumps(between)} {rule}){{0,{most - 1}}}"


def _mark(text: str, marks: Mapping[str, int]) -> str:
    return f"<[{marks[text]}]>" if text in marks else json.dumps(text)
