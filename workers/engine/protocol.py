"""Defines what the worker asks of an engine, whatever runs inside it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from genie.contracts.base import Contract, Count, Seconds
from genie.contracts.fleet import LoadStage
from genie.contracts.inference import (
    AnswerExtras,
    Fault,
    FinishReason,
    Message,
    SampledToken,
    Sampling,
    Tool,
    Usage,
    WorkClass,
)
from genie.contracts.model import ModelSpec, Quant


class EngineRequest(Contract, frozen=True, kw_only=True):
    """One generation: chat ``messages`` or a plain ``prompt``; or ``inputs`` to embed.

    ``deadline_s`` counts from submission; ``scope`` is the org, the border that
    prefix reuse never crosses.
    """

    id: str
    scope: str
    work_class: WorkClass
    sampling: Sampling
    deadline_s: Seconds
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    inputs: tuple[str, ...] = ()
    resume: str = ""
    """Text of the answer that was given before: generation goes on after it."""
    json_schema: str | None = None
    tools: tuple[Tool, ...] = ()
    force_tool: str | None = None
    one_call: bool = False


class Piece(Contract, frozen=True, kw_only=True, tag_field="kind", tag="piece"):
    """Some new text of a running request, and how many tokens it took.

    ``choices`` are these tokens one by one, if the request asked for logprobs.
    """

    id: str
    text: str
    tokens: Count
    choices: tuple[SampledToken, ...] = ()


class Finish(Contract, frozen=True, kw_only=True, tag_field="kind", tag="finish"):
    """The one terminal event of a request. ``fault`` is set when it failed."""

    id: str
    reason: FinishReason
    usage: Usage
    fault: Fault | None = None
    first_token_s: Seconds = 0.0
    total_s: Seconds = 0.0
    extras: AnswerExtras | None = None


def failed(request_id: str, fault: Fault, total_s: Seconds = 0.0) -> Finish:
    """The end of a request that has computed nothing."""
    return Finish(
        id=request_id,
        reason=FinishReason.ERROR,
        usage=Usage(),
        fault=fault,
        total_s=total_s,
    )


EngineEvent = Piece | Finish
Sink = Callable[[EngineEvent], None]
"""Called from the engine's own thread; must return at once and never raise."""


Gather = Callable[[], AbstractContextManager[None]]
"""Entered around all that an engine says at once, so that it may be sent on so."""


OnLoadProgress = Callable[[float, LoadStage], None]
"""Hears how far a load has come, 0 to 1, and what comes next."""


class Load(Contract, frozen=True, kw_only=True, tag_field="kind", tag="load"):
    """Which model to load, and with how much room.

    ``path`` is what `workers.files.files.ModelStore.ensure` returned, None without
    files; ``context`` is tokens a slot; ``device`` is ``cpu``, ``cuda:0`` or
    ``cuda:0,1``. The starter adds ``waiting``, the most requests that may queue for a
    slot, and ``budget``, the most tokens of one step.
    """

    spec: ModelSpec
    quant: Quant
    path: str | None
    slots: Count
    context: Count
    device: str
    threads: Count
    waiting: Count = 0
    budget: Count = 0

    @property
    def device_kind(self) -> str:
        """``cpu`` or ``cuda``."""
        return self.device.partition(":")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineHooks:
    """What an engine calls: ``on_exit`` once, from its own thread, if it dies later.

    ``gather`` is entered around all that one read of its pipe brings.
    """

    on_exit: Callable[[Fault], None]
    on_progress: OnLoadProgress = lambda _share, _stage: None
    gather: Gather = nullcontext


class EngineStats(Contract, frozen=True, kw_only=True, tag_field="kind", tag="stats"):
    """The engine now: what heartbeats report of it."""

    slots: Count = 0
    active: Count = 0
    waiting: Count = 0
    tokens_per_s: float = 0.0
    peak_bytes: Count = 0


def waiting_bound(slots: int) -> int:
    """How many requests may wait for ``slots`` slots."""
    return max(16, 4 * slots)


class Engine(Protocol):
    """A loaded model. Every submitted request ends with exactly one `Finish`."""

    def submit(self, request: EngineRequest, sink: Sink) -> None:
        """Start a request; raises `workers.engine.errors.EngineBusy` when full
        and `workers.engine.errors.EngineGone` when the engine has died."""

    def cancel(self, request_id: str) -> None:
        """Stop a request within one step; its `Finish` says cancelled."""

    def stats(self) -> EngineStats:
        """The engine's latest figures; never blocks."""

    def close(self) -> None:
        """Stop, fail what runs, give all memory back; safe to call twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedEngine:
    """A model that serves: its engine, its identity and the memory it took."""

    engine: Engine
    fingerprint: str
    peak_bytes: int
