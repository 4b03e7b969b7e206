"""``genie workers`` and ``genie queues``: the fleet at a glance."""

from typing import TYPE_CHECKING

import click

from genie.cli.output import CommandSession, as_json, show_json, show_table
from genie.cli.values import short, size, span, took
from genie.contracts.fleet import ModelState

if TYPE_CHECKING:
    from genie.api_types import WorkerAnswer, WorkerModel

WORKER_COLUMNS = ("worker", "state", "queues", "memory", "models", "heard", "id")
QUEUE_COLUMNS = ("queue", "model", "class", "waiting", "consumers", "oldest", "SLA")
NO_WORKER = "no workers; `genie worker token` makes a token for a machine to join with"
NO_QUEUE = "no queues yet: no model has been placed or asked for"


@click.command()
@as_json
@click.pass_obj
def workers(session: CommandSession, as_json: bool) -> None:
    """List the fleet's workers and the models they hold; needs an admin key."""
    found = session.connect().workers()
    if as_json:
        show_json(found)
        return
    rows = [
        (
            worker.name,
            worker.state,
            worker.queues,
            memory(worker),
            held(worker),
            ago(worker.last_heartbeat_s),
            worker.id,
        )
        for worker in found
    ]
    spare = ("queues", "memory", "heard")
    show_table(session, WORKER_COLUMNS, rows, spare=spare, none=NO_WORKER)


@click.command()
@as_json
@click.pass_obj
def queues(session: CommandSession, as_json: bool) -> None:
    """List the queues, their depth and their oldest request; needs an admin key."""
    found = session.connect().queues()
    if as_json:
        show_json(found)
        return
    rows = [
        (
            queue.queue,
            queue.model,
            queue.work_class,
            queue.waiting,
            queue.consumers,
            took(queue.oldest_s),
            None if queue.sla_s is None else short(queue.sla_s),
        )
        for queue in found
    ]
    show_table(session, QUEUE_COLUMNS, rows, none=NO_QUEUE)


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
