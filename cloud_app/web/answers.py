"""Answers in OpenAI's shapes: whole, in chunks, and accepted for later."""

import base64
import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cloud_app.store.records import JobRecord
from cloud_app.web.bodies import inference as bodies
from cloud_app.web.bodies.inference import Accepted, Embeddings, Facts
from genie import toolcalls
from genie.contracts.inference import JobState, Outcome, ToolCall, Usage
from genie.toolcalls import Reader

Json = dict[str, object]
LaterKind = Literal["chat.completion.async", "text_completion.async"]
Choice = Callable[[str, str | None], Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one endpoint writes what is the same answer."""

    prefix: str
    whole: str
    chunk: str
    later: LaterKind
    choice: Choice
    delta: Choice
    opening: Json | None


def _chat_choice(text: str, reason: str | None) -> Json:
    message = {"role": "assistant", "content": text, "refusal": None}
    return {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}


def _chat_delta(text: str, reason: str | None) -> Json:
    delta = {"content": text} if text else {}
    return {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}


def _text_choice(text: str, reason: str | None) -> Json:
    return {"index": 0, "text": text, "finish_reason": reason, "logprobs": None}


CHAT = Dialect(
    prefix="chatcmpl-",
    whole="chat.completion",
    chunk="chat.completion.chunk",
    later="chat.completion.async",
    choice=_chat_choice,
    delta=_chat_delta,
    opening={
        "index": 0,
        "delta": {"role": "assistant", "content": "", "refusal": None},
        "finish_reason": None,
        "logprobs": None,
    },
)

TEXT = Dialect(
    prefix="cmpl-",
    whole="text_completion",
    chunk="text_completion",
    later="text_completion.async",
    choice=_text_choice,
    delta=_text_choice,
    opening=None,
)


def whole(dialect: Dialect, job: JobRecord, outcome: Outcome) -> Json:
    """A finished answer."""
    return {
        **_head(dialect, job, outcome, dialect.whole),
        "choices": [_choice(dialect, job, outcome)],
        "usage": usage(outcome.usage),
        "model_substituted": job.substituted,
        "genie": facts(job, outcome),
    }


def _choice(dialect: Dialect, job: JobRecord, outcome: Outcome) -> Json:
    """The one choice; what the model wrote as calls of tools is shown as such."""
    reason = outcome.finish_reason.value if outcome.finish_reason else "stop"
    text, called = _read(job, outcome)
    choice = dialect.choice(text, "tool_calls" if called else reason)
    if called:
        message = {"role": "assistant", "content": text or None, "refusal": None}
        choice["message"] = message | {"tool_calls": [_call(one) for one in called]}
    return choice


def _read(job: JobRecord, outcome: Outcome) -> tuple[str, tuple[ToolCall, ...]]:
    reader = calls_of(job)
    if reader is None:
        return outcome.text, ()
    return toolcalls.gathered([*reader.feed(outcome.text), *reader.end()])


def calls_of(job: JobRecord) -> Reader | None:
    """What reads the calls in this job's answer, None when it was given no tools."""
    written = job.route.get("tool_format")
    return toolcalls.reader_of(written, job.id) if written else None


def _call(call: ToolCall) -> Json:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def calling(dialect: Dialect, job: JobRecord, call: ToolCall, index: int) -> Json:
    """One whole call of a tool, in a stream."""
    choice = dialect.delta("", None)
    choice["delta"] = {"tool_calls": [{"index": index, **_call(call)}]}
    return {**_head(dialect, job, None, dialect.chunk), "choices": [choice]}


def later(dialect: Dialect, job: JobRecord) -> Accepted:
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


def piece(dialect: Dialect, job: JobRecord, text: str) -> Json:
    """Some text of a streamed answer."""
    head = _head(dialect, job, None, dialect.chunk)
    return {**head, "choices": [dialect.delta(text, None)]}


def opening(dialect: Dialect, job: JobRecord) -> Json | None:
    """The first chunk of a chat: whose turn it is."""
    if dialect.opening is None:
        return None
    return {**_head(dialect, job, None, dialect.chunk), "choices": [dialect.opening]}


def last(dialect: Dialect, job: JobRecord, outcome: Outcome) -> Json:
    """The chunk that says why the stream ends, and where the answer was made."""
    reason = outcome.finish_reason.value if outcome.finish_reason else "stop"
    if outcome.state is not JobState.COMPLETED:
        reason = "error"
    elif _read(job, outcome)[1]:
        reason = "tool_calls"
    return {
        **_head(dialect, job, outcome, dialect.chunk),
        "choices": [dialect.delta("", reason)],
        "model_substituted": job.substituted,
        "genie": facts(job, outcome),
    }


def tally(dialect: Dialect, job: JobRecord, outcome: Outcome) -> Json:
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


def _head(dialect: Dialect, job: JobRecord, outcome: Outcome | None, kind: str) -> Json:
    return {
        "id": f"{dialect.prefix}{job.id}",
        "object": kind,
        "created": int(job.created_at.timestamp()),
        "model": job.model,
        "system_fingerprint": outcome.fingerprint if outcome else job.fingerprint,
    }
