"""One of a request's answers in OpenAI's shapes: whole, or the next piece of it."""

import base64
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from msgspec import UNSET

from cloud_app.store.records import JobRecord
from genie import toolcalls
from genie.api_types import (
    AcceptedJob,
    AnyChunk,
    AnyCompletion,
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    CompletionDetails,
    DeltaChoice,
    EmbeddingAnswer,
    EmbeddingsAnswer,
    EmbeddingUsage,
    FunctionCall,
    Logprobs,
    MessageDelta,
    PromptDetails,
    TextChoice,
    TextCompletion,
    TextLogprobs,
    TokenLogprob,
    TokenUsage,
    ToolCallAnswer,
    ToolCallDelta,
    TopLogprob,
)
from genie.contracts.inference import (
    Logprob,
    Outcome,
    PartialAnswer,
    SampledToken,
    ToolCall,
    Usage,
)
from genie.toolcalls import ToolCallParser

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


def chat_choice(said: ChoiceParts) -> ChatChoice:
    """A whole answer of a chat."""
    message = AssistantMessage(content=said.text)
    if said.calls:
        calls = tuple(
            ToolCallAnswer(id=call.id, function=_function(call)) for call in said.calls
        )
        message = AssistantMessage(content=said.text or None, tool_calls=calls)
    return ChatChoice(
        index=said.index,
        message=message,
        finish_reason=said.reason or "stop",
        logprobs=_chat_logprobs(said.odds),
    )


def chat_delta(said: ChoiceParts) -> DeltaChoice:
    """A piece of an answer of a chat."""
    calls = tuple(
        ToolCallDelta(index=number, id=call.id, function=_function(call))
        for number, call in enumerate(said.calls, said.first_call)
    )
    return DeltaChoice(
        index=said.index,
        delta=MessageDelta(content=said.text or UNSET, tool_calls=calls or UNSET),
        finish_reason=said.reason,
        logprobs=_chat_logprobs(said.odds),
    )


def text_choice(said: ChoiceParts) -> TextChoice:
    """An answer to a plain prompt, or a piece of it."""
    return TextChoice(
        index=said.index,
        text=said.text,
        finish_reason=said.reason,
        logprobs=_text_logprobs(said),
    )


def _function(call: ToolCall) -> FunctionCall:
    return FunctionCall(name=call.name, arguments=call.arguments)


def _chat_logprobs(odds: Iterable[SampledToken]) -> Logprobs | None:
    content = tuple(
        TokenLogprob(
            token=one.token,
            logprob=one.logprob,
            bytes=tuple(bytes_of(one)),
            top_logprobs=tuple(map(_top_logprob, one.rivals)),
        )
        for one in odds
    )
    return Logprobs(content=content, refusal=None) if content else None


def _top_logprob(odds: Logprob) -> TopLogprob:
    return TopLogprob(
        token=odds.token, logprob=odds.logprob, bytes=tuple(bytes_of(odds))
    )


def _text_logprobs(said: ChoiceParts) -> TextLogprobs | None:
    odds = said.odds
    if not odds:
        return None
    return TextLogprobs(
        tokens=tuple(one.token for one in odds),
        token_logprobs=tuple(one.logprob for one in odds),
        top_logprobs=tuple(map(_likeliest, odds)),
        text_offset=tuple(_offsets(odds, said.offset)),
    )


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
    accepted: AsyncKind
    whole: Callable[..., AnyCompletion]
    chunk: Callable[..., AnyChunk]
    choice: Callable[[ChoiceParts], ChatChoice | TextChoice]
    delta: Callable[[ChoiceParts], DeltaChoice | TextChoice]
    has_roles: bool
    """True when a stream says first who speaks."""


CHAT = Dialect(
    prefix="chatcmpl-",
    accepted="chat.completion.async",
    whole=ChatCompletion,
    chunk=ChatChunk,
    choice=chat_choice,
    delta=chat_delta,
    has_roles=True,
)

TEXT = Dialect(
    prefix="cmpl-",
    accepted="text_completion.async",
    whole=TextCompletion,
    chunk=TextCompletion,
    choice=text_choice,
    delta=text_choice,
    has_roles=False,
)


def whole(dialect: Dialect, job: JobRecord, outcome: Outcome) -> AnyCompletion:
    """A finished answer, or several."""
    parts = (_parts(job, *numbered) for numbered in enumerate(outcome.answers))
    return dialect.whole(
        id=f"{dialect.prefix}{job.id}",
        created=int(job.created_at.timestamp()),
        model=job.model,
        system_fingerprint=outcome.fingerprint,
        choices=tuple(map(dialect.choice, parts)),
        usage=usage(outcome.usage),
        model_substituted=job.request.substituted,
        genie=details(job, outcome),
    )


def _parts(job: JobRecord, index: int, answer: PartialAnswer) -> ChoiceParts:
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
    written = job.request.route.get("tool_format")
    seed = f"{job.id}.{index}" if index else job.id
    if not written:
        return None
    most = 1 if job.request.route.get("one_call") else None
    return toolcalls.reader_of(written, seed, most=most)


def accepted(dialect: Dialect, job: JobRecord) -> AcceptedJob:
    """An accepted job that is not waited for."""
    name = f"{dialect.prefix}{job.id}"
    return AcceptedJob(
        id=name,
        object=dialect.accepted,
        status=job.state,
        polling_url=f"/v1/jobs/{name}",
        created=int(job.created_at.timestamp()),
        model=job.model,
        model_substituted=job.request.substituted,
    )


def piece(dialect: Dialect, job: JobRecord, said: ChoiceParts) -> AnyChunk:
    """Some more of a streamed answer."""
    return _chunk(dialect, job, job.fingerprint, dialect.delta(said))


def opening(dialect: Dialect, job: JobRecord, index: int) -> AnyChunk | None:
    """The first chunk of an answer of a chat: whose turn it is."""
    if not dialect.has_roles:
        return None
    delta = MessageDelta(role="assistant", content="", refusal=None)
    return _chunk(dialect, job, job.fingerprint, DeltaChoice(index=index, delta=delta))


def last(
    dialect: Dialect, job: JobRecord, outcome: Outcome, said: ChoiceParts
) -> AnyChunk:
    """The chunk that ends the stream's answers, and says where they were made."""
    return _chunk(
        dialect,
        job,
        outcome.fingerprint,
        dialect.delta(said),
        model_substituted=job.request.substituted,
        genie=details(job, outcome),
    )


def usage_chunk(dialect: Dialect, job: JobRecord, outcome: Outcome) -> AnyChunk:
    """The chunk with the usage, for those who asked for it."""
    return _chunk(dialect, job, outcome.fingerprint, usage=usage(outcome.usage))


def _chunk(
    dialect: Dialect,
    job: JobRecord,
    fingerprint: str | None,
    *choices: DeltaChoice | TextChoice,
    **more: object,
) -> AnyChunk:
    return dialect.chunk(
        id=f"{dialect.prefix}{job.id}",
        created=int(job.created_at.timestamp()),
        model=job.model,
        system_fingerprint=fingerprint,
        choices=choices,
        **more,
    )


def usage(used: Usage) -> TokenUsage:
    """Token counts in OpenAI's words."""
    return TokenUsage(
        prompt_tokens=used.prompt_tokens,
        completion_tokens=used.completion_tokens,
        total_tokens=used.prompt_tokens + used.completion_tokens,
        prompt_tokens_details=PromptDetails(cached_tokens=used.cached_tokens),
    )


def vectors(
    job: JobRecord, outcome: Outcome, encoding: str = "float"
) -> EmbeddingsAnswer:
    """All vectors of an answer."""
    found = outcome.extras.vectors if outcome.extras else ()
    used = outcome.usage.prompt_tokens
    return EmbeddingsAnswer(
        data=tuple(
            EmbeddingAnswer(
                index=index,
                embedding=vector if encoding == "base64" else floats(vector),
            )
            for index, vector in enumerate(found)
        ),
        model=job.model,
        usage=EmbeddingUsage(prompt_tokens=used, total_tokens=used),
        system_fingerprint=outcome.fingerprint,
        model_substituted=job.request.substituted,
        genie=details(job, outcome),
    )


def floats(vector: str) -> list[float]:
    """A vector as numbers.

    >>> floats("AACAPwAAAMA=")
    [1.0, -2.0]
    """
    values = array("f", base64.b64decode(vector))
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()


def details(job: JobRecord, outcome: Outcome) -> CompletionDetails:
    """Where and how fast an answer was made; seconds as the worker measured them."""
    timing = outcome.timing
    return CompletionDetails(
        job_id=job.id,
        persona=job.persona,
        worker=outcome.worker or None,
        locality=job.request.locality,
        queue_s=timing.queue_s,
        first_token_s=timing.first_token_s,
        total_s=timing.total_s,
        tokens_per_s=_rate(outcome),
    )


def _rate(outcome: Outcome) -> float | None:
    """Tokens a second after the first one; None for an answer too short to tell."""
    tokens = outcome.usage.completion_tokens - 1
    seconds = outcome.timing.total_s - outcome.timing.first_token_s
    return round(tokens / seconds, 2) if tokens > 0 and seconds > 0 else None
