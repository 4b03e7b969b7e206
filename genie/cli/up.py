"""``genie up``: a whole fleet in one process. ``genie web``: HTTP in production."""

import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from genie import catalog, env, gc_tuning, logs
from genie.cli.output import note
from genie.errors import SettingsError

F = TypeVar("F", bound=Callable[..., object])

DEFAULT_PORT = 8470
WEB_PORT = 8000

FIRST_PASSED = 3
"""The file number of the first socket that systemd passes (sd_listen_fds(3))."""

host_option = click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on."
)


def port_option(default: int) -> Callable[[F], F]:
    """The option of the port to serve at."""
    return click.option(
        "--port",
        type=click.IntRange(1, 65_535),
        default=default,
        show_default=True,
        help="Port of the API and pages.",
    )


@click.command()
@port_option(DEFAULT_PORT)
@host_option
@click.option(
    "--catalog",
    "catalog_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Catalog file instead of the shipped one.",
)
@click.option("--echo", is_flag=True, help="Serve the weightless echo models.")
@click.option("--verbose", is_flag=True, help="Show logs.")
def up(
    port: int, host: str, catalog_file: Path | None, echo: bool, verbose: bool
) -> None:
    """Start a whole fleet on this machine: cloud, queue and one worker.

    SQLite and an in-memory queue: nothing to install. Other machines cannot join this
    fleet; production runs the same parts as processes (see the README).
    """
    from genie.cli.embedded import EmbeddedFleet, EmbeddedFleetOptions

    logs.configure(level="INFO" if verbose else "WARNING")
    stop = stop_on_signals()
    options = EmbeddedFleetOptions(
        home=env.read(env.ClientSettings).home,
        host=host,
        port=port,
        catalog_path=catalog.ECHO if echo else catalog_file or catalog.SHIPPED,
    )
    with EmbeddedFleet(options) as fleet:
        note(f"Genie Fleet is up at {fleet.url}")
        note(f"  key    {fleet.api_key}")
        note(f"  pages  {fleet.url}/admin/  (sign in with the key)")
        note('  try    genie ask "What is a GPU?"        (in another terminal)')
        note("Ctrl-C stops it.")
        stop.wait()
        note("stopping …")


@click.command()
@port_option(WEB_PORT)
@host_option
def web(port: int, host: str) -> None:
    """Serve the API and the pages in production.

    Settings come from GENIE_* variables. Sockets that systemd passes (LISTEN_FDS) are
    served instead of --host and --port; several processes may serve the same ones, so
    that the next release takes over before this one ends. SIGTERM and SIGINT take no
    more connections and let running requests end, for at most 30 seconds; a second one
    cuts them.
    """
    from cloud_app.app import create_app
    from cloud_app.server import serve

    app = create_app()
    ctx = app.extensions["genie"]
    sockets = passed() or [listen(host, port)]
    server = serve(app, ctx, sockets)
    gc_tuning.freeze_loaded_objects()
    on_signals(lambda _number: server.stop(0.0 if server.is_stopping else None))
    note(f"Serving {', '.join(address(one) for one in sockets)}")
    tell_ready(env.notify_address())
    server.run()
    ctx.close()


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to an address; raises `SettingsError` when it cannot be had."""
    try:
        family = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another port "
            f"with --port {port + 1}"
        ) from error


def passed() -> list[socket.socket]:
    """The listening sockets that systemd, or another parent, has passed."""
    numbers = range(FIRST_PASSED, FIRST_PASSED + env.passed_sockets())
    return [socket.socket(fileno=number) for number in numbers]


def address(listening: socket.socket) -> str:
    """A socket's address as people write it."""
    name = listening.getsockname()
    if isinstance(name, tuple):
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return f"http://{host}:{name[1]}"
    return f"unix:{name}"


def tell_ready(address: str | None) -> None:
    """Tell systemd that we serve now (sd_notify(3)), if it asked for that."""
    if address is None:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as teller:
        teller.connect(address.replace("@", "\0", 1))
        teller.send(b"READY=1")


def stop_on_signals() -> threading.Event:
    """An event that SIGINT and SIGTERM set; a second one ends the process at once."""
    stop = threading.Event()

    def ask_to_stop(number: int) -> None:
        if stop.is_set():
            raise SystemExit(128 + number)
        stop.set()

    on_signals(ask_to_stop)
    return stop


def on_signals(react: Callable[[int], object]) -> None:
    """Call ``react`` with the number of every SIGINT and SIGTERM."""
    for wanted in (signal.SIGINT, signal.SIGTERM):
        signal.signal(wanted, lambda number, _frame: react(number))
