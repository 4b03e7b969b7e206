"""How fast one request of each model is served here, smoothed."""

from threading import Lock

from workers.engine.protocol import Finish

WEIGHT = 0.3


class Speeds:
    """Tokens a second of one request, by model: what the next one can expect."""

    def __init__(self) -> None:
        self._speeds: dict[str, float] = {}
        self._lock = Lock()

    def of(self, model: str) -> float | None:
        """The speed, None before the first answer."""
        return self._speeds.get(model)

    def note(self, model: str, finish: Finish) -> None:
        """One more answer; one token alone says nothing of speed."""
        tokens = finish.usage.completion_tokens - 1
        seconds = finish.total_s - finish.first_token_s
        if tokens < 1 or seconds <= 0:
            return
        speed = tokens / seconds
        with self._lock:
            old = self._speeds.get(model, speed)
            self._speeds[model] = old + WEIGHT * (speed - old)
