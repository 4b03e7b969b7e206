"""Starts engines: a child for each model, the next one from a child kept warm.

A warm child has imported what its engine needs, which is most of a start (some seconds
of the time a model swap takes). It holds no model and no GPU context, only a few
hundred MB, and is given back whenever a model needs the room.
"""

import threading

import msgspec
import psutil

from genie import sources
from genie.contracts.fleet import EngineMemory
from genie.errors import CatalogError
from workers.engine import registry
from workers.engine.errors import load_failed
from workers.engine.parent.process import ChildTimeouts, EngineProcess
from workers.engine.parent.spawn import ChildEnvironment, ChildProcess
from workers.engine.parent.thread import start_in_thread
from workers.engine.protocol import EngineHooks, Load, LoadedEngine, waiting_bound
from workers.engine.registry import RegisteredEngine

LEAST_BYTES = 2 * 1024**3
"""With less memory available no child is kept: a model may need the room any time."""


def start(
    load: Load,
    hooks: EngineHooks,
    *,
    child: ChildProcess | None = None,
    bounds: ChildTimeouts | None = None,
) -> LoadedEngine:
    """Load a model and wait until it serves.

    Raises LoadFailed, whose fault says why and what to do. ``child`` is one that was
    started beforehand, for the same `child_environment_for`.
    """
    kind = registry.engine_named(load.spec.engine)
    load = _checked(load, kind)
    if not kind.facts.has_child:
        return start_in_thread(kind, load, hooks)
    child = child or ChildProcess(child_environment_for(load.device, load.threads))
    engine = EngineProcess(load, hooks, child=child, bounds=bounds)
    ready = engine.start()
    return LoadedEngine(
        engine=engine, fingerprint=ready.fingerprint, peak_bytes=ready.peak_bytes
    )


def child_environment_for(device: str, threads: int) -> ChildEnvironment:
    """What a child for ``device`` must be started with."""
    return ChildEnvironment(device.partition(":")[2], max(1, threads))


class EngineStarter:
    """Starts engines, the next one from a warm child where there is one.

    ``keeps`` says whether to keep one at all. Safe from any thread.
    """

    def __init__(self, *, keeps: bool = True) -> None:
        self._keeps = keeps
        self._lock = threading.Lock()
        self._spare: ChildProcess | None = None

    def __call__(self, load: Load, hooks: EngineHooks) -> LoadedEngine:
        """As `start`; afterwards a child for the next model of the engine warms up."""
        kind = registry.engine_named(load.spec.engine)
        if kind.warm_up is None or not kind.facts.has_child:
            return start(load, hooks)
        site = child_environment_for(load.device, load.threads)
        child = self._take(site, kind.facts.name)
        try:
            return start(load, hooks, child=child)
        finally:
            self._prepare(site, kind.facts.name)

    def held_bytes(self) -> int:
        """Memory the warm child takes now; 0 without one."""
        with self._lock:
            spare = self._spare
        if spare is None or not spare.is_ready:
            return 0
        try:
            return int(psutil.Process(spare.child.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def give_back(self) -> bool:
        """End the warm child, so that a model gets its memory; False without one."""
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is None:
            return False
        spare.leave()
        return True

    def close(self) -> None:
        """Keep no child from now on."""
        self._keeps = False
        self.give_back()

    def _take(self, site: ChildEnvironment, engine: str) -> ChildProcess | None:
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
            self._spare = ChildProcess(site, warms=engine) if is_wanted else None
            if self._spare is not None:
                self._spare.start()
        if old is not None:
            old.leave()


def _suits(spare: ChildProcess, site: ChildEnvironment, engine: str) -> bool:
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
