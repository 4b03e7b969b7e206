"""What was published on a channel and not yet confirmed."""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from amqp.exceptions import MessageNacked

if TYPE_CHECKING:
    from kombu.transport.base import StdChannel

CONFIRM_TIMEOUT_S = 10.0

T = TypeVar("T")


class Confirms(Generic[T]):
    """The letters on their way on one channel; the broker numbers them from 1.

    Any thread may `send`, one thread reads the channel and asks for what came of it.
    """

    def __init__(self, channel: "StdChannel") -> None:
        self._sent = 0
        # The library reads while it writes a large letter, and may read a confirm: the
        # thread that publishes then waits for nobody but itself.
        self._lock = threading.RLock()
        self._under_way: dict[int, tuple[T, float]] = {}
        self._refused: set[int] = set()
        self._arrived: list[T] = []
        channel.confirm_select()
        channel.events["basic_ack"].add(self._accept)
        channel.events["basic_nack"].add(self._refuse)

    @property
    def waiting(self) -> list[T]:
        """What the broker has not confirmed, in order."""
        with self._lock:
            return [letter for letter, _at in self._under_way.values()]

    @property
    def is_refused(self) -> bool:
        """True when all that is not confirmed was refused."""
        return bool(self._refused) and len(self._refused) == len(self._under_way)

    def send(self, letter: T, publish: Callable[[], bool]) -> bool:
        """Count a letter and publish it, in one: the broker counts as we do."""
        with self._lock:
            self._sent += 1
            self._under_way[self._sent] = letter, time.monotonic()
            return publish()

    def take(self) -> list[T]:
        """What was confirmed since."""
        arrived, self._arrived = self._arrived, []
        return arrived

    def check(self) -> None:
        """Raises `MessageNacked` when the broker refused all it still owes a word on,
        `TimeoutError` when it has been silent on one for too long."""
        if self.is_refused:
            raise MessageNacked(f"the broker refused {len(self._refused)} letters")
        if self.oldest_s() > CONFIRM_TIMEOUT_S:
            raise TimeoutError("the broker confirms nothing")

    def drop(self, *, older_s: float) -> list[T]:
        """Forget, and give back, what was refused or has waited for longer."""
        since = time.monotonic() - older_s
        with self._lock:
            gone = {one for one, (_, at) in self._under_way.items() if at < since}
            gone |= self._refused & self._under_way.keys()
            self._refused.clear()
            return [self._under_way.pop(one)[0] for one in sorted(gone)]

    def oldest_s(self) -> float:
        """How long the oldest letter has waited for its confirmation; 0 with none."""
        with self._lock:
            oldest = next(iter(self._under_way.values()), None)
        return 0.0 if oldest is None else time.monotonic() - oldest[1]

    def _accept(self, tag: int, multiple: bool) -> None:
        with self._lock:
            tags = self._of(tag, multiple)
            found = [self._under_way.pop(one, None) for one in tags]
            self._arrived += [one[0] for one in found if one is not None]

    def _refuse(self, tag: int, multiple: bool) -> None:
        # They stay under way: whoever gives this line up will send them again.
        with self._lock:
            self._refused.update(self._of(tag, multiple))

    def _of(self, tag: int, multiple: bool) -> list[int]:
        return [one for one in self._under_way if one <= tag] if multiple else [tag]
