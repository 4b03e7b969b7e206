"""What a settled process lets Python look at. In processes of their own."""

import subprocess
import sys

import pytest

from genie import heap

SETTLE = "import gc, weakref, celery\nfrom genie import heap\nheap.settle()\n"


def printed(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    return done.stdout.strip()


def test_what_was_loaded_is_not_looked_at_again() -> None:
    looked_at = int(printed(SETTLE + "print(len(gc.get_objects()))"))
    loaded = int(printed("import gc, celery; print(len(gc.get_objects()))"))
    assert looked_at < loaded / 10


def test_cycles_made_later_go_by_themselves_and_soon() -> None:
    made = """
class Made:
    def __init__(self):
        self.me = self
alive = weakref.WeakSet()
most = 0
for _ in range(100_000):
    alive.add(Made())
    most = max(most, len(alive))
print(most)
"""
    assert int(printed(SETTLE + made)) < 20_000


def test_a_second_call_keeps_nothing_that_came_meanwhile() -> None:
    made = """
class Made: pass
one = Made()
one.me = one
gone = weakref.ref(one)
heap.settle()
del one
gc.collect()
print(gone())
"""
    assert printed(SETTLE + made) == "None"


def test_what_python_froze_itself_changes_nothing() -> None:
    # Python 3.12 starts with some hundred frozen objects.
    frozen = "import gc; gc.freeze()\n" + SETTLE
    assert printed(frozen + "print(gc.get_threshold()[2])") == str(heap.OLDEST_EVERY)


def test_buffers_that_were_freed_are_the_kernel_s_again() -> None:
    made = """
import resource
def held():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
del (_ := [bytearray(2**20)])[:]
before, kept, gone = held(), [], []
for _ in range(200):
    gone.append(bytearray(131_064))
    kept.append(bytes(1_000))
gone.clear()
print(held() - before)
"""
    # Not all: room that the heap had already is taken first, and stays its own.
    assert int(printed(SETTLE + made)) < 8 * 2**20
    assert int(printed(SETTLE.replace("heap.settle()", "") + made)) > 16 * 2**20


@pytest.mark.parametrize("package", ["workers", "cloud_app"])
def test_a_process_settles_once_its_own_app_is_ready(package: str) -> None:
    program = f"""
import gc
from celery import signals
from genie.messaging.tasks import make_celery
from {package} import celery as ours
class Consumer: pass
for app in (make_celery("other"), ours.app):
    sender = Consumer()
    sender.app = app
    signals.worker_ready.send(sender=sender)
    print(gc.get_threshold()[2] == {heap.OLDEST_EVERY})
"""
    assert printed(program).split() == ["False", "True"]
