"""Streams asked for at random moments, whatever became of the ones before (open loop).

Each is read by a thread of its own through the SDK, and its text is known beforehand.
"""

import itertools
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Self

from fixtures.fleet import Fleet
from genie import Client
from genie.errors import GenieError

MOST_AT_ONCE = 160


@dataclass(slots=True, kw_only=True)
class Told:
    """One stream as its reader saw it; times are monotonic seconds.

    ``error`` is the class of what ended it early, None for a stream with an end.
    """

    asked_at: float
    expected: list[str]
    pieces: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    error: str | None = None
    is_over: bool = False

    @property
    def words(self) -> list[str]:
        """What was read."""
        return "".join(self.pieces).split()

    @property
    def is_whole(self) -> bool:
        """True when nothing is missing and nothing came twice."""
        return self.error is None and self.words == self.expected

    @property
    def is_doubled(self) -> bool:
        """True when something was read that is not the answer."""
        return self.words != self.expected[: len(self.words)]

    @property
    def first_s(self) -> float | None:
        """Seconds to the first text."""
        return self.times[0] - self.asked_at if self.times else None

    @property
    def pause_s(self) -> float:
        """The longest time between two pieces."""
        return max((b - a for a, b in itertools.pairwise(self.times)), default=0.0)


class Traffic:
    """Asks ``rate`` times a second from a seed until its block ends."""

    def __init__(self, fleet: Fleet, *, rate: float, tokens: int, seed: int) -> None:
        self._rate, self._tokens = rate, tokens
        self._chance = random.Random(seed)
        # An answer to a fault, not one that a second try makes look well.
        self._client = Client(url=fleet.url, api_key=fleet.api_key, retry_s=0.0)
        self._told: list[Told] = []
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(MOST_AT_ONCE)
        self._thread = threading.Thread(target=self._run, name="traffic")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._pool.shutdown()
        self._client.close()

    def asked(self, since: float, until: float) -> list[Told]:
        """The streams asked for in that time; wait for their end before reading."""
        return [one for one in tuple(self._told) if since <= one.asked_at < until]

    def _run(self) -> None:
        due = time.monotonic()
        for number in itertools.count():
            due += self._chance.expovariate(self._rate)
            if self._stopping.wait(max(0.0, due - time.monotonic())):
                return
            self._pool.submit(self._ask, f"s{number}")

    def _ask(self, name: str) -> None:
        words = [name, "two", "three"]
        expected = list(itertools.islice(itertools.cycle(words), self._tokens))
        told = Told(asked_at=time.monotonic(), expected=expected)
        self._told.append(told)
        try:
            with self._client.stream(
                " ".join(words), persona="chat", max_tokens=self._tokens
            ) as stream:
                for piece in stream:
                    if piece:
                        told.times.append(time.monotonic())
                        told.pieces.append(piece)
        except GenieError as error:
            told.error = type(error).__name__
        finally:
            told.is_over = True
