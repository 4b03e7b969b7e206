"""What a web process asks and waits for: one connection, one thread, many inboxes."""

import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from amqp.exceptions import RecoverableConnectionError

from cloud_app.bus.inbox import JobInbox, PublishUnconfirmed
from genie import logs, topology
from genie.contracts import codec
from genie.errors import CodecError
from genie.messaging import broker, light
from genie.messaging.confirms import Confirms
from genie.messaging.pump import Pump

if TYPE_CHECKING:
    from kombu.transport.base import StdChannel

log = logs.logger("bus.replies")

FIRST_CONNECT_S = 3.0
CONFIRM_S = 5.0
"""Without a confirm for so long, what was asked counts as not published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingMessage:
    """A message ready to go, and where to."""

    exchange: str
    key: str
    body: bytes
    headers: dict[str, str | int | None]


class _PublishChannel:
    """A channel to publish on, and what it still owes a confirm for, by job."""

    def __init__(self, channel: "StdChannel") -> None:
        self._channel = channel
        self.confirms: Confirms[str] = Confirms(channel)
        self._returned: list[str] = []
        self.is_blocked = False
        channel.events["basic_return"].add(self._take_back)

    def publish(self, job_id: str, post: OutgoingMessage) -> None:
        """Write it; raises what a broken connection raises."""
        send = partial(
            light.publish,
            self._channel,
            post.body,
            exchange=post.exchange,
            key=post.key,
            confirmed=True,
            headers=post.headers,
            correlation_id=job_id,
        )
        self.confirms.send(job_id, send)

    def lost(self) -> list[str]:
        """Jobs that were refused, went nowhere, or were not confirmed in time."""
        self.confirms.take()
        returned, self._returned = self._returned, []
        return [*returned, *self.confirms.drop(older_s=CONFIRM_S)]

    def _take_back(
        self, _error: object, _exchange: str, _key: str, message: Any
    ) -> None:
        self._returned.append(message.properties.get("correlation_id", ""))


class ReplyRouter:
    """Asks, and hands what is answered to whoever waits for it.

    The thread and its connection start at the first `expect`, after any fork. Asking
    does not wait for the broker's confirm: the answer is on its way meanwhile. Where
    the confirm does not come the inbox gets `PublishUnconfirmed`.
    """

    def __init__(self, url: str) -> None:
        self._asker_id = uuid.uuid4().hex
        self._inboxes: dict[str, JobInbox] = {}
        self._lock = threading.Lock()
        self._started = False
        self._line: _PublishChannel | None = None
        self._pump = Pump(
            url,
            name="genie-replies",
            on_connect=self._subscribe,
            on_lost=self._cut,
            on_quiet=lambda _channel: self._look(),
            on_blocked=(self._block, self._unblock),
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
            if not self._started:
                self._started = True
                self._pump.start()
        self._pump.wait_connected(FIRST_CONNECT_S)
        return inbox

    def publish(self, job_id: str, post: OutgoingMessage) -> bool:
        """Publish what an inbox was made for, from any thread; False if that cannot be
        done here and now: then it was not."""
        line = self._line
        if line is None or line.is_blocked or len(post.body) > light.SMALL_BYTES:
            return False
        try:
            line.publish(job_id, post)
        except (OSError, RecoverableConnectionError):
            return False  # the pump will notice, and say of the others what it must
        return True

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
        light.subscribe(channel, self.name, self._receive, tag="genie", no_ack=True)
        if light.is_shared(channel):  # else nothing is confirmed, or it is encrypted
            self._line = _PublishChannel(channel.connection.channel())

    def _cut(self) -> None:
        line, self._line = self._line, None
        self._fail(line.confirms.waiting if line else ())

    def _block(self, _reason: str) -> None:
        # Raising, as elsewhere, would cut off all answers that are on their way here.
        if self._line is not None:
            self._line.is_blocked = True
            self._fail(self._line.confirms.waiting)

    def _unblock(self) -> None:
        if self._line is not None:
            self._line.is_blocked = False

    def _look(self) -> None:
        if self._line is not None:
            self._fail(self._line.lost())

    def _fail(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            with self._lock:
                inbox = self._inboxes.get(job_id)
            if inbox is not None:
                inbox.put(PublishUnconfirmed())

    def _receive(self, message: light.Arrived) -> None:
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
