"""A child process for one model, and the thread that must outlive it.

A child is started when its model is loaded, or before: then it imports torch while
nobody waits for it, and the next load begins seconds sooner.
"""

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workers.engine.pipe import Pipe
from workers.engine.wire import WARM, ChildWarm, decode_reports

KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "USER")
"""All a child gets of its parent's environment: no credential is among them."""


@dataclass(frozen=True, slots=True)
class ChildEnvironment:
    """What is fixed when a child starts: the GPUs it sees, its threads."""

    cuda_devices: str
    threads: int


class ChildProcess:
    """One child and its thread.

    The child asks the kernel to die with the thread that spawned it, so whoever
    listens to the child does so in that thread: `hand_over` says who. ``warms`` names
    the engine whose imports begin before any model is known.
    """

    def __init__(self, site: ChildEnvironment, *, warms: str = "") -> None:
        self.site, self.warms = site, warms
        self.failure: OSError | None = None
        self.child: subprocess.Popen[bytes]
        self.pipe: Pipe
        self._job: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._spawned = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Spawn the child, unless that was done; returns at once."""
        if self._thread.ident is None:
            self._thread.start()

    def hand_over(self, job: Callable[[], None]) -> None:
        """Run ``job`` in the child's own thread; it returns when the child ends."""
        self._job.put(job)

    @property
    def is_mine(self) -> bool:
        """True in the child's own thread."""
        return threading.current_thread() is self._thread

    @property
    def is_ready(self) -> bool:
        """True when the child was spawned."""
        return self._spawned.is_set() and self.failure is None

    @property
    def is_alive(self) -> bool:
        """True while the child runs or is about to."""
        if not self._spawned.is_set():
            return self._thread.is_alive()
        return self.is_ready and self.child.poll() is None

    def warmed(self, timeout_s: float) -> ChildWarm | None:
        """A warm child's word that it has imported all; None if it is not there yet.

        Only before `hand_over`.
        """
        if not self._spawned.wait(timeout_s) or self.failure is not None:
            return None
        try:
            frame = self.pipe.frame(timeout_s)
        except (EOFError, OSError):
            return None
        report = None if frame is None else decode_reports(frame)[0]
        return report if isinstance(report, ChildWarm) else None

    def leave(self) -> None:
        """End a child that was never given a model."""
        self.hand_over(self._end)

    def _end(self) -> None:
        if self.failure is not None:
            return
        # It holds nothing and may be deep in an import: there is nothing to ask it.
        self.child.kill()
        self.child.wait()
        self.pipe.close()

    def _run(self) -> None:
        try:
            self._spawn()
        except OSError as error:
            self.failure = error
        self._spawned.set()
        self._job.get()()

    def _spawn(self) -> None:
        self.pipe, theirs = Pipe.pair()
        command = [sys.executable, "-P", "-m", "workers.engine.child.main"]
        try:
            self.child = subprocess.Popen(
                [
                    *(*command, str(theirs.fileno()), str(os.getpid())),
                    *([WARM + self.warms] if self.warms else []),
                ],
                env=child_environment(self.site.cuda_devices, self.site.threads),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # Ctrl-C and group signals are for the worker, which then closes us.
                start_new_session=True,
            )
        except OSError:
            self.pipe.close()
            raise
        finally:
            theirs.close()


def child_environment(cuda_devices: str, threads: int) -> dict[str, str]:
    """The whole environment of a child: nothing of ours but what it needs to run."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    root = str(Path(__file__).parents[2])
    paths = [root, *(path for path in sys.path if path and path != root)]
    return kept | {
        "PYTHONPATH": os.pathsep.join(paths),
        "CUDA_VISIBLE_DEVICES": cuda_devices,
        # CUDA counts the fastest card first unless told to count as the driver does,
        # whose indices these are: on mixed cards the model would go to another one.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        # A child never fetches anything: its files are there and verified.
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
