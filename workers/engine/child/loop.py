"""Steps a backend: takes commands in, hands batches of events out.

The same loop runs in a child process and in a thread of the worker.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from workers.engine.child.backend import Backend, PieceCoalescer
from workers.engine.protocol import EngineEvent, EngineStats
from workers.engine.wire import Cancel, Command, Stop, Submit

STATS_S = 0.5
"""Statistics leave at least this often, busy or idle: they prove the loop lives."""

EmitEvents = Callable[[Sequence[EngineEvent | EngineStats]], None]


class CommandSource(Protocol):
    """Where commands come from."""

    def take(self, timeout: float) -> list[Command]:
        """All commands so far; waits up to ``timeout`` seconds for the first."""


class CommandQueue:
    """Commands from other threads, in order."""

    def __init__(self) -> None:
        self._commands: deque[Command] = deque()
        self._arrived = threading.Condition()

    def put(self, commands: Sequence[Command]) -> None:
        """Add commands and wake the loop."""
        with self._arrived:
            self._commands.extend(commands)
            self._arrived.notify()

    def take(self, timeout: float) -> list[Command]:
        """All commands so far; waits up to ``timeout`` seconds for the first."""
        with self._arrived:
            if not self._commands and timeout > 0:
                self._arrived.wait(timeout)
            commands = list(self._commands)
            self._commands.clear()
        return commands


class EngineLoop:
    """Steps a backend until it is told to stop."""

    def __init__(
        self, backend: Backend, inbox: CommandSource, emit: EmitEvents
    ) -> None:
        self._backend = backend
        self._inbox = inbox
        self._emit = emit
        self._pieces = PieceCoalescer()
        self._stopping = False
        self._reported_at = 0.0
        self._reported: tuple[int, int] | None = None

    def run(self) -> None:
        """Serve until a `Stop` arrives."""
        while not self._stopping:
            for command in self._inbox.take(self._pause()):
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
            events = self._backend.step()
            batch.extend(self._pieces.feed(events, time.monotonic()))
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
