"""What a web process waits for: one reply queue, one thread, one inbox per job."""

import queue
import threading
import uuid
from typing import TYPE_CHECKING

from genie import codec, logs, topology
from genie.contracts.inference import Event
from genie.errors import CodecError
from genie.messaging import broker
from genie.messaging.pump import Pump

if TYPE_CHECKING:
    from kombu.message import Message
    from kombu.transport.base import StdChannel

log = logs.logger("bus.replies")

FIRST_CONNECT_S = 3.0


class Inbox:
    """The events of one job, in the order they came."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def put(self, event: Event) -> None:
        """Add an event; never blocks."""
        self._events.put(event)

    def get(self, timeout_s: float) -> Event | None:
        """The next event, or None when none came in time."""
        try:
            return self._events.get(timeout=timeout_s)
        except queue.Empty:
            return None


class Replies:
    """Hands events from this process's reply queue to whoever waits for their job.

    The thread and its connection start at the first `expect`, after any fork.
    """

    def __init__(self, url: str) -> None:
        self._asker_id = uuid.uuid4().hex
        self._inboxes: dict[str, Inbox] = {}
        self._lock = threading.Lock()
        self._started = False
        self._pump = Pump(url, name="genie-replies", on_connect=self._subscribe)

    @property
    def name(self) -> str:
        """The ``reply_to`` of tasks asked from this process."""
        return topology.reply_queue(self._asker_id)

    def expect(self, job_id: str) -> Inbox:
        """An inbox for a job about to be published; `forget` it when done."""
        inbox = Inbox()
        with self._lock:
            self._inboxes[job_id] = inbox
            if not self._started:
                self._started = True
                self._pump.start()
        self._pump.wait_connected(FIRST_CONNECT_S)
        return inbox

    def forget(self, job_id: str) -> None:
        """Drop a job's inbox; later events of it are dropped."""
        with self._lock:
            self._inboxes.pop(job_id, None)

    def close(self) -> None:
        """Stop the thread."""
        if self._started:
            self._pump.stop()

    def _subscribe(self, channel: "StdChannel") -> None:
        from kombu import Consumer

        bound = broker.reply_queue(self._asker_id)
        consumer = Consumer(
            channel,
            [bound],
            no_ack=True,
            accept=["json"],
            on_message=self._receive,
        )
        consumer.consume()

    def _receive(self, message: "Message") -> None:
        try:
            event = codec.decode_event(message.body)
        except CodecError as error:
            log.warning("bad_reply", error=str(error))
            return
        with self._lock:
            inbox = self._inboxes.get(event.job_id)
        if inbox is not None:
            inbox.put(event)
