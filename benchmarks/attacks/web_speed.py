"""The web server of this tree beside that of another one, in turns, on one broker.

    python benchmarks/attacks/web_speed.py /path/to/a/tree/that/uses/gunicorn

Both fleets are in their production shape with two echo models of 1,000 slots; the
other tree's web gets as many threads as this one's has by default.
"""

import http.client
import json
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(1, str(Path(__file__).parents[2] / "tests"))

from benchmarks.attacks import web_server
from benchmarks.common import site
from fixtures.fleet import Fleet, procfile_environ, widen
from fixtures.nodes import PostgresNode, RabbitNode

ROUNDS, CLIENTS, SECONDS, TOKENS = 3, 64, 6.0, 100

Figures = dict[str, float]


class GunicornFleet(Fleet):
    """A fleet of a tree whose web runs under gunicorn."""

    def start_web(self) -> None:
        """Start it as that tree's Procfile does."""
        bind = self.url.removeprefix("http://")
        command = ["gunicorn", "-c", "python:cloud_app.gunicorn", "-b", bind]
        command += ["--worker-connections", "4096"]  # with 1000 it would keep none
        environ = procfile_environ("web")
        self._start("web", [*command, "cloud_app.app:create_app()"], environ)


@contextmanager
def sides(other: Path) -> Iterator[dict[str, Fleet]]:
    """A fleet of each tree, both ready."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="genie-speed-"))
        rabbit = stack.enter_context(RabbitNode())
        postgres = stack.enter_context(PostgresNode())
        catalog = str(web_server.catalog(folder))
        made: dict[str, Fleet] = {}
        for name, kind, tree in (
            ("other", GunicornFleet, other),
            ("this", Fleet, site.ROOT),
        ):
            database_url = postgres.create_database()
            environ = {"GENIE_CATALOG": catalog, "GENIE_LOG_LEVEL": "WARNING"}
            environ |= {"PYTHONPATH": str(tree), "GENIE_WEB_THREADS": "1024"}
            fleet = stack.enter_context(
                kind(
                    broker_url=rabbit.vhost(name),
                    database_url=database_url,
                    environ=environ,
                )
            )
            fleet.start_worker("atlas")
            for model in ("echo:chat", "echo:ten"):
                fleet.wait_ready(model)
                widen(fleet, database_url, model, web_server.COUNT)
            made[name] = fleet
        yield made


class Side:
    """One fleet, asked by clients that keep their connections."""

    def __init__(self, fleet: Fleet) -> None:
        self._port = int(fleet.url.rpartition(":")[2])
        self._target = web_server.Target(port=self._port, key=fleet.api_key, pid=0)
        self._pids = [fleet.pid(name) for name in fleet.names()]
        self._web = fleet.pid("web")

    def round(self) -> Figures:
        """All figures once."""
        many = self._ask(CLIENTS, SECONDS)
        one = self._ask(1, SECONDS / 2)
        found = {f"{CLIENTS} clients, {name}": value for name, value in many.items()}
        found |= {f"1 client, {n}": v for n, v in one.items() if n.startswith("ms")}
        return found | self._stream()

    def _ask(self, clients: int, seconds: float) -> Figures:
        request, took = self._target.chat("chat"), list[float]()
        ends_at = time.monotonic() + seconds

        def ask() -> None:
            with self._target.connect(30) as client:
                while time.monotonic() < ends_at:
                    began = time.monotonic()
                    client.sendall(request)
                    _read(client)
                    took.append(time.monotonic() - began)

        web, all_ = site.cpu_s(self._web), site.cpu_s(*self._pids)
        _together(ask, clients)
        web, all_ = site.cpu_s(self._web) - web, site.cpu_s(*self._pids) - all_
        return {
            "requests/s": len(took) / seconds,
            "ms p50": at(took, 0.5),
            "ms p99": at(took, 0.99),
            "CPU ms a request, web": web / len(took) * 1000,
            "CPU ms a request, all ours": all_ / len(took) * 1000,
        }

    def _stream(self) -> Figures:
        request, firsts = self._target.chat("ten", TOKENS, stream=True), list[float]()

        def read() -> None:
            began = time.monotonic()
            with self._target.connect(60) as client:
                client.sendall(request)
                data = b""
                while b'"content":"' not in data:
                    data += client.recv(65_536)
                firsts.append(time.monotonic() - began)
                while client.recv(65_536):
                    pass

        request = request.replace(b"Host: a\r\n", b"Host: a\r\nConnection: close\r\n")
        began, web = time.monotonic(), site.cpu_s(self._web)
        _together(read, CLIENTS)
        tokens, took_s = CLIENTS * TOKENS, time.monotonic() - began
        return {
            f"{CLIENTS} streams, tokens/s": tokens / took_s,
            f"{CLIENTS} streams, ms to the first token p50": at(firsts, 0.5),
            f"{CLIENTS} streams, ms to the first token p99": at(firsts, 0.99),
            "CPU us a token, web": (site.cpu_s(self._web) - web) / tokens * 1e6,
        }


def _together(act: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=act) for _ in range(count)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()


def _read(client: socket.socket) -> None:
    response = http.client.HTTPResponse(client)
    response.begin()
    if response.status != 200:
        raise RuntimeError(f"a chat was answered {response.status}")
    response.read()


def at(seconds: list[float], share: float) -> float:
    """A quantile, in milliseconds."""
    return sorted(seconds)[min(len(seconds) - 1, int(len(seconds) * share))] * 1000


def main(other: Path) -> int:
    """Rounds in turns, a line of JSON each."""
    with sides(other) as fleets:
        rounds = {name: Side(fleet) for name, fleet in fleets.items()}
        for side in rounds.values():
            side.round()  # connections open, caches warm
        for number in range(ROUNDS):
            for name in sorted(rounds, reverse=bool(number % 2)):
                figures = {k: round(v, 2) for k, v in rounds[name].round().items()}
                print(json.dumps({"round": number, "side": name} | figures), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
