"""The cloud's side of every answer: started and outcome events into the database."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from genie import logs, topology
from genie.contracts import codec
from genie.contracts.inference import Chunk, RecordedEvent
from genie.errors import CodecError, Unavailable
from genie.messaging import broker, light
from genie.messaging.pump import Pump

if TYPE_CHECKING:
    from kombu.transport.base import StdChannel

log = logs.logger("bus.outcomes")

ApplyEvent = Callable[[RecordedEvent], bool]
"""Records an event in the database; raises `Unavailable` when it cannot just now."""

RecordEvents = Callable[[Sequence[RecordedEvent]], Sequence[int]]
"""Records events in order; returns the places of those left to `ApplyEvent`."""

PREFETCH = 128
"""Also the most that is recorded in one transaction."""

RETRY_S = 0.5

UnackedEvent = tuple[RecordedEvent, int]
"""An event and the tag of its message."""


class OutcomeConsumer:
    """Records what has arrived and acks after the commit; a bad one is dead-lettered.

    All that one read of the socket brought is one transaction: nothing waits for others
    to come, and under load there are others.
    """

    def __init__(
        self, url: str, apply: ApplyEvent, record: RecordEvents | None = None
    ) -> None:
        self._apply, self._together = apply, record
        self._held: list[UnackedEvent] = []
        self._pump = Pump(
            url,
            name="genie-outcomes",
            on_connect=self._subscribe,
            on_quiet=self._settle,
        )

    def start(self) -> None:
        """Start consuming; returns at once."""
        self._pump.start()

    def stop(self) -> None:
        """Stop consuming; what is not yet acked comes again."""
        self._pump.stop()

    def _subscribe(self, channel: "StdChannel") -> None:
        self._held.clear()  # it was never acked, so it comes again
        broker.dead_letter_queue(topology.OUTCOMES)(channel).declare()
        broker.outcomes_queue()(channel).declare()
        channel.basic_qos(0, PREFETCH, False)
        light.subscribe(
            channel,
            topology.OUTCOMES,
            lambda message: self._receive(channel, message),
            tag="genie-outcomes",
        )

    def _receive(self, channel: "StdChannel", message: light.Arrived) -> None:
        try:
            event = codec.decode_event(message.body)
        except CodecError as error:
            log.error("bad_outcome", error=str(error))
            channel.basic_reject(message.tag, requeue=False)
            return
        if isinstance(event, Chunk):
            log.error("bad_outcome", error="a chunk is not an outcome")
            channel.basic_reject(message.tag, requeue=False)
            return
        self._held.append((event, message.tag))

    def _settle(self, channel: "StdChannel") -> None:
        left, self._held = deque(self._held), []
        if not left:
            return
        try:
            left = self._record(channel, left)
            while left:
                self._record_one(channel, *left[0])
                left.popleft()
        except Unavailable as error:
            log.warning("outcomes_wait", error=str(error), given_back=len(left))
            time.sleep(RETRY_S)  # once, not for each: AMQP's heartbeat goes on after it
            for _event, tag in left:
                channel.basic_reject(tag, requeue=True)

    def _record(
        self, channel: "StdChannel", held: deque[UnackedEvent]
    ) -> deque[UnackedEvent]:
        """Record many at once; those that must be recorded one by one."""
        if self._together is None:
            return held
        try:
            left = set(self._together([event for event, _tag in held]))
        except Unavailable:
            raise  # of none of them can anything be recorded
        except Exception as error:
            # Border: one of them cannot be recorded; by themselves the others can.
            kind = type(error).__name__
            log.warning("outcomes_one_by_one", error=kind, exc_info=True)
            return held
        for place, (_event, tag) in enumerate(held):
            if place not in left:
                light.ack(channel, tag)
        return deque(held[place] for place in sorted(left))

    def _record_one(
        self, channel: "StdChannel", event: RecordedEvent, tag: int
    ) -> None:
        try:
            self._apply(event)
        except Unavailable:
            raise  # nor can those after it
        except Exception as error:
            # Border: one event that cannot be recorded must not silence all others,
            # nor come back for ever; the dead letters keep it for a person.
            kind = type(error).__name__
            log.error("outcome_failed", job_id=event.job_id, error=kind, exc_info=True)
            channel.basic_reject(tag, requeue=False)
            return
        light.ack(channel, tag)
