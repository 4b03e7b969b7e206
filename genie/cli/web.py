"""``genie web``: serves HTTP in production."""

import signal
import socket
from typing import TYPE_CHECKING

import click

from genie import env, gc_tuning
from genie.cli.output import note
from genie.cli.up import PORTS
from genie.errors import SettingsError

if TYPE_CHECKING:
    from cloud_app.server import WebServer

DEFAULT_PORT = 8000

FIRST_PASSED = 3
"""The file number of the first socket that systemd passes (sd_listen_fds(3))."""


@click.command()
@click.option(
    "--port",
    type=PORTS,
    default=DEFAULT_PORT,
    show_default=True,
    help="Port of the API and pages.",
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on."
)
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
    _stop_on_signals(server)
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


def _stop_on_signals(server: "WebServer") -> None:
    def stop(_number: int, _frame: object) -> None:
        server.stop(0.0 if server.is_stopping else None)

    for wanted in (signal.SIGINT, signal.SIGTERM):
        signal.signal(wanted, stop)
