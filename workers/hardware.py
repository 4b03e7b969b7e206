"""Reads what the machine has right now: GPUs by gpustat, the host by psutil."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from genie import logs
from genie.contracts.fleet import GpuStatus, HostStatus

log = logs.logger("hardware")

MIB = 1024**2


GpuEntry = Mapping[str, object]
"""One GPU in gpustat's names and units: MiB, percent, degrees, watts; any figure may be
missing."""


class GpuReader:
    """Reads the GPUs of this host; empty where there is no NVIDIA driver.

    ``visible`` is what `env.visible_gpus` says: a worker knows of no other GPU, so none
    of its children is started on another one.
    """

    def __init__(
        self,
        visible: Sequence[str] | None,
        query: Callable[[], list[GpuEntry]] | None = None,
    ) -> None:
        self._visible, self._query = visible, query or _query
        self._is_lost = False

    def read(self, own_pids: frozenset[int] = frozenset()) -> tuple[GpuStatus, ...]:
        """Every GPU that answers. ``own_pids`` are the processes that are ours."""
        try:
            entries = self._query()
        except GpuQueryFailed as error:
            self._lose(str(error))
            return ()
        seen = allowed(entries, self._visible)
        if entries and not seen:
            self._lose(f"CUDA_VISIBLE_DEVICES names none of {len(entries)} GPUs here")
            return ()
        self._is_lost = False
        found = (status(entry, own_pids) for entry in seen)
        return tuple(gpu for gpu in found if gpu is not None)

    def _lose(self, reason: str) -> None:
        # Said once: this is polled for ever, and most hosts of a test have none.
        if not self._is_lost:
            log.info("no_gpu", reason=reason)
        self._is_lost = True


def allowed(
    entries: Sequence[GpuEntry], visible: Sequence[str] | None
) -> list[GpuEntry]:
    """The GPUs that ``visible`` names, by number or UUID; None: all of them.

    As CUDA reads it: the beginning of a UUID is enough if it is one GPU's, and from the
    first word that names none on, none is seen (so ``-1`` hides all). A number is that
    of nvidia-smi and the driver, whichever GPU is the fastest.
    """
    if visible is None:
        return list(entries)
    chosen: list[GpuEntry] = []
    for word in visible:
        named = [entry for entry in entries if _is_named(entry, word)]
        if len(named) != 1:
            break
        chosen += [entry for entry in named if entry not in chosen]
    return chosen


def _is_named(entry: GpuEntry, word: str) -> bool:
    if word.isdecimal():
        return entry.get("index") == int(word)
    return word.startswith("GPU-") and str(entry.get("uuid")).startswith(word)


class GpuQueryFailed(Exception):
    """There is no driver, or it went away between two polls."""


def _query() -> list[GpuEntry]:
    import gpustat
    import pynvml  # type: ignore[import-untyped]  # it ships no types

    try:
        return [gpu.entry for gpu in gpustat.new_query().gpus]
    except pynvml.NVMLError as error:
        raise GpuQueryFailed(str(error)) from error


def status(entry: GpuEntry, own_pids: frozenset[int]) -> GpuStatus | None:
    """One gpustat entry as a contract; None when it does not know its memory."""
    total, used = _number(entry, "memory.total"), _number(entry, "memory.used")
    index = _number(entry, "index")
    if total is None or used is None or index is None:
        return None
    return GpuStatus(
        index=int(index),
        uuid=str(entry.get("uuid") or f"gpu-{int(index)}"),
        name=str(entry.get("name") or "unknown GPU"),
        memory_total_bytes=int(total) * MIB,
        memory_used_bytes=int(used) * MIB,
        foreign_bytes=_foreign_mib(entry, own_pids) * MIB,
        utilization_percent=_number(entry, "utilization.gpu"),
        temperature_c=_number(entry, "temperature.gpu"),
        power_w=_number(entry, "power.draw"),
    )


def _foreign_mib(entry: GpuEntry, own_pids: frozenset[int]) -> int:
    processes = entry.get("processes")
    if not isinstance(processes, list):  # the driver does not tell: nothing is known
        return 0
    others = (item for item in processes if item.get("pid") not in own_pids)
    return sum(item.get("gpu_memory_usage") or 0 for item in others)


def _number(entry: GpuEntry, name: str) -> float | None:
    # gpustat fills the fields of a GPU that fell off the bus with "?".
    value = entry.get(name)
    return float(value) if isinstance(value, int | float) else None


def own_pids() -> frozenset[int]:
    """This process and everything it started."""
    import psutil

    me = psutil.Process()
    return frozenset({me.pid, *(child.pid for child in me.children(recursive=True))})


def host_status(folder: Path) -> HostStatus:
    """CPU, memory and the free disk under ``folder``."""
    import psutil

    memory = psutil.virtual_memory()
    return HostStatus(
        cpu_count=os.cpu_count() or 1,
        memory_total_bytes=memory.total,
        memory_available_bytes=memory.available,
        disk_free_bytes=psutil.disk_usage(str(_existing(folder))).free,
    )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
