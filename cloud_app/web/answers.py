"""Answers in OpenAI's shapes: whole, in chunks, and accepted for later."""

import base64
import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cloud_app.store.records import JobRecord
from cloud_app.web import choices
from cloud_app.web.bodies import inference as bodies
from cloud_app.web.bodies.inference import Accepted, Embeddings, Facts
from cloud_app.web.choices import Json as Json
from cloud_app.web.choices import Said
from genie import toolcalls
from genie.contracts.inference import Outcome, ToolCall, Usage, Written
from genie.toolcalls import Reader

LaterKind = Literal["chat.completion.async", "text_completion.async"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one endpoint writes what is the same answer."""

    prefix: str
    whole: str
    chunk: str
    later: LaterKind
    choice: Callable[[Said], Json]
    delta: Callable[[Said], Json]
    opening: Callable[[int], Json] | None


CHAT = Dialect(
    prefix="chatcmpl-",
    whole="chat.completion",
    chunk="chat.completion.chunk",
    later="chat.completion.async",
    choice=choices.chat_whole,
    delta=choices.chat_piece,
    opening=choices.chat_opening,
)

TEXT = Dialect(
    prefix="cmpl-",
    whole="text_completion",
    chunk="text_completion",
    later="text_completion.async",
    choice=choices.text,
    delta=choices.text,
    opening=None,
)


def whole(dialect: Dialect, job: JobRecord, outcome: Outcome) -> Json:
    """A finished answer, or several."""
    said = (_said(job, *numbered) for numbered in enumerate(outcome.answers))
    return {
        **_head(dialect, job, outcome, dialect.whole),
        "choices": [dialect.choice(one) for one in said],
        "usage": usage(outcome.usage),
        "model_substituted": job.substituted,
        "genie": facts(job, outcome),
    }


def _said(job: JobRecord, index: int, answer: Written) -> Said:
    """One whole answer; what it writes as calls of tools is shown as such."""
    text, called = answer.text, tuple[ToolCall, ...]()
    if (reader := calls_of(job, index)) is not None:
        text, called = toolcalls.gathered([*reader.feed(text), *reader.end()])
    reason = answer.finish_reason.value if answer.finish_reason else "stop"
    return Said(
        index=index,
        text=text,
        calls=called,
        reason="tool_calls" if called else reason,
        odds=answer.choices,
    )


def calls_of(job: JobRecord, index: int = 0) -> Reader | None:
    """What reads the calls in an answer, None when the job was given no tools."""
    written = job.route.get("tool_format")
    seed = f"{job.id}.{index}" if index else job.id
    if not written:
        return None
    most = 1 if job.route.get("one_call") else None
    return toolcalls.reader_of(written, seed, most=most)


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


def piece(dialect: Dialect, job: JobRecord, said: Said) -> Json:
    """Some more of a streamed answer."""
    head = _head(dialect, job, None, dialect.chunk)
    return {**head, "choices": [dialect.delta(said)]}


def opening(dialect: Dialect, job: JobRecord, index: int) -> Json | None:
    """The first chunk of an answer of a chat: whose turn it is."""
    if dialect.opening is None:
        return None
    head = _head(dialect, job, None, dialect.chunk)
    return {**head, "choices": [dialect.opening(index)]}


def last(dialect: Dialect, job: JobRecord, outcome: Outcome, said: Said) -> Json:
    """The chunk that ends the stream's answers, and says where they were made."""
    return {
        **_head(dialect, job, outcome, dialect.chunk),
        "choices": [dialect.delta(said)],
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
