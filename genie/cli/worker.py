"""``genie worker``: adds this machine to a fleet."""

import shlex

import click

from genie import env
from genie.cli.output import CommandSession, as_json, note, quiet, show_done, show_json
from genie.cli.values import moment


class CloudAddress(click.ParamType[str]):
    """A cloud's address, with its scheme."""

    name = "url"

    def convert(
        self,
        value: object,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str:
        """The address without a slash at its end."""
        try:
            address: str = env.url("http", "https")(str(value))
        except ValueError as error:
            self.fail(
                f"{error}; use an address like https://genie.example.com", param, ctx
            )
        return address.rstrip("/")


@click.group()
def worker() -> None:
    """Add this machine to a fleet and serve its models."""


@worker.command()
@click.argument("url", type=CloudAddress())
@click.option("--token", help="The join token, gj-…; prompted for if missing.")
@click.option("--name", help="This worker's name; the host's by default.")
@as_json
@click.pass_obj
def join(
    session: CommandSession,
    url: str,
    token: str | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Join the fleet of the cloud at URL.

    Needs a join token; `genie worker token` makes one with an admin key. The
    credentials are saved in a file that only this user can read.
    """
    from workers.join import join as join_fleet

    quiet()
    secret = token or click.prompt("Join token", hide_input=True, err=True)
    registered = join_fleet(url, secret, name=name)
    joined = {"id": registered.worker_id, "name": registered.name}
    show_done(session, as_json, joined, tuple(joined.values()))
    named = f"GENIE_WORKER_NAME={shlex.quote(name)} " if name else ""
    command = f"GENIE_URL={url} {named}genie worker start"
    note(f"genie: joined as {registered.name}; to start serving, run `{command}`")


@worker.command()
def start() -> None:
    """Serve the fleet's requests on this machine until stopped.

    GENIE_URL names the cloud; the other GENIE_ variables of a worker are optional.
    """
    from workers.celery import main

    click.get_current_context().exit(main())


@worker.command()
@click.option("--queue", "queues", multiple=True, help="A queue to serve; repeatable.")
@as_json
@click.pass_obj
def token(session: CommandSession, queues: tuple[str, ...], as_json: bool) -> None:
    """Make a token with which one machine can join; needs an admin key."""
    made = session.connect().join_token(queues)
    if as_json:
        show_json(made)
        return
    click.echo(made.token)
    until = f" until {moment(made.expires_at)}" if made.expires_at else ""
    command = made.command or f"genie worker join URL --token {made.token}"
    note(f"genie: works once{until}; on the new machine run `{command}`")
