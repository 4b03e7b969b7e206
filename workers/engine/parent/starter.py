"""The parent's side of an engine: one child process, one pipe, one reader thread.

The parent never imports torch. A child can be killed at any moment, and only its
end surely gives all memory back.
"""

import contextlib
import signal
import subprocess
import threading
import time
from dataclasses import dataclass

import msgspec
import psutil

from genie import sources
from genie.contracts.fleet import EngineMemory
from genie.contracts.inference import Fault
from genie.errors import CatalogError
from workers.engine import registry
from workers.engine.errors import EngineGone, LoadFailed, load_failed
from workers.engine.parent.pending import PendingRequests
from workers.engine.parent.spawn import ChildEnvironment, ChildProcess
from workers.engine.parent.thread import start_in_thread
from workers.engine.pipe import Pipe
from workers.engine.protocol import (
    EngineHooks,
    EngineRequest,
    EngineStats,
    Load,
    LoadedEngine,
    Sink,
    waiting_bound,
)
from workers.engine.registry import RegisteredEngine
from workers.engine.wire import (
    Cancel,
    ChildReport,
    ChildWarm,
    Command,
    EngineReady,
    LoadFailureReport,
    LoadProgress,
    Stop,
    Submit,
    decode_reports,
    encode,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildTimeouts:
    """How long to wait for a child, in seconds.

    ``hang_s`` without any sign of life while requests run, or ``load_s`` of
    loading, and it is killed; ``close_s`` is its time to stop politely.
    """

    load_s: float = 900.0
    hang_s: float = 120.0
    close_s: float = 5.0


class EngineProcess:
    """A model in a child process: an `Engine`.

    ``child`` is where it lives; one that was started already saves the child's
    imports.
    """

    def __init__(
        self,
        load: Load,
        hooks: EngineHooks,
        *,
        child: ChildProcess,
        bounds: ChildTimeouts | None = None,
    ) -> None:
        self._load, self._hooks = load, hooks
        self._spawned = child
        self._bounds = bounds or ChildTimeouts()
        self._sinks = PendingRequests(slots=load.slots, waiting=load.waiting)
        self._latest = EngineStats(
            slots=load.slots, free_slots=load.slots, context=load.context
        )
        self._settled = threading.Event()
        self._ended = threading.Event()
        self._closing = False
        self._verdict: EngineReady | LoadFailureReport | None = None
        self._killed_for: str | None = None
        self._heard_at = time.monotonic()
        self._fault: Fault
        self._child: subprocess.Popen[bytes]
        self._pipe: Pipe

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def start(self) -> EngineReady:
        """Load the model and wait until it is ready; raises LoadFailed."""
        self._spawned.start()
        self._spawned.hand_over(self._run)
        if not self._settled.wait(self._bounds.load_s):
            self._kill(f"loading took longer than {self._bounds.load_s:.0f} s")
            self._settled.wait()
        if isinstance(self._verdict, EngineReady):
            return self._verdict
        self.close()
        if isinstance(self._verdict, LoadFailureReport):
            raise LoadFailed(self._verdict.fault)
        raise LoadFailed(self._fault)

    def submit(self, request: EngineRequest, sink: Sink) -> None:
        """Start a request; raises EngineBusy when full, EngineGone after its end."""
        self._sinks.add(request, sink)
        try:
            frame = encode([Submit(request=request)])
        except (ValueError, OverflowError, TypeError) as error:
            # No message can carry it: half a surrogate pair, a number of 80 bits.
            self._sinks.refuse(request.id, unsendable(error))
            return
        if self._put(frame):
            return
        # If the reader saw the death first, the sink has had its Finish already.
        if self._sinks.discard(request.id):
            raise EngineGone(self._death())

    def cancel(self, request_id: str) -> None:
        """Stop a request within one step; its `Finish` says cancelled."""
        # What no message can carry, `submit` has refused: there is nothing to stop.
        with contextlib.suppress(UnicodeEncodeError):
            self._send(Cancel(id=request_id))

    def stats(self) -> EngineStats:
        """The child's latest figures with exact counts of requests."""
        return self._sinks.count(self._latest)

    def close(self) -> None:
        """Stop the child, by force after a bound; what runs fails as closed."""
        self._closing = True
        if self._spawned.failure is not None:
            return  # there never was a child
        self._send(Stop())
        if self._spawned.is_mine:
            return
        if not self._ended.wait(self._bounds.close_s):
            self._kill("it did not stop when asked")
        self._ended.wait()

    def _send(self, command: Command) -> bool:
        return self._put(encode([command]))

    def _put(self, frame: bytes) -> bool:
        try:
            self._pipe.send_soon(frame)
        except (OSError, ValueError):
            return False
        return True

    def _run(self) -> None:
        """The reader: listens until the child has ended, then tells everyone."""
        if self._spawned.failure is not None:
            self._unspawned(self._spawned.failure)
            return
        self._child, self._pipe = self._spawned.child, self._spawned.pipe
        self._heard_at = time.monotonic()
        try:
            self._send(self._load)
            self._listen()
        finally:
            self._end()

    def _unspawned(self, error: OSError) -> None:
        message = f"no process could be started for {self._load.spec.id}: {error}"
        fault = Fault(code="load_failed", message=message, retryable=True)
        self._verdict = LoadFailureReport(fault=fault)
        self._sinks.fail_all(fault)
        self._ended.set()
        self._settled.set()

    def _listen(self) -> None:
        while True:
            try:
                if not self._pipe.wait(1.0):
                    self._watch()
                    continue
                frames = self._pipe.frames()
            except (EOFError, OSError):
                return
            self._heard_at = time.monotonic()
            with self._hooks.gather():
                for frame in frames:
                    for report in decode_reports(frame):
                        self._receive(report)

    def _receive(self, report: ChildReport) -> None:
        if isinstance(report, EngineStats):
            self._latest = report
        elif isinstance(report, LoadProgress):
            self._hooks.on_progress(report.share, report.stage)
        elif isinstance(report, EngineReady | LoadFailureReport):
            self._verdict = report
            self._settled.set()
        elif not isinstance(report, ChildWarm):
            self._sinks.deliver(report)

    def _watch(self) -> None:
        """Kill a child that is silent while someone waits for it."""
        silent = min(time.monotonic() - self._heard_at, self._sinks.waited_s())
        if silent > self._bounds.hang_s:
            self._kill(f"it hung for {silent:.0f} s")

    def _kill(self, reason: str) -> None:
        self._killed_for = self._killed_for or reason
        self._child.kill()

    def _end(self) -> None:
        self._reap()
        was_serving = isinstance(self._verdict, EngineReady)
        self._fault = self._death()
        self._sinks.fail_all(self._fault)
        self._pipe.close()
        self._settled.set()
        self._ended.set()
        if was_serving and not self._closing:
            self._hooks.on_exit(self._fault)

    def _reap(self) -> None:
        try:
            self._child.wait(self._bounds.close_s)
        except subprocess.TimeoutExpired:
            # The pipe is gone but the process is not: it can serve nobody.
            self._child.kill()
            self._child.wait()

    def _death(self) -> Fault:
        model = self._load.spec.id
        if self._closing and self._killed_for is None:
            message = f"the engine of {model} was closed"
            return Fault(code="engine_closed", message=message, retryable=True)
        why = self._killed_for or _describe(self._child.poll())
        message = f"the engine of {model} died: {why}"
        return Fault(code="engine_died", message=message, retryable=True)


def unsendable(error: Exception) -> Fault:
    """Why a request cannot even be told to an engine."""
    message = f"the request is malformed: {type(error).__name__}: {error}"
    return Fault(code="invalid_request", message=message[:300])


def _describe(code: int | None) -> str:
    if code is None:
        return "its pipe closed"
    if code >= 0:
        return f"it exited with status {code}"
    return f"killed by {signal.Signals(-code).name} (out of memory is a common cause)"


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
