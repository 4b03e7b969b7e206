"""One child kept warm: it has imported torch and waits for the next model.

Imports are most of a start (some seconds of the time a model swap takes). The child
holds no model and no GPU context, only a few hundred MB, and is given back whenever a
model needs the room.
"""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import psutil

from genie.contracts.inference import Fault
from genie.contracts.model import ModelSpec, Quant
from workers import engine
from workers.engine.parent.spawn import ChildEnvironment, ChildProcess
from workers.engine.protocol import Gather, OnLoadProgress

LEAST_BYTES = 2 * 1024**3
"""With less memory available no child is kept: a model may need the room any time."""


class EngineStarter:
    """Starts engines, the next one from a warm child where there is one.

    ``keeps`` says whether to keep one at all. Safe from any thread.
    """

    def __init__(self, *, keeps: bool = True) -> None:
        self._keeps = keeps
        self._lock = threading.Lock()
        self._spare: ChildProcess | None = None

    def __call__(  # noqa: PLR0913 - the engine package's one door
        self,
        spec: ModelSpec,
        quant: Quant,
        *,
        path: Path | None,
        slots: int,
        context: int,
        device: str,
        threads: int,
        on_exit: Callable[[Fault], None],
        on_progress: OnLoadProgress | None = None,
        gather: Gather = nullcontext,
    ) -> engine.LoadedEngine:
        """As `workers.engine.start`; afterwards a child for the next model warms up."""
        site = engine.child_environment_for(device, threads)
        has_weights = spec.engine != "echo"
        nest = self._take(site) if has_weights else None
        try:
            return engine.start(
                spec,
                quant,
                path=path,
                slots=slots,
                context=context,
                device=device,
                threads=threads,
                on_exit=on_exit,
                on_progress=on_progress,
                nest=nest,
                gather=gather,
            )
        finally:
            if has_weights:
                self._prepare(site)

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

    def _take(self, site: ChildEnvironment) -> ChildProcess | None:
        """The warm child, if it was started for this site and is alive."""
        with self._lock:
            spare = self._spare
            if spare is None or spare.site != site or not spare.is_alive:
                return None
            self._spare = None
            return spare

    def _prepare(self, site: ChildEnvironment) -> None:
        with self._lock:
            old = self._spare
            is_wanted = self._keeps and _has_room()
            if is_wanted and old is not None and old.site == site and old.is_alive:
                return
            self._spare = ChildProcess(site, is_warm=True) if is_wanted else None
            if self._spare is not None:
                self._spare.start()
        if old is not None:
            old.leave()


def _has_room() -> bool:
    return int(psutil.virtual_memory().available) >= LEAST_BYTES
