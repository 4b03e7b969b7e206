"""An engine in a thread of the worker: for one that computes nothing here itself.

What crashes it crashes the worker, and its memory comes back only with the worker's
end; an engine with weights of its own belongs into a child.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence

from genie import logs
from genie.contracts.inference import Fault
from workers.engine.child.backend import Backend, EngineLimits
from workers.engine.child.loop import EngineLoop
from workers.engine.errors import load_failed
from workers.engine.parent.pending import PendingRequests, closed, died
from workers.engine.protocol import (
    EngineEvent,
    EngineHooks,
    EngineRequest,
    EngineStats,
    Load,
    LoadedEngine,
    Sink,
)
from workers.engine.registry import RegisteredEngine
from workers.engine.wire import Cancel, Command, Stop, Submit

log = logs.logger("engine")


class EngineThread:
    """A backend that is stepped by a thread of this process: an `Engine`.

    ``on_exit`` is called once, from that thread, if the backend raises.
    """

    def __init__(
        self, backend: Backend, on_exit: Callable[[Fault], None] = lambda _: None
    ) -> None:
        room = backend.room
        self._model, self._on_exit = room.model, on_exit
        self._sinks = PendingRequests(
            slots=room.slots, waiting=room.waiting, context=room.context
        )
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

    def _emit(self, batch: Sequence[EngineEvent | EngineStats]) -> None:
        for event in batch:
            if isinstance(event, EngineStats):
                self._sinks.latest = event
            else:
                self._sinks.deliver(event)


def start_in_thread(
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
