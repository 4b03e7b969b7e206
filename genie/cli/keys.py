"""``genie keys``: list, create and revoke API keys."""

from collections.abc import Callable

import click

from genie.api_types import KeyAnswer
from genie.cli import hints
from genie.cli.output import (
    CommandSession,
    ListGroup,
    as_json,
    note,
    show_done,
    show_json,
    show_list,
)
from genie.cli.values import age, when

COLUMNS: dict[str, Callable[[KeyAnswer], object]] = {
    "key": lambda key: key.id,
    "name": lambda key: key.name,
    "prefix": lambda key: key.prefix,
    "admin": lambda key: key.is_admin,
    "models": lambda key: "all" if key.allowed_models is None else key.allowed_models,
    "age": lambda key: age(key.created_at),
    "revoked": lambda key: when(key.revoked_at),
}


@click.group(cls=ListGroup)
def keys() -> None:
    """List, create and revoke your org's API keys; needs an admin key."""


@keys.command("list")
@as_json
@click.pass_obj
def list_keys(session: CommandSession, as_json: bool) -> None:
    """List the keys, without their secrets."""
    found = session.connect().keys()
    spare = ("models", "age", "admin")
    show_list(session, as_json, found, COLUMNS, spare=spare, none="no keys")


@keys.command()
@click.argument("name")
@click.option("--admin", is_flag=True, help="May see workers, keys and join tokens.")
@click.option(
    "--model",
    "models",
    shell_complete=hints.model,
    multiple=True,
    help="Only this model; repeatable.",
)
@as_json
@click.pass_obj
def create(
    session: CommandSession,
    name: str,
    admin: bool,
    models: tuple[str, ...],
    as_json: bool,
) -> None:
    """Create a key; it is shown only now."""
    made = session.connect().create_key(name, admin=admin, models=models)
    if as_json:
        show_json(made)
        return
    click.echo(made.secret)
    note("genie: copy the key now, it is not shown again")


@keys.command()
@click.argument("key", shell_complete=hints.key)
@as_json
@click.pass_obj
def revoke(session: CommandSession, key: str, as_json: bool) -> None:
    """Revoke a key by its id or prefix; it stops working at once."""
    session.connect().revoke_key(key)
    show_done(session, as_json, {"key": key, "revoked": True}, (key, "revoked"))
