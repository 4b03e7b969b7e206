"""Engines: each loaded model runs in a child process of its own.

`start` is the only door. This package stays torch-free in the worker's process.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from genie.contracts.inference import Fault
from genie.contracts.model import ModelSpec, Quant
from workers.engine.child.backend import waiting_bound
from workers.engine.echo import WHOLE_PROMPTS, read_options
from workers.engine.errors import load_failed
from workers.engine.parent.process import ChildTimeouts, EngineProcess
from workers.engine.parent.spawn import ChildEnvironment, ChildProcess
from workers.engine.protocol import Engine, Gather, OnLoadProgress
from workers.engine.wire import Load

CPU_BUDGET = 128
CUDA_BUDGET = 2048
"""Tokens of one step: as many as delay the running requests unnoticeably."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedEngine:
    """A model that serves: its engine, its identity and the memory it took."""

    engine: Engine
    fingerprint: str
    peak_bytes: int


def start(  # noqa: PLR0913 - the one door: each is a fact only the caller knows
    spec: ModelSpec,
    quant: Quant,
    *,
    path: Path | None,
    slots: int,
    context: int,
    device: str,
    threads: int,
    on_exit: Callable[[Fault], None],
    on_progress: OnLoadProgress | None = None,
    bounds: ChildTimeouts | None = None,
    nest: ChildProcess | None = None,
    gather: Gather = nullcontext,
) -> LoadedEngine:
    """Load a model into a child process and wait until it serves.

    ``path`` is what `workers.files.files.Models.ensure` returned, None for echo;
    ``context`` is tokens a slot; ``device`` is ``cpu``, ``cuda:0`` or ``cuda:0,1``.
    Raises LoadFailed, whose fault says why and what to do. If the engine dies
    later, ``on_exit`` is called once, from the engine's own thread. ``nest`` is a
    child that was started beforehand, for the same `child_environment_for`; ``gather``
    is entered     around all that one read of its pipe brings.
    """
    load = Load(
        spec=spec,
        quant=quant,
        path=None if path is None else str(path),
        slots=_slots(spec, slots),
        context=_context(spec, context),
        waiting=waiting_bound(slots),
        budget=_budget(spec, device),
        device="cpu" if device == "cpu" else "cuda",
        threads=max(1, threads),
    )
    engine = EngineProcess(
        load,
        nest=nest or ChildProcess(child_environment_for(device, threads)),
        on_exit=on_exit,
        on_progress=on_progress,
        bounds=bounds,
        gather=gather,
    )
    ready = engine.start()
    return LoadedEngine(
        engine=engine, fingerprint=ready.fingerprint, peak_bytes=ready.peak_bytes
    )


def child_environment_for(device: str, threads: int) -> ChildEnvironment:
    """What a child for ``device`` must be started with."""
    visible = "" if device == "cpu" else device.removeprefix("cuda:")
    return ChildEnvironment(visible, max(1, threads))


def _slots(spec: ModelSpec, slots: int) -> int:
    if slots < 1:
        message = f"{spec.id} was given {slots} slots; it needs at least 1"
        raise load_failed("bad_slots", message)
    if spec.engine != "echo":
        return slots
    capped = read_options(spec.source).slots
    return slots if capped is None else min(slots, capped)


def _context(spec: ModelSpec, context: int) -> int:
    if not 2 <= context <= spec.context_max:
        message = (
            f"{spec.id} was given a context of {context} tokens; it holds 2 to "
            f"{spec.context_max}"
        )
        raise load_failed("bad_context", message)
    return context


def _budget(spec: ModelSpec, device: str) -> int:
    if spec.engine == "echo":
        return WHOLE_PROMPTS
    return CPU_BUDGET if device == "cpu" else CUDA_BUDGET


__all__ = ["ChildTimeouts", "Engine", "LoadedEngine", "child_environment_for", "start"]
