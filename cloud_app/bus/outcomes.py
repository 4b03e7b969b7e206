"""The cloud's side of every answer: started and outcome events into the database."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from genie import codec, logs, topology
from genie.contracts.inference import Chunk, Recorded
from genie.errors import CodecError, Unavailable
from genie.messaging import broker
from genie.messaging.pump import Pump

if TYPE_CHECKING:
    from kombu.message import Message
    from kombu.transport.base import StdChannel

log = logs.logger("bus.outcomes")

Apply = Callable[[Recorded], bool]
"""Records an event in the database; raises `Unavailable` when it cannot just now."""

PREFETCH = 64
RETRY_S = 0.5


class OutcomeConsumer:
    """Applies each event and acks after the commit; a bad one is dead-lettered."""

    def __init__(self, url: str, apply: Apply) -> None:
        self._apply = apply
        self._pump = Pump(url, name="genie-outcomes", on_connect=self._subscribe)

    def start(self) -> None:
        """Start consuming; returns at once."""
        self._pump.start()

    def stop(self) -> None:
        """Stop consuming; what is not yet acked comes again."""
        self._pump.stop()

    def _subscribe(self, channel: "StdChannel") -> None:
        from kombu import Consumer

        broker.dead_letter_queue(topology.OUTCOMES)(channel).declare()
        channel.basic_qos(0, PREFETCH, False)
        consumer = Consumer(
            channel,
            [broker.outcomes_queue()],
            accept=["json"],
            on_message=self._receive,
        )
        consumer.consume()

    def _receive(self, message: "Message") -> None:
        try:
            event = codec.decode_event(message.body)
        except CodecError as error:
            log.error("bad_outcome", error=str(error))
            message.reject()
            return
        if isinstance(event, Chunk):
            log.error("bad_outcome", error="a chunk is not an outcome")
            message.reject()
            return
        self._record(event, message)

    def _record(self, event: Recorded, message: "Message") -> None:
        try:
            self._apply(event)
        except Unavailable as error:
            log.warning("outcome_waits", job_id=event.job_id, error=str(error))
            time.sleep(RETRY_S)  # the database is away: nothing else could be recorded
            message.requeue()
            return
        except Exception as error:
            # Border: one event that cannot be recorded must not silence all others,
            # nor come back for ever; the dead letters keep it for a person.
            kind = type(error).__name__
            log.error("outcome_failed", job_id=event.job_id, error=kind, exc_info=True)
            message.reject()
            return
        message.ack()
