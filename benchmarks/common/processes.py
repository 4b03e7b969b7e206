"""What processes have used, as the kernel counts it.

A process counts with its children, and with those that ended and were waited for: these
in hundredths of a second, as /proc tells them; what lives, by its own clock.
"""

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process at a moment; ``cpu_s`` includes children that were waited for."""

    pid: int
    parent: int
    cpu_s: float


def parse(stat: str, used_s: float, ticks_per_s: int = TICKS_PER_S) -> Process:
    """A line of ``/proc/<pid>/stat`` and what the process itself has used.

    A name may hold blanks and brackets, so fields are counted from its last bracket.

    >>> parse("7 (a) b) S 3 7 7 0 -1 0 0 0 0 0 150 50 20 30 20 0", 2.0, 100)
    Process(pid=7, parent=3, cpu_s=2.5)
    """
    pid, _, rest = stat.partition(" (")
    fields = rest.rpartition(")")[2].split()
    waited_for = int(fields[13]) + int(fields[14])
    return Process(
        pid=int(pid), parent=int(fields[1]), cpu_s=used_s + waited_for / ticks_per_s
    )


def clock(pid: int) -> int:
    """The id of a process's CPU clock, as ``clock_getcpuclockid(3)`` makes it.

    /proc cuts each process's time to hundredths of a second; this clock does not.
    """
    return (~pid << 3) | 2


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All processes of this machine at one moment; ``at`` is ``perf_counter``."""

    at: float
    processes: Mapping[int, Process]

    @classmethod
    def take(cls) -> "Snapshot":
        """Read them."""
        found = (_read(int(one.name)) for one in PROC.iterdir() if one.name.isdigit())
        return cls(time.perf_counter(), {one.pid: one for one in found if one})

    def family(self, leader: int) -> set[int]:
        """A process and all its descendants; empty when it is gone."""
        children: dict[int, list[int]] = {}
        for process in self.processes.values():
            children.setdefault(process.parent, []).append(process.pid)
        found: set[int] = set()
        waiting = [leader] if leader in self.processes else []
        while waiting:
            pid = waiting.pop()
            found.add(pid)
            waiting += children.get(pid, ())
        return found

    def cpu_s(self, pids: Iterable[int]) -> float:
        """What these have used so far; those that are gone count nothing."""
        known = (self.processes.get(pid) for pid in pids)
        return sum(process.cpu_s for process in known if process is not None)


@dataclass(frozen=True, slots=True)
class Part:
    """What counts as one part of a side: families by their leaders, less others."""

    leaders: tuple[int, ...]
    without: tuple[int, ...] = ()

    def pids(self, at: Snapshot) -> set[int]:
        """Its processes then."""
        others = (at.family(pid) for pid in self.without)
        mine = (at.family(pid) for pid in self.leaders)
        return set().union(*mine) - set().union(*others)


def spent(
    parts: Mapping[str, Part], before: Snapshot, after: Snapshot
) -> dict[str, float]:
    """CPU seconds of each part between two moments, by its processes at each.

    >>> one = Snapshot(0.0, {7: Process(pid=7, parent=1, cpu_s=1.0)})
    >>> later = Snapshot(1.0, {7: Process(pid=7, parent=1, cpu_s=1.5)})
    >>> spent({"web": Part((7,))}, one, later)
    {'web': 0.5}
    """
    return {
        name: after.cpu_s(part.pids(after)) - before.cpu_s(part.pids(before))
        for name, part in parts.items()
    }


def prioritize(pids: Iterable[int]) -> None:
    """Let the kernel run the sessions of these before those of others (Linux).

    Every server here leads a session, and the kernel shares cores among sessions.
    Raises RuntimeError without the right to; what ended meanwhile is left out.
    """
    for pid in pids:
        try:
            (PROC / str(pid) / "autogroup").write_text("-10")
        except PermissionError as error:
            raise RuntimeError(f"--prioritize needs root: {error}") from error
        except (FileNotFoundError, ProcessLookupError):
            continue


def command(pid: int) -> str:
    """The command line of a process; empty when it is gone."""
    try:
        return (PROC / str(pid) / "cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def pss_mb(pids: Iterable[int]) -> float:
    """Memory of processes in MB, each shared page divided among those who share it."""
    return sum(map(_pss_kb, pids)) / 1000


def _pss_kb(pid: int) -> float:
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    found = next((line for line in lines if line.startswith("Pss:")), "Pss: 0 kB")
    return int(found.split()[1]) * 1.024


def _read(pid: int) -> Process | None:
    try:
        stat = (PROC / str(pid) / "stat").read_text()
        return parse(stat, time.clock_gettime(clock(pid)))
    except OSError:
        return None  # it ended meanwhile
