"""``genie workers`` and ``genie queues``: the fleet at a glance."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from genie.cli.output import CommandSession, as_json, show_list
from genie.cli.values import short, size, span, took
from genie.contracts.fleet import ModelState

if TYPE_CHECKING:
    from genie.api_types import QueueAnswer, WorkerAnswer, WorkerModel

WORKER_COLUMNS: dict[str, Callable[["WorkerAnswer"], object]] = {
    "worker": lambda worker: worker.name,
    "state": lambda worker: worker.state,
    "queues": lambda worker: worker.queues,
    "memory": lambda one: memory(one),  # noqa: PLW0108  # defined below
    "models": lambda one: held(one),  # noqa: PLW0108  # defined below
    "heard": lambda worker: ago(worker.last_heartbeat_s),
    "id": lambda worker: worker.id,
}
QUEUE_COLUMNS: dict[str, Callable[["QueueAnswer"], object]] = {
    "queue": lambda queue: queue.queue,
    "model": lambda queue: queue.model,
    "class": lambda queue: queue.work_class,
    "waiting": lambda queue: queue.waiting,
    "consumers": lambda queue: queue.consumers,
    "oldest": lambda queue: took(queue.oldest_s),
    "SLA": lambda queue: None if queue.sla_s is None else short(queue.sla_s),
}
NO_WORKER = "no workers; `genie worker token` makes a token for a machine to join with"
NO_QUEUE = "no queues yet: no model has been placed or asked for"


@click.command()
@as_json
@click.pass_obj
def workers(session: CommandSession, as_json: bool) -> None:
    """List the fleet's workers and the models they hold; needs an admin key."""
    found = session.connect().workers()
    spare = ("queues", "memory", "heard")
    show_list(session, as_json, found, WORKER_COLUMNS, spare=spare, none=NO_WORKER)


@click.command()
@as_json
@click.pass_obj
def queues(session: CommandSession, as_json: bool) -> None:
    """List the queues, their depth and their oldest request; needs an admin key."""
    found = session.connect().queues()
    show_list(session, as_json, found, QUEUE_COLUMNS, none=NO_QUEUE)


def memory(worker: "WorkerAnswer") -> str:
    """The memory that the worker serves from: its GPUs or the host."""
    if worker.gpus:
        return ", ".join(
            f"{gpu.name} {size(gpu.memory_total_bytes)}" for gpu in worker.gpus
        )
    if worker.host is None:
        return ""
    return f"CPU {size(worker.host.memory_total_bytes)}"


def held(worker: "WorkerAnswer") -> str:
    """Each model on the worker, with its state unless that is ready."""
    return ", ".join(
        model.model
        if model.state is ModelState.READY
        else f"{model.model} ({model_state(model)})"
        for model in worker.models
    )


def model_state(model: "WorkerModel") -> str:
    """A model's state, with how far it is and at which stage."""
    is_loading = model.progress is not None and model.state is not ModelState.READY
    share = f" {model.progress:.0%}" if is_loading else ""
    stage = "" if model.stage is None else f", {model.stage}"
    return f"{model.state.value}{share}{stage}"


def ago(age_s: float | None) -> str:
    """How long ago, or never.

    >>> ago(12.4), ago(None)
    ('12 s ago', 'never')
    """
    return "never" if age_s is None else f"{span(age_s)} ago"
