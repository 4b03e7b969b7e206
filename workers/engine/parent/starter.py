"""Starts engines in a child or in a thread, and keeps a child warm for the next."""

import contextlib
import queue
import threading
from collections.abc import Callable

import msgspec
import psutil

from genie import logs, sources
from genie.contracts.fleet import EngineMemory
from genie.contracts.inference import Fault
from genie.errors import CatalogError
from workers.engine import registry
from workers.engine.child.backend import Backend, EngineLimits, EngineLoop
from workers.engine.errors import load_failed
from workers.engine.parent.pending import PendingRequests, closed, died
from workers.engine.parent.process import ChildEnvironment, EngineProcess
from workers.engine.protocol import (
    EngineEvent,
    EngineHooks,
    EngineRequest,
    EngineStats,
    Load,
    LoadedEngine,
    Sink,
    waiting_bound,
)
from workers.engine.registry import RegisteredEngine
from workers.engine.wire import Cancel, Command, Stop, Submit

log = logs.logger("engine")

LEAST_BYTES = 2 * 1024**3
"""With less memory available no child is kept: a model may need the room any time."""


class EngineThread:
    """A backend stepped by a thread of the worker: an `Engine` that computes elsewhere.

    What crashes it crashes the worker, and its memory comes back only with the worker's
    end; an engine with weights of its own belongs into a child. ``on_exit`` is called
    once, from that thread, if the backend raises.
    """

    def __init__(
        self, backend: Backend, on_exit: Callable[[Fault], None] = lambda _: None
    ) -> None:
        room = backend.room
        self._model, self._on_exit = room.model, on_exit
        self._sinks = PendingRequests(slots=room.slots, waiting=room.waiting)
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._loop = EngineLoop(backend, self._take, self._emit)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: EngineRequest, sink: Sink) -> None:
        """Start a request; raises EngineBusy when full, EngineGone after its end."""
        self._sinks.add(request, sink)
        self._commands.put(Submit(request=request))

    def cancel(self, request_id: str) -> None:
        """Stop a request; its `Finish` says cancelled."""
        self._commands.put(Cancel(id=request_id))

    def stats(self) -> EngineStats:
        """The engine's latest figures."""
        return self._sinks.stats()

    def close(self) -> None:
        """Stop; what still runs fails with ``engine_closed``."""
        self._commands.put(Stop())
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        # The border of one engine: whatever it raises ends it alone, as the death of a
        # child would.
        try:
            self._loop.run()
        except Exception as error:
            log.error("engine_raised", model=self._model, exc_info=True)
            fault = died(self._model, f"{type(error).__name__}: {error}"[:500])
            self._sinks.fail_all(fault)
            self._on_exit(fault)
            return
        self._sinks.fail_all(closed(self._model))

    def _take(self, timeout: float) -> list[Command]:
        commands: list[Command] = []
        with contextlib.suppress(queue.Empty):
            commands.append(self._commands.get(timeout=timeout))
            while True:
                commands.append(self._commands.get_nowait())
        return commands

    def _emit(self, batch: list[EngineEvent | EngineStats]) -> None:
        for event in batch:
            if isinstance(event, EngineStats):
                self._sinks.latest = event
            else:
                self._sinks.deliver(event)


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
        return _start_in_thread(kind, load, hooks)
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


def _start_in_thread(
    kind: RegisteredEngine, load: Load, hooks: EngineHooks
) -> LoadedEngine:
    """Load a model here and step it in a thread; raises LoadFailed."""
    if load.path is not None:
        message = f"the {kind.facts.name} engine runs without files; use its own source"
        raise load_failed("bad_source", message)
    backend, identity = kind.load(
        load, EngineLimits.of(load), lambda: (), hooks.on_progress
    )
    engine = EngineThread(backend, hooks.on_exit)
    return LoadedEngine(
        engine=engine, fingerprint=identity, peak_bytes=backend.peak_bytes()
    )


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
