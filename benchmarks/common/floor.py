"""The least a durable, answered request could cost on these servers.

Two round trips of raw pika through the broker and one committed row, one after the
other: what it takes, and the processor time of all who take part.
"""

import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks.common import pika_echo
from benchmarks.common.figures import p50
from benchmarks.common.processes import Part, Snapshot, spent
from benchmarks.common.sides import Servers
from fixtures.process import ServerProcess

TEXT = b"one two three"
TRIPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """p50 of a broker trip and of a commit, and CPU of two trips and a commit."""

    trip_ms: float
    commit_ms: float
    cpu_ms: float

    @property
    def request_ms(self) -> float:
        """Two trips and a commit."""
        return TRIPS * self.trip_ms + self.commit_ms

    def details(self) -> dict[str, float]:
        """For a figure's details."""
        return {
            "pika_trip_ms": round(self.trip_ms, 2),
            "commit_ms": round(self.commit_ms, 2),
            "request_ms": round(self.request_ms, 2),
            "cpu_ms": round(self.cpu_ms, 2),
        }


def measure(servers: Servers, calls: int) -> Floor:
    """So many of each."""
    address = servers.postgres.create_database().replace("+psycopg", "")
    with (
        _echo(servers.rabbit.url) as echo,
        psycopg.connect(address, autocommit=True) as session,
    ):
        session.execute("CREATE TABLE floor (id bigserial PRIMARY KEY, body text)")
        caller = pika_echo.Caller(servers.rabbit.url)
        trips: list[float] = []
        commits: list[float] = []
        parts = {**servers.infra, "echo": Part((echo.pid,))}
        before, mine = Snapshot.take(), time.process_time()
        for _ in range(calls):
            for _ in range(TRIPS):
                trips.append(_ms(lambda: caller.call(TEXT)))
            commits.append(_ms(lambda: _commit(session)))
        mine = time.process_time() - mine
        used = sum(spent(parts, before, Snapshot.take()).values())
        caller.close()
    return Floor(
        trip_ms=p50(trips), commit_ms=p50(commits), cpu_ms=(used + mine) / calls * 1000
    )


def _commit(session: psycopg.Connection) -> None:
    session.execute("INSERT INTO floor (body) VALUES (%s)", [TEXT.decode()])


def _ms(call: object) -> float:
    assert callable(call)
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


@contextmanager
def _echo(url: str) -> Iterator[ServerProcess]:
    with tempfile.TemporaryDirectory(prefix="genie-bench-") as folder:
        process = ServerProcess(
            [sys.executable, pika_echo.__file__, url], folder=Path(folder), environ={}
        )
        try:
            yield process
        finally:
            process.end(signal.SIGKILL, timeout_s=10)
