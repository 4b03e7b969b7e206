"""Starts engines in a child or in a thread, and keeps a child warm for the next."""

import threading
from collections.abc import Callable

import msgspec
import psutil

from genie import sources
from genie.contracts.fleet import EngineMemory
from genie.errors import CatalogError
from workers.engine import registry
from workers.engine.errors import load_failed
from workers.engine.parent.process import ChildEnvironment, EngineProcess
from workers.engine.parent.thread import start_in_thread
from workers.engine.protocol import EngineHooks, Load, LoadedEngine, waiting_bound
from workers.engine.registry import RegisteredEngine

LEAST_BYTES = 2 * 1024**3
"""With less memory available no child is kept: a model may need the room any time."""


def start(
    load: Load,
    hooks: EngineHooks,
    *,
    child_for: Callable[[ChildEnvironment], EngineProcess] = EngineProcess,
) -> LoadedEngine:
    """Load a model and wait until it serves.

    Raises LoadFailed, whose fault says why and what to do. ``child_for`` gives the
    process to load it in; it may have been started beforehand.
    """
    kind = registry.engine_named(load.spec.engine)
    load = _checked(load, kind)
    if not kind.facts.has_child:
        return start_in_thread(kind, load, hooks)
    child = child_for(ChildEnvironment.of(load.device, load.threads))
    return child.load(load, hooks)


class EngineStarter:
    """Starts engines, the next one from a warm child where there is one.

    ``keeps`` says whether to keep one at all. Safe from any thread.
    """

    def __init__(self, *, keeps: bool = True) -> None:
        self._keeps = keeps
        self._lock = threading.Lock()
        self._spare: EngineProcess | None = None

    def __call__(self, load: Load, hooks: EngineHooks) -> LoadedEngine:
        """As `start`; afterwards a child for the next model of the engine warms up."""
        kind = registry.engine_named(load.spec.engine)
        if kind.warm_up is None or not kind.facts.has_child:
            return start(load, hooks)
        site, name = ChildEnvironment.of(load.device, load.threads), kind.facts.name
        try:
            return start(
                load,
                hooks,
                child_for=lambda site: self._take(site, name) or EngineProcess(site),
            )
        finally:
            self._prepare(site, name)

    def held_bytes(self) -> int:
        """Memory the warm child takes now; 0 without one."""
        spare = self._spare
        if spare is None or not spare.pid:
            return 0
        try:
            return int(psutil.Process(spare.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def give_back(self) -> bool:
        """End the warm child, so that a model gets its memory; False without one."""
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None:
            spare.discard()
        return spare is not None

    def close(self) -> None:
        """Keep no child from now on."""
        self._keeps = False
        self.give_back()

    def _take(self, site: ChildEnvironment, engine: str) -> EngineProcess | None:
        """The warm child, if it was started for this engine and site and is alive."""
        with self._lock:
            spare = self._spare
            if spare is None or not _suits(spare, site, engine):
                return None
            self._spare = None
            return spare

    def _prepare(self, site: ChildEnvironment, engine: str) -> None:
        with self._lock:
            old = self._spare
            is_wanted = self._keeps and _has_room()
            if is_wanted and old is not None and _suits(old, site, engine):
                return
            self._spare = EngineProcess(site, warms=engine) if is_wanted else None
        if old is not None:
            old.discard()


def _suits(spare: EngineProcess, site: ChildEnvironment, engine: str) -> bool:
    return (spare.site, spare.warms) == (site, engine) and spare.is_alive


def _has_room() -> bool:
    return int(psutil.virtual_memory().available) >= LEAST_BYTES


def _checked(load: Load, kind: RegisteredEngine) -> Load:
    """The load within what model and source allow, with the engine's own bounds."""
    slots = _slots(load, kind)
    if not 2 <= load.context <= load.spec.context_max:
        message = (
            f"{load.spec.id} was given a context of {load.context} tokens; it holds 2 "
            f"to {load.spec.context_max}"
        )
        raise load_failed("bad_context", message)
    return msgspec.structs.replace(
        load,
        slots=slots,
        waiting=waiting_bound(slots),
        budget=kind.budget(load.device_kind),
        threads=max(1, load.threads),
    )


def _slots(load: Load, kind: RegisteredEngine) -> int:
    if load.slots < 1:
        message = f"{load.spec.id} was given {load.slots} slots; it needs at least 1"
        raise load_failed("bad_slots", message)
    if kind.facts.memory is not EngineMemory.NONE:
        return load.slots
    try:
        most = sources.slots_of(load.spec.source)
    except CatalogError as error:
        raise load_failed("bad_source", error.message) from error
    return load.slots if most is None else min(load.slots, most)
