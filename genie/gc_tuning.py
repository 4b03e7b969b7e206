"""Sets up garbage collection and malloc for processes that live for months."""

import ctypes
import gc
from functools import cache

ARENAS = 2
"""glibc gives each thread a heap, but Python lets one thread allocate at a time."""

M_ARENA_MAX = -8
"""glibc's name of it for `mallopt`."""

OLDEST_EVERY = 2
"""Collections of generation 1 before one of generation 2; Python's default is 10."""


@cache  # not by what is frozen: Python 3.12 starts with some objects that are
def freeze_loaded_objects() -> None:
    """Freeze loaded objects out of the garbage collector; call it when loading is done.

    Libraries leave cycles: a statement of SQLAlchemy, a lost connection of
    Celery. Python collects generation 2 only when it has grown by a quarter,
    and then scans all imported code: so a worker grew by some 10 MiB between
    collections, and in web each stopped all threads for a tenth of a second. Without
    frozen objects a collection takes milliseconds and can run more often.

    A second call does nothing: later objects must stay collectable.
    """
    gc.collect()
    gc.freeze()
    youngest, middle, _ = gc.get_threshold()
    gc.set_threshold(youngest, middle, OLDEST_EVERY)
    gc.collect()  # from here on it counts from what is not frozen
    _share_heaps()


def _share_heaps() -> None:
    """Make glibc use few heaps: a heap cannot shrink past its last used block.

    Never fix ``M_MMAP_THRESHOLD``, though
    that leaves fewer holes: buffers for slow clients then grew page by page,
    and a fast client beside them waited for seconds (P14).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other libraries of C have none, and no such habit
        mallopt(M_ARENA_MAX, ARENAS)
