"""What a web process waits for: one reply queue, one thread, one inbox per job."""

import queue
import threading
import uuid
from typing import TYPE_CHECKING, Any

from genie import codec, logs, topology
from genie.contracts.inference import Chunk, Event
from genie.errors import CodecError
from genie.messaging import broker
from genie.messaging.pump import Pump

if TYPE_CHECKING:
    from kombu.transport.base import StdChannel

log = logs.logger("bus.replies")

FIRST_CONNECT_S = 3.0


MOST_CHUNKS = 4_000
MOST_BYTES = 2 * 1024 * 1024
"""Chunks one job's asker may leave unread; a slow reader must cost nobody else."""


class Inbox:
    """The events of one job, in the order they came, while its asker keeps up."""

    def __init__(
        self, *, most_chunks: int = MOST_CHUNKS, most_bytes: int = MOST_BYTES
    ) -> None:
        self._events: queue.SimpleQueue[tuple[Event, int]] = queue.SimpleQueue()
        self._most_chunks, self._most_bytes = most_chunks, most_bytes
        self._lock = threading.Lock()
        self._chunks = self._bytes = 0
        self.is_cut = False

    def put(self, event: Event, size_bytes: int = 0) -> None:
        """Add an event; never blocks. Over the bound nothing more is kept."""
        if isinstance(event, Chunk) and not self._count(1, size_bytes):
            return
        self._events.put((event, size_bytes))

    def get(self, timeout_s: float) -> Event | None:
        """The next event, or None when none came in time or the inbox was cut."""
        if self.is_cut:
            return None
        try:
            event, size_bytes = self._events.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(event, Chunk):
            self._count(-1, -size_bytes)
        return event

    def _count(self, chunks: int, size_bytes: int) -> bool:
        with self._lock:
            self._chunks += chunks
            self._bytes += size_bytes
            is_over = self._chunks > self._most_chunks or self._bytes > self._most_bytes
            self.is_cut = self.is_cut or is_over
            return not self.is_cut


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
        broker.reply_queue(self._asker_id)(channel).declare()
        # Not kombu's consumer: it inflates a compressed body before we see its size.
        channel.basic_consume(
            self.name, no_ack=True, callback=self._receive, consumer_tag=self.name
        )

    def _receive(self, message: Any) -> None:  # amqp's or the in-memory transport's
        try:
            event = codec.decode_event(message.body)
        except CodecError as error:
            log.warning("bad_reply", error=str(error))
            return
        with self._lock:
            inbox = self._inboxes.get(event.job_id)
        if inbox is not None:
            inbox.put(event, len(message.body))
