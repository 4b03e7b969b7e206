"""An engine in a child process: one model, one pipe, one thread that listens to it.

The worker itself never imports torch. A child can be killed at any moment, and only its
end surely gives all memory back. It is started when its model is loaded, or before:
then it imports torch while nobody waits, and the next load begins seconds sooner.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from genie.contracts.inference import Fault
from workers.engine import wire
from workers.engine.errors import EngineGone, LoadFailed
from workers.engine.parent.pending import PendingRequests, closed, died
from workers.engine.pipe import Pipe
from workers.engine.protocol import (
    EngineHooks,
    EngineRequest,
    EngineStats,
    Load,
    LoadedEngine,
    Sink,
    failed,
)

KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "USER")
"""All a child gets of its parent's environment: no credential is among them."""


@dataclass(frozen=True, slots=True)
class ChildEnvironment:
    """What is fixed when a child starts: the GPUs it sees, its threads."""

    cuda_devices: str
    threads: int

    @classmethod
    def of(cls, device: str, threads: int) -> "ChildEnvironment":
        """What a child must be started with to load a model onto ``device``."""
        return cls(device.partition(":")[2], max(1, threads))

    def variables(self) -> dict[str, str]:
        """All environment variables of a child: of ours only what it needs to run."""
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        root = str(Path(__file__).parents[3])
        paths = [root, *(path for path in sys.path if path and path != root)]
        return kept | {
            "PYTHONPATH": os.pathsep.join(paths),
            "CUDA_VISIBLE_DEVICES": self.cuda_devices,
            # CUDA counts the fastest card first unless told to count as the driver
            # does, whose indices these are: else a model could go to another card.
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "OMP_NUM_THREADS": str(self.threads),
            "TOKENIZERS_PARALLELISM": "false",
            # A child never fetches anything: its files are there and verified.
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }


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
    """A child process, started at once; an `Engine` when `load` has returned.

    The child asks the kernel to die with the thread that started it, so that thread
    listens to the child until its end. ``warms`` names the engine whose imports begin
    before any model is known.
    """

    def __init__(
        self,
        site: ChildEnvironment,
        *,
        warms: str = "",
        timeouts: ChildTimeouts | None = None,
    ) -> None:
        self.site, self.warms = site, warms
        self.pid = 0
        """The child's process id; 0 before it is started."""

        self._timeouts = timeouts or ChildTimeouts()
        self._model = ""
        self._hooks = EngineHooks(on_exit=lambda _: None)
        self._sinks = PendingRequests(slots=0, waiting=0)
        self._started, self._settled = threading.Event(), threading.Event()
        self._ended = threading.Event()
        self._closing = False
        self._verdict: wire.EngineReady | wire.LoadFailureReport | None = None
        self._not_started: OSError | None = None
        self._killed_for: str | None = None
        self._heard_at = time.monotonic()
        self._child: subprocess.Popen[bytes]
        self._pipe: Pipe
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """True while the child runs or is about to."""
        return not self._ended.is_set()

    def load(self, load: Load, hooks: EngineHooks) -> LoadedEngine:
        """Load a model, once, and wait until it serves; raises LoadFailed."""
        self._model, self._hooks = load.spec.id, hooks
        self._sinks = PendingRequests(slots=load.slots, waiting=load.waiting)
        self._started.wait()
        if self._not_started is None:
            self._put(wire.encode([load]))
        if not self._settled.wait(self._timeouts.load_s):
            self._kill(f"loading took longer than {self._timeouts.load_s:.0f} s")
            self._settled.wait()
        verdict = self._verdict
        if isinstance(verdict, wire.EngineReady):
            return LoadedEngine(
                engine=self,
                fingerprint=verdict.fingerprint,
                peak_bytes=verdict.peak_bytes,
            )
        fault = self._death() if verdict is None else verdict.fault
        self.close()
        raise LoadFailed(fault)

    def submit(self, request: EngineRequest, sink: Sink) -> None:
        """Start a request; raises EngineBusy when full, EngineGone after its end."""
        self._sinks.add(request, sink)
        try:
            frame = wire.encode([wire.Submit(request=request)])
        except (ValueError, OverflowError, TypeError) as error:
            # No message can carry it: half a surrogate pair, a number of 80 bits.
            why = f"the request is malformed: {type(error).__name__}: {error}"
            fault = Fault(code="invalid_request", message=why[:300])
            self._sinks.deliver(failed(request.id, fault))
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
            self._put(wire.encode([wire.Cancel(id=request_id)]))

    def stats(self) -> EngineStats:
        """The child's latest figures with exact counts of requests."""
        return self._sinks.stats()

    def close(self) -> None:
        """Stop the child, by force after a while; what runs fails as closed."""
        self._closing = True
        if not self.is_alive:
            return
        self._put(wire.encode([wire.Stop()]))
        if threading.current_thread() is self._thread:
            return
        if not self._ended.wait(self._timeouts.close_s):
            self._kill("it did not stop when asked")
        self._ended.wait()

    def discard(self) -> None:
        """End a child that was never given a model, without waiting for its end."""
        self._started.wait()
        # It holds nothing and may be deep in an import: there is nothing to ask it.
        if self._not_started is None:
            self._child.kill()

    def _put(self, frame: bytes) -> bool:
        try:
            self._pipe.send_soon(frame)
        except (OSError, ValueError):
            return False
        return True

    def _run(self) -> None:
        """Start the child, listen until it ends, then tell everyone who waits."""
        try:
            self._start()
        except OSError as error:
            self._not_started = error
            self._ended.set()
            self._settled.set()
            return
        finally:
            self._started.set()
        try:
            self._listen()
        finally:
            self._end()

    def _start(self) -> None:
        self._pipe, theirs = Pipe.pair()
        descriptor = theirs.fileno()
        warms = [self.warms] if self.warms else []
        command = [sys.executable, "-P", "-m", "workers.engine.child.main"]
        try:
            self._child = subprocess.Popen(
                [*command, str(descriptor), str(os.getpid()), *warms],
                env=self.site.variables(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(descriptor,),
                # Ctrl-C and group signals are for the worker, which then closes us.
                start_new_session=True,
            )
        except OSError:
            self._pipe.close()
            raise
        finally:
            theirs.close()
        self.pid = self._child.pid

    def _listen(self) -> None:
        self._heard_at = time.monotonic()
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
                    for report in wire.decode_reports(frame):
                        self._receive(report)

    def _receive(self, report: wire.ChildReport) -> None:
        if isinstance(report, EngineStats):
            self._sinks.latest = report
        elif isinstance(report, wire.LoadProgress):
            self._hooks.on_progress(report.share, report.stage)
        elif isinstance(report, wire.EngineReady | wire.LoadFailureReport):
            self._verdict = report
            self._settled.set()
        else:
            self._sinks.deliver(report)

    def _watch(self) -> None:
        """Kill a child that is silent while someone waits for it."""
        silent = min(time.monotonic() - self._heard_at, self._sinks.waited_s())
        if silent > self._timeouts.hang_s:
            self._kill(f"it hung for {silent:.0f} s")

    def _kill(self, reason: str) -> None:
        self._killed_for = self._killed_for or reason
        self._child.kill()

    def _end(self) -> None:
        self._reap()
        fault = self._death()
        self._sinks.fail_all(fault)
        self._pipe.close()
        self._ended.set()
        self._settled.set()
        if isinstance(self._verdict, wire.EngineReady) and not self._closing:
            self._hooks.on_exit(fault)

    def _reap(self) -> None:
        try:
            self._child.wait(self._timeouts.close_s)
        except subprocess.TimeoutExpired:
            # The pipe is gone but the process is not: it can serve nobody.
            self._child.kill()
            self._child.wait()

    def _death(self) -> Fault:
        if self._not_started is not None:
            why = f"no process could be started for {self._model}: {self._not_started}"
            return Fault(code="load_failed", message=why, retryable=True)
        if self._closing and self._killed_for is None:
            return closed(self._model)
        return died(self._model, self._killed_for or _describe(self._child.poll()))


def _describe(code: int | None) -> str:
    if code is None:
        return "its pipe closed"
    if code >= 0:
        return f"it exited with status {code}"
    return f"killed by {signal.Signals(-code).name} (out of memory is a common cause)"
