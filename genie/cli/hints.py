"""Completes words in a shell with names from the cloud."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from genie.cli.output import CommandSession
from genie.errors import GenieError

if TYPE_CHECKING:
    from genie.sdk.client import Client

PATIENCE_S = 2.0
"""The longest a completion may take."""

NEWEST = 30

Hints = list[CompletionItem]
ReadCompletions = Callable[["Client"], Iterable[CompletionItem]]
Completer = Callable[[click.Context, click.Parameter, str], Hints]


def of(read: ReadCompletions) -> Completer:
    """Completes from what ``read`` finds; from nothing when that fails or is slow."""

    def complete(ctx: click.Context, _param: click.Parameter, typed: str) -> Hints:
        # no command runs here, so there is a session only where a test brought one
        session = ctx.find_object(CommandSession) or CommandSession(connect=_connect)
        found: Hints = []
        thread = Thread(target=lambda: _ask(session, read, found), daemon=True)
        thread.start()
        thread.join(PATIENCE_S)
        return [item for item in found if str(item.value).startswith(typed)]

    return complete


def shipped(_ctx: click.Context, _param: click.Parameter, typed: str) -> Hints:
    """Models of the shipped catalog, without asking the cloud."""
    from genie import catalog

    found = catalog.load(catalog.SHIPPED).models
    return [CompletionItem(name) for name in found if name.startswith(typed)]


def _ask(session: CommandSession, read: ReadCompletions, found: Hints) -> None:
    with suppress(GenieError):
        found.extend(read(session.connect()))


def _connect() -> "Client":
    from genie.sdk.client import Client

    return Client(retry_s=0)


def _personas(client: "Client") -> Iterable[CompletionItem]:
    for one in client.personas():
        yield CompletionItem(one.id, help=" ".join(one.ladder))


def _models(client: "Client") -> Iterable[CompletionItem]:
    tiers = dict.fromkeys(one.tier for one in client.personas() if one.tier)
    for model in client.models():
        yield CompletionItem(model.id, help="ready" if model.genie.ready else "")
    for tier in tiers:
        yield CompletionItem(tier, help="a tier")


def _jobs(client: "Client") -> Iterable[CompletionItem]:
    for job in client.jobs(limit=NEWEST):
        told = (job.status.value, job.details.persona, job.details.model)
        yield CompletionItem(job.id, help=" ".join(filter(None, told)))


def _batches(client: "Client") -> Iterable[CompletionItem]:
    for one in client.batches.list(limit=NEWEST):
        yield CompletionItem(one.id, help=one.status.value)


def _schedules(client: "Client") -> Iterable[CompletionItem]:
    for one in client.schedules():
        yield CompletionItem(one.name, help=one.details.cron)


def _workers(client: "Client") -> Iterable[CompletionItem]:
    for one in client.workers():
        yield CompletionItem(one.name, help=one.state)


def _letters(client: "Client") -> Iterable[CompletionItem]:
    for one in client.dead_letters():
        yield CompletionItem(one.id, help=one.reason)


def _keys(client: "Client") -> Iterable[CompletionItem]:
    found = client.keys()
    for one in found:
        if one.revoked_at is None:
            yield CompletionItem(one.id, help=one.name)


persona = of(_personas)
model = of(_models)
job = of(_jobs)
batch = of(_batches)
schedule = of(_schedules)
worker = of(_workers)
letter = of(_letters)
key = of(_keys)
