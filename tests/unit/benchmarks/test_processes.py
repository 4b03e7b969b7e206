"""Processor time is counted by families, and what ended is not forgotten."""

import os
import subprocess
import sys
import time

from benchmarks.common.processes import (
    Part,
    Process,
    Snapshot,
    command,
    parse,
    prioritize,
    pss_mb,
    spent,
)

BURN = "import time\nwhile time.process_time() < 0.3: pass"


def snapshot(*processes: tuple[int, int, float]) -> Snapshot:
    """Processes as (pid, parent, seconds)."""
    made = [Process(pid=pid, parent=parent, cpu_s=s) for pid, parent, s in processes]
    return Snapshot(0.0, {one.pid: one for one in made})


def test_a_name_with_brackets_and_blanks_does_not_shift_the_fields() -> None:
    stat = "7 (odd) name) S 3 7 7 0 -1 0 0 0 0 0 100 20 3 4 20 0 1 0"
    assert parse(stat, 1.5, 100) == Process(pid=7, parent=3, cpu_s=1.57)


def test_a_family_is_a_process_and_all_below_it() -> None:
    found = snapshot((1, 0, 0.0), (2, 1, 0.0), (3, 2, 0.0), (4, 1, 0.0))
    assert found.family(2) == {2, 3}
    assert found.family(9) == set()


def test_a_child_that_ended_counts_once() -> None:
    parts = {"web": Part((2,))}
    before = snapshot((2, 1, 1.0), (3, 2, 5.0))
    after = snapshot((2, 1, 6.5))  # the kernel added 5.2 of the child, 0.3 are its own
    assert spent(parts, before, after) == {"web": 0.5}


def test_a_child_that_came_counts_from_its_start() -> None:
    before, after = snapshot((2, 1, 1.0)), snapshot((2, 1, 1.0), (3, 2, 0.25))
    assert spent({"web": Part((2,))}, before, after) == {"web": 0.25}


def test_what_is_a_part_of_its_own_does_not_count_twice() -> None:
    before = snapshot((2, 1, 0.0), (3, 2, 0.0), (4, 3, 0.0))
    after = snapshot((2, 1, 1.0), (3, 2, 2.0), (4, 3, 4.0))
    parts = {"worker": Part((2,), without=(3,)), "engine": Part((3,))}
    assert spent(parts, before, after) == {"worker": 1.0, "engine": 6.0}


def test_a_process_is_counted_finer_than_in_hundredths_of_a_second() -> None:
    first, before = time.process_time(), Snapshot.take()
    while time.process_time() < first + 0.033:
        pass
    used = spent({"me": Part((os.getpid(),))}, before, Snapshot.take())["me"]
    assert 0 < used <= time.process_time() - first
    assert used != round(used, 2)


def test_a_child_that_was_waited_for_counts_as_its_parent() -> None:
    before = Snapshot.take()
    subprocess.run([sys.executable, "-c", BURN], check=True)
    used = spent({"me": Part((os.getpid(),))}, before, Snapshot.take())["me"]
    assert 0.25 < used < 5.0


def test_a_process_has_memory_and_a_command() -> None:
    assert pss_mb([os.getpid()]) > 1.0
    assert "python" in command(os.getpid())


def test_a_process_that_is_gone_has_neither() -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    assert (pss_mb([gone.pid]), command(gone.pid)) == (0.0, "")
    prioritize([gone.pid])
