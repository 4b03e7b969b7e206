"""How a process that lives for months lets Python look for garbage."""

import ctypes
import gc
from functools import cache

ARENAS = 2
"""Python lets one thread allocate at a time; glibc gives each a heap of its own."""

M_ARENA_MAX = -8
"""glibc's name of it for `mallopt`."""

OLDEST_EVERY = 2
"""Collections of the middle-aged until one of all; Python's own word is 10."""


@cache  # not by what is frozen: Python 3.12 starts with some objects that are
def freeze_loaded_objects() -> None:
    """Look no more at what the process has loaded; call it when that is ready.

    Libraries leave cycles behind: a statement of SQLAlchemy, a lost connection of
    Celery. Python looks at everything only when there is a quarter more than there was,
    and every time at all code ever imported: so a worker grew by some 10 MiB between
    two looks, and in web each stopped all threads for a tenth of a second. Without what
    stays anyway a look takes milliseconds, and can be had more often.

    A second call does nothing: what came meanwhile must be able to go.
    """
    gc.collect()
    gc.freeze()
    youngest, middle, _ = gc.get_threshold()
    gc.set_threshold(youngest, middle, OLDEST_EVERY)
    gc.collect()  # from here on it counts from what is not frozen
    _share_heaps()


def _share_heaps() -> None:
    """Have glibc keep few heaps: in each, what lies behind a hole keeps its place.

    Never fix from what size on memory is the kernel's (``M_MMAP_THRESHOLD``), though
    that leaves fewer holes: what web reads for many slow clients grew page by new page,
    and one that kept pace beside them waited for seconds (P14).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other libraries of C have none, and no such habit
        mallopt(M_ARENA_MAX, ARENAS)
