"""Stop strings that may begin in one token and end in another."""


class StopFilter:
    """Lets text through until a stop string appears; the stop itself never leaves.

    >>> stops = StopFilter(("END",))
    >>> stops.feed("one E"), stops.feed("ND two"), stops.hit
    ('one ', '', True)
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.hit = False

    def feed(self, text: str) -> str:
        """Text that can be shown now; the start of a possible stop is held back."""
        if not self._stops:
            return text
        if self.hit:
            return ""
        self._held += text
        cut = self._first_stop()
        if cut is not None:
            self.hit = True
            return self._release(cut, drop=True)
        return self._release(len(self._held) - self._possible_start())

    def flush(self) -> str:
        """What was held back, when the answer ended without the stop."""
        return "" if self.hit else self._release(len(self._held))

    def _first_stop(self) -> int | None:
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        return min(found, default=None)

    def _possible_start(self) -> int:
        return max((_overlap(self._held, stop) for stop in self._stops), default=0)

    def _release(self, cut: int, *, drop: bool = False) -> str:
        shown, rest = self._held[:cut], self._held[cut:]
        self._held = "" if drop else rest
        return shown


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that ``stop`` begins with."""
    longest = min(len(text), len(stop) - 1)
    lengths = range(longest, 0, -1)
    return next((n for n in lengths if text.endswith(stop[:n])), 0)
