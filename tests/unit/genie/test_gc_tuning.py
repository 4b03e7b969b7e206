"""What a settled process lets Python look at. In processes of their own."""

import subprocess
import sys

from fixtures.fleet import procfile_environ
from genie import gc_tuning

SETTLE = (
    "import gc, weakref, celery\nfrom genie import gc_tuning\n"
    "gc_tuning.freeze_loaded_objects()\n"
)


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
gc_tuning.freeze_loaded_objects()
del one
gc.collect()
print(gone())
"""
    assert printed(SETTLE + made) == "None"


def test_what_python_froze_itself_changes_nothing() -> None:
    # Python 3.12 starts with some hundred frozen objects.
    frozen = "import gc; gc.freeze()\n" + SETTLE
    assert printed(frozen + "print(gc.get_threshold()[2])") == str(
        gc_tuning.OLDEST_EVERY
    )


FREED_ELSEWHERE = """
import ctypes, threading
libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
class Info(ctypes.Structure):
    _fields_ = [(f"f{n}", ctypes.c_int) for n in range(10)]
libc.mallinfo.restype = Info
def used():
    return libc.mallinfo().f7
before = used()
sizes = [16 * n + 8 for n in range(1, 64)] * 7
made = [[libc.malloc(size) for size in sizes] for _ in range(32)]
freed, end = threading.Barrier(33), threading.Event()
def work(mine):
    for one in mine:
        libc.free(one)
    freed.wait()
    end.wait()
for mine in made:
    threading.Thread(target=work, args=(mine,)).start()
freed.wait()
print(used() - before)
end.set()
"""
"""What counts as used of what 32 threads freed that live on, in bytes."""


def kept(environ: dict[str, str]) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FREED_ELSEWHERE],
        env=environ,
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    return int(done.stdout)


def test_the_procfile_s_web_keeps_nothing_for_a_thread_that_freed_it() -> None:
    assert kept(procfile_environ("web")) < 2**20
    assert kept({}) > 4 * 2**20
