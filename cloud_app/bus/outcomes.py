"""The cloud's side of every answer: started and outcome events into the database."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from genie import logs
from genie.contracts import codec
from genie.contracts.inference import Chunk, RecordedEvent
from genie.errors import CodecError, Unavailable
from genie.messaging import broker, queues
from genie.messaging.link import BrokerMessage, LinkEvents, subscribe

log = logs.logger("bus.outcomes")

ApplyEvent = Callable[[RecordedEvent], bool]
"""Records an event in the database; raises `Unavailable` when it cannot just now."""

RecordEvents = Callable[[Sequence[RecordedEvent]], Sequence[int]]
"""Records events in order; returns the places of those left to `ApplyEvent`."""

PREFETCH = 128
"""Also the most that is recorded in one transaction."""

RETRY_S = 0.5

BUSY_S, GATHER_S = 0.02, 0.005
"""Where the last transaction ended a moment ago, the next one lets others come along:
nobody waits for a record, and a transaction costs more than what is in it."""

EventMessage = tuple[RecordedEvent, BrokerMessage]
"""An event and the message it came in."""


class OutcomeConsumer:
    """Records what has arrived and acks after the commit; a bad one is dead-lettered.

    All that came while the last transaction ran is the next one, and what comes alone
    waits for nothing. A slow database delays acks and nothing else: the connection
    lives in the broker's thread.
    """

    def __init__(
        self, url: str, apply: ApplyEvent, record: RecordEvents | None = None
    ) -> None:
        self._apply, self._together = apply, record
        self._arrived: deque[EventMessage] = deque()
        self._news = threading.Condition()
        self._is_ending = False
        self._link = broker.connect(
            url,
            "genie-outcomes",
            LinkEvents(up=self._subscribe, down=self._forget, quiet=self._wake),
        )
        self._thread = threading.Thread(target=self._run, name="outcomes", daemon=True)

    def start(self) -> None:
        """Start consuming; returns at once."""
        self._thread.start()
        self._link.start()

    def stop(self) -> None:
        """Stop consuming; what is not yet acked comes again."""
        self._is_ending = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join(5.0)
        self._link.close()

    def _subscribe(self) -> None:
        queue = queues.outcomes_queue()
        subscribe(self._link, queue, self._receive, places=PREFETCH)

    def _forget(self) -> None:
        with self._news:
            self._arrived.clear()  # it was never acked, so it comes again

    def _wake(self) -> None:
        if self._arrived or self._is_ending:
            with self._news:
                self._news.notify()

    def _receive(self, message: BrokerMessage) -> None:
        try:
            event = codec.decode_event(message.body)
        except CodecError as error:
            log.error("bad_outcome", error=str(error))
            self._link.reject(message, requeue=False)
            return
        if isinstance(event, Chunk):
            log.error("bad_outcome", error="a chunk is not an outcome")
            self._link.reject(message, requeue=False)
            return
        with self._news:
            self._arrived.append((event, message))

    def _run(self) -> None:
        ended_at = 0.0
        while not self._is_ending:
            with self._news:
                self._news.wait_for(lambda: self._arrived or self._is_ending)
            if time.monotonic() - ended_at < BUSY_S:
                time.sleep(GATHER_S)
            if not self._is_ending:
                self._settle()
            ended_at = time.monotonic()

    def _settle(self) -> None:
        """Record what has arrived."""
        with self._news:
            left, self._arrived = self._arrived, deque()
        try:
            left = self._record(left)
            while left:
                self._record_one(*left[0])
                left.popleft()
        except Unavailable as error:
            log.warning("outcomes_wait", error=str(error), given_back=len(left))
            time.sleep(RETRY_S)  # once, not for each
            for _event, message in left:
                self._link.reject(message, requeue=True)

    def _record(self, taken: deque[EventMessage]) -> deque[EventMessage]:
        """Record many at once; those that must be recorded one by one."""
        if self._together is None or not taken:
            return taken
        try:
            left = set(self._together([event for event, _message in taken]))
        except Unavailable:
            raise  # of none of them can anything be recorded
        except Exception as error:
            # Border: one of them cannot be recorded; by themselves the others can.
            kind = type(error).__name__
            log.warning("outcomes_one_by_one", error=kind, exc_info=True)
            return taken
        with self._link.gathered():
            for place, (_event, message) in enumerate(taken):
                if place not in left:
                    self._link.ack(message)
        return deque(taken[place] for place in sorted(left))

    def _record_one(self, event: RecordedEvent, message: BrokerMessage) -> None:
        try:
            self._apply(event)
        except Unavailable:
            raise  # nor can those after it
        except Exception as error:
            # Border: one event that cannot be recorded must not silence all others,
            # nor come back for ever; the dead letters keep it for a person.
            kind = type(error).__name__
            log.error("outcome_failed", job_id=event.job_id, error=kind, exc_info=True)
            self._link.reject(message, requeue=False)
            return
        self._link.ack(message)
