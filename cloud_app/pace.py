"""How long answers are, by model, as this process has seen them."""

from threading import Lock
from weakref import WeakKeyDictionary

from cloud_app import store
from cloud_app.context import Context

WEIGHT = 0.1


class Pace:
    """A smoothed mean of completion tokens for each model."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}
        self._lock = Lock()

    def note(self, model: str, tokens: int) -> None:
        """One more answer."""
        if tokens <= 0:
            return
        with self._lock:
            old = self._means.get(model, float(tokens))
            self._means[model] = old + WEIGHT * (tokens - old)

    def mean(self, model: str) -> float | None:
        """Tokens of an answer; None before the first."""
        return self._means.get(model)


_paces: WeakKeyDictionary[store.Database, Pace] = WeakKeyDictionary()
_lock = Lock()


def of(ctx: Context) -> Pace:
    """The pace of this process's cloud."""
    with _lock:
        return _paces.setdefault(ctx.db, Pace())
