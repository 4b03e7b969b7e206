"""``genie db``: manages the cloud's database schema."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from genie import env
from genie.cli.output import as_json, note, show_json

if TYPE_CHECKING:
    from cloud_app.store import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """The setting of the database, without the cloud's other settings."""

    database_url: str = env.variable(
        "GENIE_DATABASE_URL",
        env.url("postgresql", "postgresql+psycopg", "sqlite"),
        "postgresql+psycopg://user:password@host/name, or sqlite:////path/genie.db",
    )


@click.group()
def db() -> None:
    """Manage the schema of the database that GENIE_DATABASE_URL names."""


@db.command()
@as_json
def check(as_json: bool) -> None:
    """Check whether this release can run on the schema.

    It can on its own schema and on the next release's. The exit code is 2 if not.
    """
    from cloud_app.store import schema

    with database() as found:
        schema.check(found)
        _tell(found, as_json, schema.fitness(found))


@db.command()
@as_json
def upgrade(as_json: bool) -> None:
    """Upgrade the schema to what this release needs.

    A later release's schema stays as it is.
    """
    from cloud_app.store import schema

    with database() as found:
        schema.upgrade(found)
        _tell(found, as_json, schema.fitness(found))


@db.command()
@click.option("--org", default="home", show_default=True, help="Short name of the org.")
@as_json
def bootstrap(org: str, as_json: bool) -> None:
    """Create an org and its first admin key.

    The key is shown only now. Needs the cloud's own settings; every further key is
    made with `genie keys create`.
    """
    from cloud_app import context
    from cloud_app.orgs import auth
    from cloud_app.settings import CloudSettings
    from cloud_app.store import schema

    ctx = context.build(env.read(CloudSettings))
    try:
        schema.check(ctx.db)
        auth.ensure_org(ctx, org)
        key, secret = auth.create_key(ctx, org, "bootstrap", is_admin=True)
        if as_json:
            show_json({"org": org, "name": key.name, "secret": secret})
            return
        click.echo(secret)
        note(f"genie: admin key of org {org}; copy it now, it is not shown again")
    finally:
        ctx.close()


@db.command()
@click.argument("revision")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@as_json
def downgrade(revision: str, yes: bool, as_json: bool) -> None:
    """Downgrade the schema to REVISION (`base` drops every table)."""
    from cloud_app.store import schema

    with database() as found:
        at = schema.current(found)
        question = f"Take the schema from {at} back to {revision}? Data is lost"
        if not yes:
            click.confirm(question, abort=True, err=True)
        schema.downgrade(found, revision)
        _tell(found, as_json)


def _tell(found: "Database", as_json: bool, more: str = "") -> None:
    from cloud_app.store import schema

    at = schema.current(found)
    if as_json:
        show_json({"revision": at})
        return
    click.echo(f"schema is at {at or 'nothing'}{more}")


@contextmanager
def database() -> Iterator["Database"]:
    """The database of this process's settings, closed at the end."""
    from cloud_app.store import Database

    found = Database(env.read(DatabaseSettings).database_url)
    try:
        yield found
    finally:
        found.dispose()
