"""Reads tool calls out of the text that a model writes.

Pure: text goes in, in pieces of any size; text and calls come out, the same
for any pieces.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from genie.contracts.inference import ToolCall

AnswerPart = str | ToolCall
"""Some text for the reader, or one whole call."""

_ParsedPart = str | tuple[str, str]

_Splitter = Callable[[str, bool, bool], tuple[list[_ParsedPart], str]]
"""Cuts a text into parts and a rest. The flags: it is the last, it follows text."""

HERMES = "hermes"
LLAMA3 = "llama3"
MISTRAL = "mistral"
FORMATS = (HERMES, LLAMA3, MISTRAL)

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MISTRAL_MARK = "[TOOL_CALLS]"
ID_LENGTH = 9
"""The length of a call's id in letters and digits, as Mistral's templates want it."""

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_decoder = json.JSONDecoder()


def call_id(seed: str) -> str:
    """A call's id, the same for the same seed.

    >>> call_id("job-1:0") == call_id("job-1:0"), len(call_id("x"))
    (True, 9)
    """
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")
    digits = []
    for _ in range(ID_LENGTH):
        number, rest = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[rest])
    return "".join(digits)


@dataclass(slots=True)
class ToolCallParser:
    """Reads one answer in pieces; ``seed`` makes the ids of its calls.

    It returns the first ``most`` calls; None: all.

    >>> reader = reader_of("hermes", "job-1")
    >>> reader.feed('Let me see.<tool_call>{"name": "now", "argu')
    ['Let me see.']
    >>> [call.name for call in reader.feed('ments": {}}</tool_call>')]
    ['now']
    """

    split: _Splitter
    seed: str
    most: int | None = None
    calls: int = 0
    _held: str = ""
    _space: str = ""
    _is_begun: bool = False

    def feed(self, text: str) -> list[AnswerPart]:
        """The parts that are complete; the start of a possible call is held back."""
        self._held += text
        return self._cut(is_last=False)

    def end(self) -> list[AnswerPart]:
        """The rest of the answer; a call cut short is text again."""
        parts = self._cut(is_last=True)
        if self._space and not self.calls:
            parts.append(self._space)
        self._space = ""
        return parts

    def _cut(self, *, is_last: bool) -> list[AnswerPart]:
        found, self._held = self.split(self._held, is_last, self._is_begun)
        return list(self._parts(found))

    def _parts(self, found: Iterable[_ParsedPart]) -> Iterator[AnswerPart]:
        for one in found:
            if isinstance(one, str):
                yield from self._text(one)
                continue
            self._space = ""
            if self.most is not None and self.calls >= self.most:
                continue
            number, self.calls = self.calls, self.calls + 1
            name, arguments = one
            identity = call_id(f"{self.seed}:{number}")
            yield ToolCall(id=identity, name=name, arguments=arguments)

    def _text(self, text: str) -> Iterator[str]:
        """Text without the white space around calls."""
        whole = self._space + text
        shown = whole.rstrip()
        self._space = whole[len(shown) :]
        if not shown:
            return
        yield shown if not self.calls or self._is_begun else shown.lstrip()
        self._is_begun = True


def reader_of(format: str, seed: str, *, most: int | None = None) -> ToolCallParser:
    """A reader of one answer; ``format`` is one of `FORMATS`."""
    splits = {HERMES: _split_hermes, LLAMA3: _split_llama3, MISTRAL: _split_mistral}
    return ToolCallParser(splits[format], seed, most)


def read(format: str, seed: str, text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """A whole answer: its text, and the calls it makes."""
    reader = reader_of(format, seed)
    return join_parts([*reader.feed(text), *reader.end()])


def join_parts(parts: Iterable[AnswerPart]) -> tuple[str, tuple[ToolCall, ...]]:
    """All text of the parts, and all calls."""
    parts = list(parts)
    texts = [part for part in parts if isinstance(part, str)]
    calls = [part for part in parts if isinstance(part, ToolCall)]
    return "".join(texts), tuple(calls)


def _split_hermes(
    text: str, is_last: bool, _is_prose: bool
) -> tuple[list[_ParsedPart], str]:
    """``<tool_call>{"name": …, "arguments": {…}}</tool_call>``, any number of them."""
    found: list[_ParsedPart] = []
    while True:
        before, mark, rest = text.partition(OPEN)
        if not mark:
            keep = 0 if is_last else _overlap(text, OPEN)
            found.append(text[: len(text) - keep])
            return found, text[len(text) - keep :]
        found.append(before)
        body, close, after = rest.partition(CLOSE)
        if not close:
            # Models may end right after the call without closing it.
            call = _call(body) if is_last else None
            if call is not None:
                return [*found, call], ""
            if is_last:
                return [*found, mark + body], ""
            return found, mark + body
        found.append(_call(body) or mark + body + close)
        text = after


def _split_llama3(
    text: str, is_last: bool, is_prose: bool
) -> tuple[list[_ParsedPart], str]:
    """All of the answer is ``{"name": …, "parameters": {…}}``, several after ``;``."""
    start = text.lstrip()
    if is_prose or (start and not start.startswith("{")):
        return [text], ""
    if not is_last:
        return [], text
    found: list[_ParsedPart] = [*_objects(text)]
    return found or [text], ""


def _split_mistral(
    text: str, is_last: bool, _is_prose: bool
) -> tuple[list[_ParsedPart], str]:
    """Text, then ``[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`` to the end."""
    before, mark, rest = text.partition(MISTRAL_MARK)
    if not mark:
        keep = 0 if is_last else _overlap(text, MISTRAL_MARK)
        return [text[: len(text) - keep]], text[len(text) - keep :]
    if not is_last:
        return [before], mark + rest
    found: list[_ParsedPart] = [*_array(rest)]
    return [before, *(found or [mark + rest])], ""


def _objects(text: str) -> list[tuple[str, str]]:
    """Calls that follow each other, or none if anything else is in the text."""
    calls: list[tuple[str, str]] = []
    at = 0
    while True:
        while at < len(text) and (text[at].isspace() or text[at] == ";"):
            at += 1
        if at == len(text):
            return calls
        try:
            value, at = _decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return []
        call = _read(value)
        if call is None:
            return []
        calls.append(call)


def _array(text: str) -> list[tuple[str, str]]:
    try:
        value, _ = _decoder.raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        return []
    values = value if isinstance(value, list) else [value]
    calls = [_read(one) for one in values]
    return [call for call in calls if call is not None] if all(calls) else []


def _call(body: str) -> tuple[str, str] | None:
    try:
        return _read(json.loads(body))
    except (ValueError, RecursionError):
        return None


def _read(value: object) -> tuple[str, str] | None:
    """The name and the arguments, as JSON text, of one call."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters"))
    if arguments is None:
        arguments = {}
    if isinstance(arguments, str):
        return (value["name"], arguments) if _is_object(arguments) else None
    if not isinstance(arguments, dict):
        return None
    return value["name"], json.dumps(arguments, ensure_ascii=False)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _overlap(text: str, mark: str) -> int:
    """The length of the longest end of ``text`` with which ``mark`` begins."""
    lengths = range(min(len(text), len(mark) - 1), 0, -1)
    return next((n for n in lengths if text.endswith(mark[:n])), 0)
