"""One of a request's answers in OpenAI's shapes: whole, or the next piece of it."""

import base64
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from cloud_app.api.bodies import inference as bodies
from cloud_app.api.bodies.inference import AcceptedJob, Embeddings, Facts
from cloud_app.store.records import JobRecord
from genie import toolcalls
from genie.contracts.inference import (
    Logprob,
    Outcome,
    PartialAnswer,
    SampledToken,
    ToolCall,
    Usage,
)
from genie.toolcalls import ToolCallParser

ChoiceJson = dict[str, object]

_CONTINUES = range(0x80, 0xC0)
"""The bytes of UTF-8 that begin no character."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceParts:
    """What one choice says; ``odds`` are the tokens it took, if they were asked for.

    ``first_call`` counts the calls of tools before these, ``offset`` the characters
    before the first of ``odds``.
    """

    index: int = 0
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    first_call: int = 0
    reason: str | None = None
    odds: tuple[SampledToken, ...] = ()
    offset: int = 0


def chat_whole(said: ChoiceParts) -> ChoiceJson:
    """A whole answer of a chat."""
    message: ChoiceJson = {"role": "assistant", "content": said.text, "refusal": None}
    if said.calls:
        message["content"] = said.text or None
        message["tool_calls"] = [_call(one) for one in said.calls]
    return _choice(said, {"message": message}, _chat_odds(said.odds))


def chat_piece(said: ChoiceParts) -> ChoiceJson:
    """A piece of an answer of a chat."""
    delta: ChoiceJson = {"content": said.text} if said.text else {}
    if said.calls:
        numbered = enumerate(said.calls, said.first_call)
        delta["tool_calls"] = [{"index": n, **_call(one)} for n, one in numbered]
    return _choice(said, {"delta": delta}, _chat_odds(said.odds))


def chat_opening(index: int) -> ChoiceJson:
    """The first piece of an answer of a chat: whose turn it is."""
    delta = {"role": "assistant", "content": "", "refusal": None}
    return _choice(ChoiceParts(index=index), {"delta": delta}, None)


def text(said: ChoiceParts) -> ChoiceJson:
    """An answer to a plain prompt, or a piece of it."""
    return _choice(said, {"text": said.text}, _text_odds(said))


def _choice(
    said: ChoiceParts, content: ChoiceJson, logprobs: ChoiceJson | None
) -> ChoiceJson:
    return {
        "index": said.index,
        **content,
        "finish_reason": said.reason,
        "logprobs": logprobs,
    }


def _call(call: ToolCall) -> ChoiceJson:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _chat_odds(odds: Iterable[SampledToken]) -> ChoiceJson | None:
    content = [
        {**_token(one), "top_logprobs": [_token(rival) for rival in one.rivals]}
        for one in odds
    ]
    return {"content": content, "refusal": None} if content else None


def _token(odds: Logprob) -> ChoiceJson:
    return {
        "token": odds.token,
        "logprob": odds.logprob,
        "bytes": list(bytes_of(odds)),
    }


def _text_odds(said: ChoiceParts) -> ChoiceJson | None:
    odds = said.odds
    if not odds:
        return None
    return {
        "tokens": [one.token for one in odds],
        "token_logprobs": [one.logprob for one in odds],
        "top_logprobs": [_likeliest(one) for one in odds],
        "text_offset": list(_offsets(odds, said.offset)),
    }


def _likeliest(chosen: SampledToken) -> dict[str, float]:
    """The rivals by text, and always the chosen token."""
    best = {rival.token: rival.logprob for rival in reversed(chosen.rivals)}
    return best | {chosen.token: chosen.logprob}


def _offsets(odds: Iterable[SampledToken], offset: int) -> Iterator[int]:
    for one in odds:
        is_inside = bytes_of(one)[:1] and bytes_of(one)[0] in _CONTINUES
        yield max(0, offset - 1) if is_inside else offset
        offset += begun(one)


def begun(odds: Logprob) -> int:
    """How many characters begin in a token.

    >>> (
    ...     begun(Logprob(token="né", logprob=0.0)),
    ...     begun(Logprob(token="?", logprob=0.0, raw=(0xA9,))),
    ... )
    (2, 0)
    """
    return sum(byte not in _CONTINUES for byte in bytes_of(odds))


def bytes_of(odds: Logprob) -> bytes:
    """The bytes of a token, which may be no whole characters."""
    return bytes(odds.raw) or odds.token.encode()


AsyncKind = Literal["chat.completion.async", "text_completion.async"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one endpoint writes what is the same answer."""

    prefix: str
    whole: str
    chunk: str
    later: AsyncKind
    choice: Callable[[ChoiceParts], ChoiceJson]
    delta: Callable[[ChoiceParts], ChoiceJson]
    opening: Callable[[int], ChoiceJson] | None


CHAT = Dialect(
    prefix="chatcmpl-",
    whole="chat.completion",
    chunk="chat.completion.chunk",
    later="chat.completion.async",
    choice=chat_whole,
    delta=chat_piece,
    opening=chat_opening,
)

TEXT = Dialect(
    prefix="cmpl-",
    whole="text_completion",
    chunk="text_completion",
    later="text_completion.async",
    choice=text,
    delta=text,
    opening=None,
)


def whole(dialect: Dialect, job: JobRecord, outcome: Outcome) -> ChoiceJson:
    """A finished answer, or several."""
    said = (_said(job, *numbered) for numbered in enumerate(outcome.answers))
    return {
        **_head(dialect, job, outcome, dialect.whole),
        "choices": [dialect.choice(one) for one in said],
        "usage": usage(outcome.usage),
        "model_substituted": job.substituted,
        "genie": facts(job, outcome),
    }


def _said(job: JobRecord, index: int, answer: PartialAnswer) -> ChoiceParts:
    """One whole answer; what it writes as calls of tools is shown as such."""
    text, called = answer.text, tuple[ToolCall, ...]()
    if (reader := calls_of(job, index)) is not None:
        text, called = toolcalls.join_parts([*reader.feed(text), *reader.end()])
    reason = answer.finish_reason.value if answer.finish_reason else "stop"
    return ChoiceParts(
        index=index,
        text=text,
        calls=called,
        reason="tool_calls" if called else reason,
        odds=answer.choices,
    )


def calls_of(job: JobRecord, index: int = 0) -> ToolCallParser | None:
    """What reads the calls in an answer, None when the job was given no tools."""
    written = job.route.get("tool_format")
    seed = f"{job.id}.{index}" if index else job.id
    if not written:
        return None
    most = 1 if job.route.get("one_call") else None
    return toolcalls.reader_of(written, seed, most=most)


def later(dialect: Dialect, job: JobRecord) -> AcceptedJob:
    """An accepted job that is not waited for."""
    name = f"{dialect.prefix}{job.id}"
    return {
        "id": name,
        "object": dialect.later,
        "status": job.state.value,
        "polling_url": f"/v1/jobs/{name}",
        "created": int(job.created_at.timestamp()),
        "model": job.model,
        "model_substituted": job.substituted,
    }


def piece(dialect: Dialect, job: JobRecord, said: ChoiceParts) -> ChoiceJson:
    """Some more of a streamed answer."""
    head = _head(dialect, job, None, dialect.chunk)
    return {**head, "choices": [dialect.delta(said)]}


def opening(dialect: Dialect, job: JobRecord, index: int) -> ChoiceJson | None:
    """The first chunk of an answer of a chat: whose turn it is."""
    if dialect.opening is None:
        return None
    head = _head(dialect, job, None, dialect.chunk)
    return {**head, "choices": [dialect.opening(index)]}


def last(
    dialect: Dialect, job: JobRecord, outcome: Outcome, said: ChoiceParts
) -> ChoiceJson:
    """The chunk that ends the stream's answers, and says where they were made."""
    return {
        **_head(dialect, job, outcome, dialect.chunk),
        "choices": [dialect.delta(said)],
        "model_substituted": job.substituted,
        "genie": facts(job, outcome),
    }


def tally(dialect: Dialect, job: JobRecord, outcome: Outcome) -> ChoiceJson:
    """The chunk with the usage, for those who asked for it."""
    head = _head(dialect, job, outcome, dialect.chunk)
    return {**head, "choices": [], "usage": usage(outcome.usage)}


def usage(used: Usage) -> bodies.Usage:
    """Token counts in OpenAI's words."""
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
    }


def vectors(job: JobRecord, outcome: Outcome, encoding: str = "float") -> Embeddings:
    """All vectors of an answer."""
    found = outcome.extras.vectors if outcome.extras else ()
    used = outcome.usage.prompt_tokens
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": vector if encoding == "base64" else floats(vector),
            }
            for index, vector in enumerate(found)
        ],
        "model": job.model,
        "usage": {"prompt_tokens": used, "total_tokens": used},
        "system_fingerprint": outcome.fingerprint,
        "model_substituted": job.substituted,
        "genie": facts(job, outcome),
    }


def floats(vector: str) -> list[float]:
    """A vector as numbers.

    >>> floats("AACAPwAAAMA=")
    [1.0, -2.0]
    """
    values = array("f", base64.b64decode(vector))
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()


def facts(job: JobRecord, outcome: Outcome) -> Facts:
    """Where and how fast an answer was made; seconds as the worker measured them."""
    timing = outcome.timing
    return {
        "job_id": job.id,
        "persona": job.persona,
        "worker": outcome.worker or None,
        "locality": job.locality,
        "queue_s": timing.queue_s,
        "first_token_s": timing.first_token_s,
        "total_s": timing.total_s,
        "tokens_per_s": _rate(outcome),
    }


def _rate(outcome: Outcome) -> float | None:
    """Tokens a second after the first one; None for an answer too short to tell."""
    tokens = outcome.usage.completion_tokens - 1
    seconds = outcome.timing.total_s - outcome.timing.first_token_s
    return round(tokens / seconds, 2) if tokens > 0 and seconds > 0 else None


def _head(
    dialect: Dialect, job: JobRecord, outcome: Outcome | None, kind: str
) -> ChoiceJson:
    return {
        "id": f"{dialect.prefix}{job.id}",
        "object": kind,
        "created": int(job.created_at.timestamp()),
        "model": job.model,
        "system_fingerprint": outcome.fingerprint if outcome else job.fingerprint,
    }
