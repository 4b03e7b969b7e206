"""Digesting a model's files while the child still imports what will read them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from workers.engine.errors import LoadFailed
from workers.engine.wire import Load
from workers.files import files


class Verification:
    """Checks every file of a model against its digest, from now on, in the background.

    Nothing reads the files before `files` has returned.
    """

    def __init__(self, load: Load) -> None:
        pool = ThreadPoolExecutor(1, thread_name_prefix="verify")
        self._found = pool.submit(files.verify, Path(load.path or ""), load.spec)
        pool.shutdown(wait=False)

    def files(self) -> tuple[files.ModelFile, ...]:
        """The source files of a model, once all are verified; raises LoadFailed."""
        try:
            return self._found.result()
        except files.PullFailed as failure:
            raise LoadFailed(failure.fault) from failure
