"""What a web process asks and waits for: one connection and many inboxes."""

import threading
import uuid
from functools import partial

from cloud_app.bus.inbox import JobInbox, PublishUnconfirmed
from genie import logs, topology
from genie.contracts import codec
from genie.errors import CodecError
from genie.messaging import broker, queues
from genie.messaging.link import LinkEvents, Publication, QueueCount, Received

log = logs.logger("bus.replies")

FIRST_CONNECT_S = 3.0
RETRY_S = 1.0


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
        self._link = broker.connect(url).link(
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
        self._link.declare(queues.reply_queue(self._asker_id), self._consume)

    def _consume(self, found: QueueCount | Exception) -> None:
        if isinstance(found, QueueCount):
            self._link.consume(self.name, self._receive, ready=self._is_listening.set)
            return
        log.warning("replies_refused", error=repr(found))
        self._link.call_later(RETRY_S, self._link.reset)

    def _doubt(self, job_id: str, error: Exception | None) -> None:
        if error is None:
            return
        with self._lock:
            inbox = self._inboxes.get(job_id)
        if inbox is not None:
            inbox.put(PublishUnconfirmed())

    def _receive(self, message: Received) -> None:
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
