"""How a job ended: its result or its error."""

import base64
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

from msgspec import UnsetType
from typing_extensions import TypeVar

from genie.api_types import (
    AnyCompletion,
    ChatChoice,
    CompletionDetails,
    EmbeddingsAnswer,
    JobAnswer,
    JobTiming,
    TextChoice,
    TokenLogprob,
    TokenUsage,
    ToolCallAnswer,
)
from genie.contracts.inference import JobState, Locality, Timing, ToolCall, Usage
from genie.errors import CodecError, GenieError, JobCancelled, JobFailed, JobTimeout
from genie.sdk import schemas
from genie.sdk.requests import strip_job_id_prefix
from genie.sdk.responses import error_from_body
from genie.sdk.schemas import Schema

P = TypeVar("P", covariant=True, default=object)
"""The type an answer was parsed into."""

V = TypeVar("V", default=object)
"""The same in a function's signature: object without a ``schema`` that is a type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """One of several answers to the same question; ``str(alternative)`` is its text.

    >>> result = genie.ask("Name a colour.", n=2)
    >>> [str(one) for one in result.alternatives]
    ['Name a colour.', 'Name a colour.']
    """

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(Generic[P]):
    """An answer, and who computed it and how; ``str(result)`` is the text.

    ``alternatives`` are all answers to a question with ``n``, this one first.
    ``logprobs`` are the tokens' log probabilities, if requested.
    ``parsed`` is the answer as a value of the given ``schema``, otherwise None.
    ``substituted`` is the usual model when a smaller one answered instead, otherwise
    None. Times are in seconds.

    >>> result = genie.ask("Say hello in one word.")
    >>> print(result)
    Say hello in one word.
    >>> result.model, result.locality.value, result.usage.completion_tokens
    ('echo:small', 'local', 5)
    """

    text: str
    model: str
    job_id: str
    worker: str | None
    locality: Locality | None
    persona: str | None
    usage: Usage
    timing: Timing
    substituted: str | None
    tokens_per_s: float
    finish_reason: str | None
    fingerprint: str | None
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    parsed: P | None = None

    def __str__(self) -> str:
        return self.text


def result_of(details: JobAnswer, schema: Schema | None = None) -> Result:
    """The result of an ended job; raises its error if there is none."""
    if details.status is not JobState.COMPLETED:
        raise failure_error(details)
    if details.result is None:
        raise JobFailed(
            f"job {strip_job_id_prefix(details.id)} completed but its answer is no "
            "longer kept; answers are deleted a day after the end: submit it again",
            code="result_expired",
        )
    if isinstance(details.result, EmbeddingsAnswer):
        raise JobFailed(
            f"job {strip_job_id_prefix(details.id)} made vectors, not text; "
            "`genie jobs show --json` prints them"
        )
    return result_from_completion(details.result, details, schema)


def failure_error(details: JobAnswer) -> GenieError:
    """The error of an ended job without a result."""
    job_id = strip_job_id_prefix(details.id)
    if details.status is JobState.CANCELLED:
        return JobCancelled(f"job {job_id} was cancelled; submit it again if needed")
    kind = JobTimeout if details.status is JobState.TIMEOUT else JobFailed
    if details.error is not None:
        return error_from_body(details.error, kind)
    if kind is JobTimeout:
        return JobTimeout(f"job {job_id} passed its deadline; allow a longer timeout")
    return JobFailed(f"job {job_id} failed; `genie jobs show {job_id}` says more")


def result_from_completion(
    answer: AnyCompletion,
    details: JobAnswer | None = None,
    schema: Schema | None = None,
) -> Result:
    """A completion as a result; the job fills in what it leaves out."""
    if not answer.choices:
        raise CodecError("the cloud's completion has no choices; report this")
    alternatives, made = _alternatives(answer), answer.genie or CompletionDetails()
    first = alternatives[0]
    job = details or JobAnswer(id=answer.id or "", status=JobState.COMPLETED)
    usage = _usage(answer.usage, job.usage)
    timing = _timing(made, job.timing)
    return Result(
        text=first.text,
        tool_calls=first.tool_calls,
        logprobs=first.logprobs,
        alternatives=alternatives,
        parsed=_parsed(schema, first.text, first.tool_calls),
        model=answer.model or job.model or "",
        job_id=strip_job_id_prefix(made.job_id or job.id),
        worker=made.worker or job.worker,
        locality=made.locality or job.locality,
        persona=made.persona or job.persona,
        usage=usage,
        timing=timing,
        substituted=answer.model_substituted or job.model_substituted,
        tokens_per_s=made.tokens_per_s or _speed(usage, timing),
        finish_reason=first.finish_reason,
        fingerprint=answer.system_fingerprint,
    )


def _alternatives(answer: AnyCompletion) -> tuple[Alternative, ...]:
    choices: Sequence[ChatChoice | TextChoice] = answer.choices
    in_order = sorted(choices, key=lambda choice: choice.index)
    return tuple(_alternative(choice) for choice in in_order)


def _alternative(choice: ChatChoice | TextChoice) -> Alternative:
    if isinstance(choice, TextChoice):
        return Alternative(text=choice.text, finish_reason=choice.finish_reason)
    message = choice.message
    return Alternative(
        text=message.content or "",
        tool_calls=tuple(map(_tool_call, message.tool_calls or ())),
        finish_reason=choice.finish_reason or None,
        logprobs=(choice.logprobs and choice.logprobs.content) or (),
    )


def _tool_call(made: ToolCallAnswer) -> ToolCall:
    function = made.function
    return ToolCall(id=made.id, name=function.name, arguments=function.arguments)


def _parsed(
    schema: Schema | None, text: str, calls: tuple[ToolCall, ...]
) -> object | None:
    if schema is None or (calls and not text):
        return None
    return schemas.parse(schema, text)


def _usage(said: TokenUsage | UnsetType | None, of_job: TokenUsage | None) -> Usage:
    none = TokenUsage()
    used = said if said and said != none else of_job or none
    return Usage(
        prompt_tokens=used.prompt_tokens,
        completion_tokens=used.completion_tokens,
        cached_tokens=used.prompt_tokens_details.cached_tokens,
    )


def _timing(made: CompletionDetails, of_job: JobTiming | None) -> Timing:
    given = made if made.total_s or of_job is None else of_job
    return Timing(
        queue_s=given.queue_s,
        first_token_s=given.first_token_s,
        total_s=given.total_s,
    )


def _speed(usage: Usage, timing: Timing) -> float:
    busy = timing.total_s
    return usage.completion_tokens / busy if busy > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """One vector of length 1 for each text, in the order the texts came.

    ``substituted`` is the usual model when a smaller one computed them instead.
    """

    vectors: tuple[tuple[float, ...], ...]
    model: str
    usage: Usage
    fingerprint: str | None = None
    substituted: str | None = None


def embeddings(answer: EmbeddingsAnswer) -> Embeddings:
    """The vectors of an API response."""
    ordered = sorted(answer.data, key=lambda one: one.index)
    return Embeddings(
        vectors=tuple(vector(one.embedding) for one in ordered),
        model=answer.model,
        usage=Usage(prompt_tokens=answer.usage.prompt_tokens),
        fingerprint=answer.system_fingerprint,
        substituted=answer.model_substituted,
    )


def vector(packed: list[float] | str) -> tuple[float, ...]:
    """A vector as numbers, also from little-endian float32 in base64.

    >>> vector("AACAPwAAAMA=")
    (1.0, -2.0)
    """
    if not isinstance(packed, str):
        return tuple(packed)
    values = array("f", base64.b64decode(packed))
    if sys.byteorder == "big":
        values.byteswap()
    return tuple(values)
