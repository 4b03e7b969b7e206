"""Letters on their way: in order, retried, never lost.

Callers hand over bytes and go on; an engine's thread must not wait for a broker.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from genie import logs
from genie.messaging import broker
from genie.messaging.link import (
    BrokerBlocked,
    LinkEvents,
    LinkLost,
    Publication,
    QueueCount,
    Unroutable,
)
from genie.messaging.queues import QueueSpec

log = logs.logger("messaging.publisher")

RETRY_S = 0.25
"""After the broker refused a letter, it is sent again."""

KEPT_S = 1.0
"""How long a plain letter is kept after its write: what the kernel took, a connection
that broke meanwhile may not have brought. The broker reads nothing of a connection that
it closes, and whoever writes hears of that a moment late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter(Publication):
    """One message to an exchange.

    ``confirmed`` letters are durable, waited for, and sent again until a queue has
    them; then ``on_sent`` runs in the broker's thread. ``queue`` is declared first:
    a letter to a queue that is not there would be refused again and again.
    Plain ones may come twice where a connection was lost: readers drop the second.
    """

    on_sent: Callable[[], None] | None = None
    queue: QueueSpec | None = None


class Publisher:
    """Publishes letters in the order they were handed over.

    A letter that is not confirmed goes out without waiting for one that is: a chunk of
    text never waits until the broker has another job's outcome on its disk.
    """

    def __init__(self, url: str, *, name: str) -> None:
        self._name = name
        self._lock = threading.RLock()
        self._empty = threading.Condition(self._lock)
        self._plain: deque[Letter] = deque()
        self._confirmed: deque[Letter] = deque()
        self._again: list[Letter] = []
        self._under_way = 0
        self._kept: deque[tuple[Letter, float]] = deque()
        self._declared: dict[tuple[str, str], bool] = {}  # False: asked for
        self._link = broker.connect(
            url,
            name,
            LinkEvents(
                up=self._send_waiting,
                down=self._lost,
                unblocked=self._send_waiting,
            ),
        )

    def start(self) -> None:
        """Connect; returns at once."""
        self._link.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Send what is already handed over, then close."""
        self._link.start()
        with self._empty:
            self._empty.wait_for(self._is_done, timeout_s)
        self._link.close()

    def send(self, letter: Letter) -> None:
        """Hand over a letter from any thread; never blocks."""
        with self._lock:
            waiting = self._confirmed if letter.confirmed else self._plain
            if waiting or not self._is_sent(letter):
                waiting.append(letter)

    def gathered(self) -> AbstractContextManager[None]:
        """Let the letters that are sent within leave in one write at the end."""
        return self._link.gathered()

    def _is_done(self) -> bool:
        waiting = self._plain, self._confirmed, self._again
        return not (self._under_way or any(waiting))

    def _is_sent(self, letter: Letter) -> bool:
        if letter.queue is not None and not self._is_declared(letter.queue):
            return False
        if letter.confirmed:
            is_sent = self._link.send(letter, partial(self._heard, letter))
            self._under_way += is_sent  # `_heard` waits for the lock held here
        elif is_sent := self._link.send(letter):
            self._keep(letter)
        return is_sent

    def _is_declared(self, queue: QueueSpec) -> bool:
        key = queue.key
        if key not in self._declared and self._link.is_up:
            self._declared[key] = False
            self._link.declare(queue, partial(self._heard_of, queue))
        return self._declared.get(key, False)

    def _heard_of(self, queue: QueueSpec, found: QueueCount | Exception) -> None:
        with self._lock:
            if isinstance(found, QueueCount):
                self._declared[queue.key] = True
                self._send_waiting()
                return
            self._declared.pop(queue.key, None)
        if not isinstance(found, LinkLost):
            log.warning("publish_retry", name=self._name, error=repr(found))
            self._link.call_later(RETRY_S, self._send_waiting)

    def _heard(self, letter: Letter, error: Exception | None) -> None:
        if isinstance(error, BrokerBlocked):
            return  # nothing lost: what became of it is heard after the alarm
        with self._lock:
            self._under_way -= 1
            if error is not None:
                self._take_back(letter, error)
            elif self._is_done():
                self._empty.notify_all()
        if error is None and letter.on_sent is not None:
            letter.on_sent()

    def _take_back(self, letter: Letter, error: Exception) -> None:
        self._again.append(letter)
        if isinstance(error, LinkLost):
            return  # all of them, in order, once there is another connection
        log.warning("publish_retry", name=self._name, error=repr(error))
        if isinstance(error, Unroutable):
            self._declared.clear()
        self._link.call_later(RETRY_S, self._send_waiting)

    def _lost(self) -> None:
        with self._lock:
            self._declared.clear()  # the broker may have lost its queues
            self._plain.extendleft(letter for letter, _at in reversed(self._kept))
            self._kept.clear()

    def _send_waiting(self) -> None:
        with self._lock, self._link.gathered():
            again, self._again = self._again, []
            self._confirmed.extendleft(reversed(again))
            for waiting in (self._confirmed, self._plain):
                self._send_all(waiting)
            if self._is_done():
                self._empty.notify_all()

    def _send_all(self, waiting: deque[Letter]) -> None:
        if self._link.is_up:
            letters = list(waiting)
            waiting.clear()
            # One whose queue the broker refuses holds up no other.
            waiting.extend([one for one in letters if not self._is_sent(one)])

    def _keep(self, letter: Letter) -> None:
        now = time.monotonic()
        has_left = not self._link.is_writing
        while has_left and self._kept and now - self._kept[0][1] > KEPT_S:
            self._kept.popleft()
        self._kept.append((letter, now))
