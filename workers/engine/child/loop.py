"""Steps a backend: takes commands in, hands batches of events out.

The same loop runs in a child process and in a thread of the worker.
"""

import time
from collections.abc import Callable, Sequence

from workers.engine.child.backend import Backend
from workers.engine.protocol import EngineEvent, EngineStats
from workers.engine.wire import Cancel, Command, Stop, Submit

STATS_S = 0.5
"""Statistics leave at least this often, busy or idle: they prove the loop lives."""

TakeCommands = Callable[[float], Sequence[Command]]
"""All commands so far; waits up to so many seconds for the first."""

EmitEvents = Callable[[Sequence[EngineEvent | EngineStats]], None]


class EngineLoop:
    """Steps a backend until it is told to stop."""

    def __init__(self, backend: Backend, take: TakeCommands, emit: EmitEvents) -> None:
        self._backend = backend
        self._take = take
        self._emit = emit
        self._stopping = False
        self._reported_at = 0.0
        self._reported: tuple[int, int] | None = None

    def run(self) -> None:
        """Serve until a `Stop` arrives."""
        while not self._stopping:
            for command in self._take(self._pause()):
                self._obey(command)
            self._turn()

    def _pause(self) -> float:
        wait = self._backend.wait_s()
        return STATS_S if wait is None else min(wait, STATS_S)

    def _obey(self, command: Command) -> None:
        if isinstance(command, Submit):
            self._backend.submit(command.request)
        elif isinstance(command, Cancel):
            self._backend.cancel(command.id)
        elif isinstance(command, Stop):
            self._stopping = True

    def _turn(self) -> None:
        batch: list[EngineEvent | EngineStats] = []
        if self._backend.is_busy:
            batch += self._backend.step()
        if self._stats_due():
            batch.append(self._report())
        if batch:
            self._emit(batch)

    def _stats_due(self) -> bool:
        scheduler = self._backend.scheduler
        if self._reported != (scheduler.active, scheduler.waiting):
            return True
        return time.monotonic() - self._reported_at >= STATS_S

    def _report(self) -> EngineStats:
        stats = self._backend.stats()
        self._reported = (stats.active, stats.waiting)
        self._reported_at = time.monotonic()
        return stats
