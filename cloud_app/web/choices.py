"""One of a request's answers in OpenAI's shapes: whole, or the next piece of it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from genie.contracts.inference import Choice, Odds, ToolCall

Json = dict[str, object]

_CONTINUES = range(0x80, 0xC0)
"""The bytes of UTF-8 that begin no character."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one choice says; ``odds`` are the tokens it took, if they were asked for.

    ``first_call`` counts the calls of tools before these, ``offset`` the characters
    before the first of ``odds``.
    """

    index: int = 0
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    first_call: int = 0
    reason: str | None = None
    odds: tuple[Choice, ...] = ()
    offset: int = 0


def chat_whole(said: Said) -> Json:
    """A whole answer of a chat."""
    message: Json = {"role": "assistant", "content": said.text, "refusal": None}
    if said.calls:
        message["content"] = said.text or None
        message["tool_calls"] = [_call(one) for one in said.calls]
    return _choice(said, {"message": message}, _chat_odds(said.odds))


def chat_piece(said: Said) -> Json:
    """A piece of an answer of a chat."""
    delta: Json = {"content": said.text} if said.text else {}
    if said.calls:
        numbered = enumerate(said.calls, said.first_call)
        delta["tool_calls"] = [{"index": n, **_call(one)} for n, one in numbered]
    return _choice(said, {"delta": delta}, _chat_odds(said.odds))


def chat_opening(index: int) -> Json:
    """The first piece of an answer of a chat: whose turn it is."""
    delta = {"role": "assistant", "content": "", "refusal": None}
    return _choice(Said(index=index), {"delta": delta}, None)


def text(said: Said) -> Json:
    """An answer to a plain prompt, or a piece of it."""
    return _choice(said, {"text": said.text}, _text_odds(said))


def _choice(said: Said, content: Json, logprobs: Json | None) -> Json:
    return {
        "index": said.index,
        **content,
        "finish_reason": said.reason,
        "logprobs": logprobs,
    }


def _call(call: ToolCall) -> Json:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _chat_odds(odds: Iterable[Choice]) -> Json | None:
    content = [
        {**_token(one), "top_logprobs": [_token(rival) for rival in one.rivals]}
        for one in odds
    ]
    return {"content": content, "refusal": None} if content else None


def _token(odds: Odds) -> Json:
    return {
        "token": odds.token,
        "logprob": odds.logprob,
        "bytes": list(bytes_of(odds)),
    }


def _text_odds(said: Said) -> Json | None:
    odds = said.odds
    if not odds:
        return None
    return {
        "tokens": [one.token for one in odds],
        "token_logprobs": [one.logprob for one in odds],
        "top_logprobs": [_likeliest(one) for one in odds],
        "text_offset": list(_offsets(odds, said.offset)),
    }


def _likeliest(chosen: Choice) -> dict[str, float]:
    """The rivals by text, and always the chosen token."""
    best = {rival.token: rival.logprob for rival in reversed(chosen.rivals)}
    return best | {chosen.token: chosen.logprob}


def _offsets(odds: Iterable[Choice], offset: int) -> Iterator[int]:
    for one in odds:
        is_inside = bytes_of(one)[:1] and bytes_of(one)[0] in _CONTINUES
        yield max(0, offset - 1) if is_inside else offset
        offset += begun(one)


def begun(odds: Odds) -> int:
    """How many characters begin in a token.

    >>> (
    ...     begun(Odds(token="né", logprob=0.0)),
    ...     begun(Odds(token="?", logprob=0.0, raw=(0xA9,))),
    ... )
    (2, 0)
    """
    return sum(byte not in _CONTINUES for byte in bytes_of(odds))


def bytes_of(odds: Odds) -> bytes:
    """The bytes of a token, which may be no whole characters."""
    return bytes(odds.raw) or odds.token.encode()
