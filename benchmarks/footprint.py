"""B12: what an import, a command, an idle worker and a model load cost.

Imports against ``python -c pass``; an idle worker of this fleet against a solo Celery
worker; the load of the small real model against reading its files from disk (both with
the files out of the page cache). The model is pulled first if it is not there.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))

import psutil

from benchmarks.common import celery_echo, site
from benchmarks.common.figures import Board, Rounds, is_quick
from benchmarks.common.processes import Part, Snapshot, spent
from fixtures.engines import QUIET, wanted
from fixtures.fleet import BIN
from genie import catalog, env
from workers.engine.parent import starter
from workers.engine.parent.process import ChildEnvironment, EngineProcess
from workers.files.files import ModelStore

IMPORT, RSS, IDLE_CPU_PERCENT, LOAD = 3.0, 1.2, 0.2, 0.8
MODEL = "smollm2:135m"
BLOCK = 4 * 1024 * 1024
SETTLE_S = 3.0

COMMANDS = {
    "bare": ("python", "-c", "pass"),
    "import_genie": ("python", "-c", "import genie"),
    "genie_help": ("genie", "--help"),
}


def main() -> int:
    """Measure, print, and say whether it could measure."""
    quick = is_quick(__doc__)
    board = Board("footprint")
    starts(board, rounds=7 if quick else 25)
    loads(board, rounds=1 if quick else 5)
    idle(board, seconds=3.0 if quick else 60.0)
    return board.report()


def starts(board: Board, *, rounds: int) -> None:
    """The SDK's import and the command's help, in processes of their own."""
    times = Rounds()
    for name in COMMANDS:
        _run_ms(name)  # byte code compiled, files in memory
    for _ in range(rounds):
        for name in COMMANDS:
            times.note(name, _run_ms(name))
    times.show("ms")
    details: dict[str, object] = {"rounds": rounds, "ms": times.medians(1)}
    board.lower(
        "import_vs_bare", times.ratio("import_genie", "bare"), IMPORT, **details
    )
    board.lower("help_vs_bare", times.ratio("genie_help", "bare"), None, **details)


def _run_ms(name: str) -> float:
    program, *arguments = COMMANDS[name]
    started = time.perf_counter()
    subprocess.run(
        [str(BIN / program), *arguments],
        env={"PATH": str(BIN), "PYTHONPATH": str(site.ROOT)},
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=60,
    )
    return (time.perf_counter() - started) * 1000


def idle(board: Board, *, seconds: float) -> None:
    """Memory and CPU of workers with nothing to do."""
    with (
        site.site() as here,
        site.program(
            *celery_echo.WORKER, **{celery_echo.ADDRESS: here.bare_url}
        ) as celery,
    ):
        celery_echo.make(here.bare_url).tasks["echo"].delay("up").get(timeout=30)
        threading.Event().wait(SETTLE_S)
        worker = here.fleet.pid(site.WORKER)
        parts, before = {"worker": Part((worker,))}, Snapshot.take()
        threading.Event().wait(seconds)
        after = Snapshot.take()
        percent = spent(parts, before, after)["worker"] / (after.at - before.at) * 100
        mb = {"worker": _mb(worker), "celery": _mb(celery.pid), "engine": 0.0}
        mb["engine"] = sum(_mb(one.pid) for one in psutil.Process(worker).children())
    details: dict[str, object] = {"mb": {name: round(mb[name], 1) for name in mb}}
    board.lower("rss_vs_celery_solo", mb["worker"] / mb["celery"], RSS, **details)
    whole = (mb["worker"] + mb["engine"]) / mb["celery"]
    board.lower("rss_with_echo_engine", whole, None, **details)
    board.lower("idle_cpu_percent", percent, IDLE_CPU_PERCENT, seconds=seconds)


def _mb(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss) / 1e6


def loads(board: Board, *, rounds: int) -> None:
    """A real model from disk to ready, against reading the same files once."""
    spec = catalog.load().models[MODEL]
    path = ModelStore(env.models()).ensure(spec).path
    if path is None:
        raise SystemExit(f"{MODEL} has no files")
    files = [file for file in path.iterdir() if file.is_file()]
    times = Rounds()
    for _ in range(rounds):
        forget(files)
        times.note("read_s", _seconds(lambda: read(files)))
        forget(files)
        times.note("load_s", _seconds(partial(load, path)))
        child = warm()
        forget(files)
        times.note("warm_load_s", _seconds(partial(load, path, child)))
    times.show("s")
    details: dict[str, object] = {
        "model": MODEL,
        "mb": round(sum(file.stat().st_size for file in files) / 1e6),
        "s": times.medians(2),
        "rounds": rounds,
    }
    share = times.ratio("read_s", "load_s")
    board.higher("load_vs_read", share, LOAD, **details)
    # As a worker loads every model but its first: into a child that waits for it.
    share = times.ratio("read_s", "warm_load_s")
    board.higher("warm_load_vs_read", share, LOAD, **details)


def forget(files: list[Path]) -> None:
    """Ask the kernel to drop the files from its page cache."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def read(files: list[Path]) -> None:
    """Read every file from its beginning to its end."""
    buffer = bytearray(BLOCK)
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass


def warm() -> EngineProcess:
    """A child that has imported what a model needs and waits for one."""
    child = EngineProcess(ChildEnvironment.of("cpu", 1), warms="transformers")
    until, spent = time.monotonic() + 120, -1.0
    while (now := _cpu_s(child.pid)) < 1 or now > spent:  # it imports until it rests
        if time.monotonic() > until:
            raise SystemExit("no child was warm after 120 s")
        spent = now
        threading.Event().wait(1.0)
    return child


def _cpu_s(pid: int) -> float:
    return sum(psutil.Process(pid).cpu_times()[:2]) if pid else 0.0


def load(path: Path, child: EngineProcess | None = None) -> None:
    """Load the model into a child, wait until it serves, end it."""
    spec = catalog.load().models[MODEL]
    loaded = starter.start(
        wanted(spec, path=path, slots=4, context=1024),
        QUIET,
        child_for=EngineProcess if child is None else lambda _: child,
    )
    loaded.engine.close()


def _seconds(act: Callable[[], None]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


if __name__ == "__main__":
    raise SystemExit(main())
