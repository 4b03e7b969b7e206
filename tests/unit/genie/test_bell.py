"""A waiting thread is woken by whoever rings, however many files are open."""

import fcntl
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from genie.messaging.bell import Bell

HIGH = 1_500
"""A file number that ``select`` refuses."""


@pytest.fixture
def high() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe whose reading end has a high number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * HIGH)), hard))
    read, write = os.pipe()
    moved = fcntl.fcntl(read, fcntl.F_DUPFD, HIGH)
    os.close(read)
    yield moved, write
    for one in (moved, write):
        os.close(one)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_socket_with_a_high_number_is_waited_for(high: tuple[int, int]) -> None:
    read, write = high
    assert read > 1023
    bell = Bell()
    assert not bell.wait((read,), 0.0)
    os.write(write, b"x")
    assert bell.wait((read,), 5.0)


def test_a_ring_of_another_thread_ends_the_wait() -> None:
    bell = Bell()
    threading.Timer(0.05, bell.ring).start()
    assert not bell.wait((), 60.0)
    bell.clear()
    assert not bell.wait((), 0.0)


def test_a_bell_nobody_has_gives_its_files_back() -> None:
    def opened() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = opened()
    for _ in range(50):
        Bell()
    assert opened() == before
