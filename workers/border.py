"""Where one request's surprise ends that request, and nothing else."""

from collections.abc import Callable
from types import TracebackType

from workers.attempt import Attempt


class Border:
    """It must neither kill the thread that serves all others nor come back for ever:
    ``spoil`` ends its job. A class, since every event of an engine passes here."""

    __slots__ = ("_attempt", "_spoil")

    def __init__(
        self, attempt: Attempt, spoil: Callable[[Attempt, Exception], None]
    ) -> None:
        self._attempt, self._spoil = attempt, spoil

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self._spoil(self._attempt, error)
        return True
