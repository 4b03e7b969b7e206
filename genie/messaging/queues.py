"""Queues by name, with the reason for each setting that matters."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from genie import topology
from genie.contracts.inference import WorkClass

CLASSIC: Mapping[str, object] = {"x-queue-type": "classic"}


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSpec:
    """A queue, the exchange it is bound to, and where its dead letters go.

    Without an ``exchange`` only the default one leads to it, by its name; without a
    name it is the exchange alone.
    """

    name: str
    exchange: str = ""
    routing_key: str = ""
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    arguments: Mapping[str, object] = field(default_factory=dict)
    dead: "QueueSpec | None" = None

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from all others."""
        return self.exchange, self.name


@lru_cache(1024)  # each message to a queue needs its name, and each name is long made
def model_queue(queue: str, model: str, work_class: WorkClass) -> QueueSpec:
    """The broker queue of one model and class behind a logical queue."""
    return QueueSpec(
        name=topology.model_queue(queue, model, work_class),
        exchange=queue,
        routing_key=topology.routing_key(model, work_class),
        arguments=_arguments(queue, work_class),
        dead=dead_letter_queue(queue),
    )


def _arguments(queue: str, work_class: WorkClass) -> dict[str, object]:
    arguments = _dead_lettered(queue)
    if work_class is WorkClass.INTERACTIVE:
        # Classic: opening or closing a credit takes 0.4 ms; on quorum, a Raft round.
        return {**arguments, **CLASSIC}
    return {
        **arguments,
        "x-queue-type": "quorum",
        "x-delivery-limit": topology.DELIVERY_LIMIT,
        "x-overflow": "reject-publish",  # at-least-once dead-lettering requires it
        "x-dead-letter-strategy": "at-least-once",
    }


def _dead_lettered(queue: str) -> dict[str, object]:
    dead = topology.dead_letters(queue)
    return {"x-dead-letter-exchange": dead, "x-dead-letter-routing-key": dead}


def bidders_queue(queue: str, model: str) -> QueueSpec:
    """Its consumers are the bidders of a model: counted, and told of each other."""
    return QueueSpec(
        name=topology.bidders(queue, model),
        arguments={**CLASSIC, "x-expires": 86_400_000},
    )


def dead_letter_queue(queue: str) -> QueueSpec:
    """Where a logical queue's undeliverable messages go, with the broker's reason."""
    name = topology.dead_letters(queue)
    return QueueSpec(name=name, exchange=name, routing_key=name, arguments=CLASSIC)


def outcomes_queue() -> QueueSpec:
    """The cloud's queue of started and outcome events.

    The release before publishes to it by its name; `topology.EVENTS` leads there too.
    """
    return QueueSpec(
        name=topology.OUTCOMES,
        exchange=topology.EVENTS,
        routing_key=topology.OUTCOMES,
        arguments={**CLASSIC, **_dead_lettered(topology.OUTCOMES)},
        dead=dead_letter_queue(topology.OUTCOMES),
    )


def brain_queue() -> QueueSpec:
    """Celery's queue of the cloud's own tasks."""
    return QueueSpec(name=topology.BRAIN, arguments=CLASSIC)


def control_queue(worker_id: str) -> QueueSpec:
    """One worker's own queue; it goes away a day after its worker did."""
    return QueueSpec(
        name=topology.control_queue(worker_id), arguments={"x-expires": 86_400_000}
    )


def replies() -> QueueSpec:
    """The exchange that leads to whoever asked."""
    return QueueSpec(name="", exchange=topology.REPLIES)


def reply_queue(asker_id: str) -> QueueSpec:
    """One web process's own queue; it goes away with the connection."""
    name = topology.reply_queue(asker_id)
    return QueueSpec(
        name=name,
        exchange=topology.REPLIES,
        routing_key=name,
        durable=False,
        exclusive=True,
        auto_delete=True,
    )
