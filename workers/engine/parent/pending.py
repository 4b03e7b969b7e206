"""Maps the requests in flight to their sinks: the parent's only shared state."""

import threading
import time

import msgspec

from genie.contracts.inference import Fault
from workers.engine.errors import EngineBusy, EngineGone
from workers.engine.protocol import (
    EngineEvent,
    EngineRequest,
    EngineStats,
    Finish,
    Sink,
    failed,
)


class PendingRequests:
    """The sinks of all requests in flight; safe from any thread."""

    def __init__(self, *, slots: int, waiting: int) -> None:
        self.latest = EngineStats(slots=slots)
        """What the engine has reported last."""

        self._lock = threading.Lock()
        self._slots = slots
        self._bound = waiting
        self._sinks: dict[str, tuple[Sink, float]] = {}
        self._gone: Fault | None = None

    def add(self, request: EngineRequest, sink: Sink) -> None:
        """Take a request in; raises EngineGone, EngineBusy, or ValueError for a
        request whose id is already in flight."""
        with self._lock:
            if self._gone is not None:
                raise EngineGone(self._gone)
            if request.id in self._sinks:
                raise ValueError(f"request {request.id} is already in flight")
            if len(self._sinks) >= self._slots + self._bound:
                raise EngineBusy(in_flight=len(self._sinks), bound=self._bound)
            self._sinks[request.id] = (sink, time.monotonic())

    def discard(self, request_id: str) -> bool:
        """Forget a request that never reached the engine; False if it has ended."""
        with self._lock:
            return self._sinks.pop(request_id, None) is not None

    def deliver(self, event: EngineEvent) -> None:
        """Hand an event to its sink; a `Finish` is the last one."""
        with self._lock:
            entry = self._sinks.get(event.id)
            if isinstance(event, Finish):
                self._sinks.pop(event.id, None)
        if entry is not None:
            entry[0](event)

    def fail_all(self, fault: Fault) -> None:
        """End everything in flight with ``fault`` and take nothing more in."""
        with self._lock:
            if self._gone is None:
                self._gone = fault
            left, self._sinks = self._sinks, {}
        for request_id, (sink, submitted) in left.items():
            sink(failed(request_id, fault, time.monotonic() - submitted))

    def waited_s(self) -> float:
        """How long the oldest request has been in flight; 0 with none."""
        with self._lock:
            oldest = min((at for _, at in self._sinks.values()), default=None)
        return 0.0 if oldest is None else time.monotonic() - oldest

    def stats(self) -> EngineStats:
        """The engine's latest figures, with this side's exact counts of requests."""
        in_flight = len(self._sinks)
        active = min(in_flight, self._slots)
        return msgspec.structs.replace(
            self.latest,
            slots=self._slots,
            active=active,
            waiting=in_flight - active,
        )


def closed(model: str) -> Fault:
    """Why requests end when their engine is closed."""
    message = f"the engine of {model} was closed"
    return Fault(code="engine_closed", message=message, retryable=True)


def died(model: str, why: str) -> Fault:
    """Why requests end when their engine has died."""
    message = f"the engine of {model} died: {why}"
    return Fault(code="engine_died", message=message, retryable=True)
