"""``genie keys``: list, create and revoke API keys."""

import click

from genie.cli.output import Session, as_json, moment, note, show_json, show_table

COLUMNS = ("key", "name", "prefix", "admin", "models", "created", "revoked")


@click.group(invoke_without_command=True)
@click.pass_context
def keys(ctx: click.Context) -> None:
    """List, create and revoke your org's API keys; needs an admin key."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_keys)


@keys.command("list")
@as_json
@click.pass_obj
def list_keys(session: Session, as_json: bool) -> None:
    """List the keys, without their secrets."""
    found = session.connect().keys()
    if as_json:
        show_json(found)
        return
    rows = [
        (
            key.id,
            key.name,
            key.prefix,
            key.is_admin,
            "all" if key.allowed_models is None else key.allowed_models,
            moment(key.created_at),
            moment(key.revoked_at),
        )
        for key in found
    ]
    show_table(session, COLUMNS, rows)


@keys.command()
@click.argument("name")
@click.option("--admin", is_flag=True, help="May see workers, keys and join tokens.")
@click.option("--model", "models", multiple=True, help="Only this model; repeatable.")
@as_json
@click.pass_obj
def create(
    session: Session, name: str, admin: bool, models: tuple[str, ...], as_json: bool
) -> None:
    """Create a key; it is shown this once."""
    made = session.connect().create_key(name, admin=admin, models=models)
    if as_json:
        show_json(made)
        return
    click.echo(made.secret)
    note("genie: copy the key now, it is not shown again")


@keys.command()
@click.argument("key")
@click.pass_obj
def revoke(session: Session, key: str) -> None:
    """Revoke a key, by its id or prefix; it stops working at once."""
    session.connect().revoke_key(key)
    note(f"{key} is revoked")
