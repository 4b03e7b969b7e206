"""What cloud and worker ask of a message broker, whichever it is."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypedDict, Unpack

from genie import logs
from genie.messaging.queues import QueueSpec

log = logs.logger("messaging.link")

REFUSED_S = 1.0
"""After the broker refused a queue, its consumer begins anew."""

Headers = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """One message to an exchange.

    A ``confirmed`` one is durable, and there must be a queue it goes to.
    """

    key: str
    body: bytes
    exchange: str = ""
    confirmed: bool = False
    headers: Headers = field(default_factory=dict)
    correlation_id: str | None = None
    expires_ms: int | None = None


@dataclass(slots=True, kw_only=True)
class BrokerMessage:
    """A message that came. ``channel`` and ``tag`` settle it, on that channel only."""

    body: bytes
    redelivered: bool
    headers: Callable[[], Headers]
    channel: object
    tag: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCount:
    """What the broker says of a queue: ready messages, and consumers."""

    waiting: int
    consumers: int


class LinkError(ConnectionError):
    """What was asked of the broker was not done, or nobody knows whether it was."""


class Unroutable(LinkError):
    """There is no queue the message could go to."""


class Refused(LinkError):
    """The broker took the message and gave it back, or refused a queue."""


class BrokerBlocked(LinkError):
    """The broker reads no publishes: its memory or disk alarm is on. What was sent just
    before waits for the end of the alarm."""


class LinkLost(LinkError):
    """The connection went before the broker's answer came."""


OnMessage = Callable[[BrokerMessage], None]
OnConfirm = Callable[[Exception | None], None]
OnCount = Callable[[QueueCount | Exception], None]


def nobody(_error: Exception | None) -> None:
    """Nobody waits for the confirmation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkEvents:
    """What the owner of a link hears, in the broker's thread; none of it may wait.

    ``up`` at each connection; ``down`` when one was lost; ``quiet`` each time all that
    had arrived was handled; ``unblocked`` when publishes are taken again.
    """

    up: Callable[[], None] = lambda: None
    down: Callable[[], None] = lambda: None
    quiet: Callable[[], None] = lambda: None
    unblocked: Callable[[], None] = lambda: None


class ConsumeOptions(TypedDict, total=False):
    """How messages are taken: at most ``places`` of them not yet acked (0, the default:
    none needs it), by ``priority`` among consumers; ``ready`` once the broker knows it.
    """

    places: int
    priority: int
    is_background: bool
    ready: Callable[[], None]


class Link(Protocol):
    """One connection that comes back by itself.

    `send`, `ack`, `reject`, `call`, `gathered` and `declare` may be called from any
    thread and wait for nothing; the others in the broker's thread, where callbacks run.
    """

    def start(self) -> None:
        """Connect; returns at once."""

    def close(self, timeout_s: float = 5.0) -> None:
        """Send what was given, then close."""

    def reset(self) -> None:
        """Give this connection up and open another one."""

    @property
    def is_up(self) -> bool:
        """True while connected."""

    @property
    def is_writing(self) -> bool:
        """True while something was sent that has not left for the broker."""

    def wait_up(self, timeout_s: float) -> bool:
        """Connect now if need be; False when that fails or takes longer."""

    def call(self, action: Callable[[], None]) -> None:
        """Run ``action`` soon, in the broker's thread."""

    def call_later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Run ``action`` after a time, in the broker's thread."""

    def declare(self, queue: QueueSpec, done: OnCount) -> None:
        """Make sure of a queue, and count it."""

    def consume(
        self, queue: str, hear: OnMessage, **wanted: Unpack[ConsumeOptions]
    ) -> str:
        """Take messages; returns the consumer's tag."""

    def cancel(self, tag: str, done: Callable[[], None] | None = None) -> None:
        """Take no more; without ``done`` nothing must be under way, with it what is
        still comes before."""

    def ack(self, message: BrokerMessage) -> None:
        """It is done with. After a lost connection somebody else has it: no news."""

    def reject(self, message: BrokerMessage, *, requeue: bool) -> None:
        """Give it back, or set it aside with the dead letters."""

    def send(self, publication: Publication, done: OnConfirm = nobody) -> bool:
        """Publish; False when that cannot be done now, and then it was not.

        ``done`` hears of a confirmed one: None, or why it may not have arrived. It
        hears of an alarm at once (`BrokerBlocked`), and after it what became of it.
        """

    def gathered(self) -> AbstractContextManager[None]:
        """Let what is written within leave in one write at the end."""


def subscribe(
    link: Link, queue: QueueSpec, hear: OnMessage, **wanted: Unpack[ConsumeOptions]
) -> None:
    """Make sure of a queue, then take what comes to it; to be called at each ``up``."""

    def consume(found: QueueCount | Exception) -> None:
        if isinstance(found, QueueCount):
            link.consume(queue.name, hear, **wanted)
        elif not isinstance(found, LinkLost):
            log.error("queue_refused", queue=queue.name, error=repr(found))
            link.call_later(REFUSED_S, link.reset)

    link.declare(queue, consume)
