"""What a web process asks and waits for: one connection and many bounded inboxes."""

import queue
import threading
import uuid
from dataclasses import dataclass
from functools import partial

from genie import logs, topology
from genie.contracts import codec
from genie.contracts.inference import Chunk, Event
from genie.errors import CodecError
from genie.messaging import broker, queues
from genie.messaging.link import BrokerMessage, LinkEvents, Publication, subscribe

MOST_CHUNKS = 4_000
MOST_BYTES = 2 * 1024 * 1024
"""Chunks one job's asker may leave unread; a slow reader must cost nobody else."""


@dataclass(frozen=True, slots=True)
class PublishUnconfirmed:
    """The broker did not say that it has the job's message; it may have it or not."""


InboxItem = Event | PublishUnconfirmed


class JobInbox:
    """The events of one job, in the order they came, while its asker keeps up."""

    def __init__(
        self, *, most_chunks: int = MOST_CHUNKS, most_bytes: int = MOST_BYTES
    ) -> None:
        self._events: queue.SimpleQueue[tuple[InboxItem, int]] = queue.SimpleQueue()
        self._most_chunks, self._most_bytes = most_chunks, most_bytes
        self._lock = threading.Lock()
        self._chunks = self._bytes = 0
        self.is_cut = False

    def put(self, event: InboxItem, size_bytes: int = 0) -> None:
        """Add an event; never blocks. Over the bound nothing more is kept."""
        if isinstance(event, Chunk) and not self._count(1, size_bytes):
            return
        self._events.put((event, size_bytes))

    def get(self, timeout_s: float) -> InboxItem | None:
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


log = logs.logger("bus.replies")

FIRST_CONNECT_S = 3.0


class ReplyRouter:
    """Asks, and hands what is answered to whoever waits for it.

    The connection opens at the first `expect`, after any fork. Asking does not wait for
    the broker's confirm: the answer is on its way meanwhile. Where the confirm does not
    come the inbox gets `PublishUnconfirmed`.
    """

    def __init__(self, url: str) -> None:
        self._asker_id = uuid.uuid4().hex
        self._inboxes: dict[str, JobInbox] = {}
        self._lock = threading.Lock()
        self._is_listening = threading.Event()
        self._link = broker.connect(
            url,
            "genie-replies",
            LinkEvents(up=self._subscribe, down=self._is_listening.clear),
        )

    @property
    def name(self) -> str:
        """The ``reply_to`` of tasks asked from this process."""
        return topology.reply_queue(self._asker_id)

    def expect(self, job_id: str) -> JobInbox:
        """An inbox for a job about to be published; `forget` it when done."""
        inbox = JobInbox()
        with self._lock:
            self._inboxes[job_id] = inbox
        if not self._is_listening.is_set():
            self._link.start()
            self._is_listening.wait(FIRST_CONNECT_S)
        return inbox

    def publish(self, publication: Publication) -> bool:
        """Publish what an inbox was made for, from any thread; False if that cannot be
        done here and now: then it was not. Its ``correlation_id`` is the job's id."""
        done = partial(self._doubt, publication.correlation_id or "")
        return self._is_listening.is_set() and self._link.send(publication, done)

    def forget(self, job_id: str) -> None:
        """Drop a job's inbox; later events of it are dropped."""
        with self._lock:
            self._inboxes.pop(job_id, None)

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    def _subscribe(self) -> None:
        queue = queues.reply_queue(self._asker_id)
        subscribe(self._link, queue, self._receive, ready=self._is_listening.set)

    def _doubt(self, job_id: str, error: Exception | None) -> None:
        if error is None:
            return
        with self._lock:
            inbox = self._inboxes.get(job_id)
        if inbox is not None:
            inbox.put(PublishUnconfirmed())

    def _receive(self, message: BrokerMessage) -> None:
        try:
            events = codec.decode_events(message.body)
        except CodecError as error:
            log.warning("bad_reply", error=str(error))
            return
        with self._lock:
            inboxes = [self._inboxes.get(event.job_id) for event in events]
        for event, inbox in zip(events, inboxes, strict=True):
            if inbox is not None:
                inbox.put(event, len(message.body) // len(events))
