"""What the machine has right now: GPUs by gpustat, the host by psutil."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from genie import logs
from genie.contracts.fleet import GpuStatus, HostStatus

log = logs.logger("gpu")

MIB = 1024**2


class Entry(Protocol):
    """One GPU as gpustat describes it; any figure may be missing."""

    @property
    def entry(self) -> Mapping[str, object]:
        """gpustat's own names and units: MiB, percent, degrees, watts."""


Query = Callable[[], Iterable[Entry]]


class Gpus:
    """Reads the GPUs of this host; empty where there is no NVIDIA driver."""

    def __init__(self, query: Query | None = None) -> None:
        self._query = query or _query
        self._is_lost = False

    def read(self, own_pids: frozenset[int] = frozenset()) -> tuple[GpuStatus, ...]:
        """Every GPU that answers. ``own_pids`` are the processes that are ours."""
        try:
            entries = tuple(self._query())
        except GpuQueryFailed as error:
            self._lose(str(error))
            return ()
        self._is_lost = False
        found = (status(item.entry, own_pids) for item in entries)
        return tuple(gpu for gpu in found if gpu is not None)

    def _lose(self, reason: str) -> None:
        # Said once: this is polled for ever, and most hosts of a test have none.
        if not self._is_lost:
            log.info("no_gpu", reason=reason)
        self._is_lost = True


class GpuQueryFailed(Exception):
    """There is no driver, or it went away between two polls."""


def _query() -> Iterable[Entry]:
    import gpustat
    import pynvml  # type: ignore[import-untyped]  # it ships no types

    try:
        found: Iterable[Entry] = gpustat.new_query().gpus
    except pynvml.NVMLError as error:
        raise GpuQueryFailed(str(error)) from error
    return found


def status(entry: Mapping[str, object], own_pids: frozenset[int]) -> GpuStatus | None:
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


def _foreign_mib(entry: Mapping[str, object], own_pids: frozenset[int]) -> int:
    processes = entry.get("processes")
    if not isinstance(processes, list):  # the driver does not tell: nothing is known
        return 0
    others = (item for item in processes if item.get("pid") not in own_pids)
    return sum(item.get("gpu_memory_usage") or 0 for item in others)


def _number(entry: Mapping[str, object], name: str) -> float | None:
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
