"""P17: under 64 streams, lost connections and loads, nothing grows.

The short form runs with every test run, the long one with ``make soak``.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from fixtures import census
from fixtures.census import Census
from fixtures.fleet import Fleet, wait_until
from fixtures.nodes import PostgresNode, RabbitNode
from fixtures.readers import Readers
from genie import Client

CATALOG = Path(__file__).with_name("soak.toml")
STREAMS, TOKENS = 64, 60
"""Six seconds of echo:small at 100 ms a token."""

WEB_THREADS, WEB_OTHERS = STREAMS + 16, 8

LONG_S = float(os.environ.get("GENIE_SOAK_S", "600"))
LONG_EVERY_S = 20.0
SHORT_CYCLES, SHORT_EVERY_S = 4, 15.0
"""Longer than a stream lives that lost its worker once: who loses worker and reply
queue again while it catches up is told that its answer cannot be continued."""


FEW = 2
"""Descriptors, threads or channels a process may hold more at the end: pools open what
they need, within their bound. What leaks at every turn is more than this."""

POOLED = {"web fds": 8, "brain fds": 8, "channels of genie-cloud": 16}
"""The pool of publishing connections opens up to eight in web and in the brain; what
leaks there at every turn is seen by the long form alone."""

LATE_MIB = 1.0
"""What a process may grow in the last third of a long run. Until then it warms up:
pools and caches fill, and the allocator keeps what the busiest moment needed."""

SHORT_MIB = 6.0
"""What it may grow in the short form, which cannot tell warming up from a leak."""


@pytest.fixture
def fleet(
    rabbitmq: RabbitNode, postgres: PostgresNode, rabbitmq_url: str, postgres_url: str
) -> Iterator[Fleet]:
    """Two workers with room for every stream."""
    environ = {"GENIE_CATALOG": str(CATALOG), "GENIE_WEB_THREADS": str(WEB_THREADS)}
    with Fleet(
        broker_url=rabbitmq_url,
        database_url=postgres_url,
        environ=environ,
        heartbeat_s=1.0,
    ) as started:
        started.start_worker("atlas")
        started.start_worker("borealis")
        started.wait_ready("echo:small", workers=2)
        yield started


def give_slots(fleet: Fleet, database_url: str, model: str, slots: int) -> None:
    """Place a model with so many slots, and wait until every worker has it so."""
    address = database_url.replace("+psycopg", "")
    with psycopg.connect(address, autocommit=True) as session:
        session.execute(
            "UPDATE placement SET slots = %s WHERE model = %s", [slots, model]
        )
    with fleet.client() as client:

        def is_wide() -> bool:
            # The record keeps the workers of earlier tests as well.
            online = [w for w in client.workers() if w.state == "online"]
            models = [m for w in online for m in w.models if m.model == model]
            wide = (m.state == "ready" and m.slots == slots for m in models)
            return bool(models) and all(wide)

        wait_until(is_wide, 90, f"{model} ready with {slots} slots")


class Cycle:
    """One turn of what a fleet lives through: an unload, a load, a loss."""

    def __init__(
        self, fleet: Fleet, rabbit: RabbitNode, broker_url: str, database_url: str
    ) -> None:
        self._fleet, self._rabbit = fleet, rabbit
        self._vhost = broker_url.rpartition("/")[2]
        self._database_url = database_url

    def run(self, client: Client, number: int) -> Census:
        """Live through it; what everybody holds when all is as before."""
        self._rabbit.ctl("close_all_connections", "--vhost", self._vhost, "soak")
        # Other slots: the engine goes and comes back.
        give_slots(self._fleet, self._database_url, "echo:large", 2 + number % 2)
        self._fleet.wait_ready("echo:small", workers=2)
        for persona in ("chat", "heavy"):
            job = client.submit("all is well", persona=persona, max_tokens=1)
            job.result(timeout=60)
        return census.take(self._fleet, self._rabbit, self._vhost, time.monotonic())


@dataclass(frozen=True, kw_only=True)
class Soaked:
    """What was counted, and how the streams ended."""

    taken: list[Census]
    ends: Counter[str]

    def more(self) -> dict[str, int]:
        """What is held now and was not after the first cycle, by process and kind."""
        first, last = self.taken[0], self.taken[-1]
        found = {
            f"{name} {kind}": getattr(held, kind) - getattr(first.processes[name], kind)
            for name, held in last.processes.items()
            for kind in ("fds", "threads")
        }
        return found | {
            f"channels of {name}": count - first.channels[name]
            for name, count in last.channels.items()
        }


def soak(cycle: Cycle, fleet: Fleet, *, seconds: float, every_s: float) -> Soaked:
    """Cycles under the streams for so long, at least `SHORT_CYCLES` of them."""
    taken: list[Census] = []
    with (
        Readers(fleet, count=STREAMS, tokens=TOKENS) as readers,
        fleet.client() as client,
    ):
        client.ask("load it", persona="heavy", max_tokens=1)
        until = time.monotonic() + seconds
        while len(taken) < SHORT_CYCLES or time.monotonic() < until:
            due = time.monotonic() + every_s
            taken.append(cycle.run(client, len(taken)))
            time.sleep(max(0.0, due - time.monotonic()))
    show(taken)
    sys.stdout.write(f"cycles: {len(taken)}; streams: {dict(readers.ends)}\n")
    return Soaked(taken=taken, ends=readers.ends)


def show(taken: list[Census]) -> None:
    for name in taken[0].processes:
        held = [one.processes[name] for one in taken if name in one.processes]
        sys.stdout.write(
            f"{name:18} rss {[round(h.rss_mib, 1) for h in held]}"
            f" fds {[h.fds for h in held]} threads {[h.threads for h in held]}\n"
        )
    for name in taken[0].channels:
        sys.stdout.write(f"{name:40} {[one.channels[name] for one in taken]}\n")


def leaks(soaked: Soaked) -> dict[str, int]:
    # a thread more starts when all others are busy, up to the bound
    return {
        name: more
        for name, more in soaked.more().items()
        if more > POOLED.get(name, FEW) and name != "web threads"
    }


@pytest.mark.timeout(300)
def test_nothing_grows_while_connections_and_models_come_and_go(
    fleet: Fleet, rabbitmq: RabbitNode, rabbitmq_url: str, postgres_url: str
) -> None:
    cycle = Cycle(fleet, rabbitmq, rabbitmq_url, postgres_url)
    soaked = soak(cycle, fleet, seconds=0.0, every_s=SHORT_EVERY_S)
    grown = census.grown_mib(soaked.taken)
    last = soaked.taken[-1].processes
    assert set(soaked.ends) == {"whole"}
    assert soaked.taken[0].processes.keys() == last.keys()
    assert leaks(soaked) == {}
    assert last["web"].threads <= WEB_THREADS + WEB_OTHERS
    assert {name: mib for name, mib in grown.items() if mib > SHORT_MIB} == {}


@pytest.mark.soak
@pytest.mark.timeout(LONG_S + 300)
def test_nothing_grows_for_many_minutes(
    fleet: Fleet, rabbitmq: RabbitNode, rabbitmq_url: str, postgres_url: str
) -> None:
    cycle = Cycle(fleet, rabbitmq, rabbitmq_url, postgres_url)
    soaked = soak(cycle, fleet, seconds=LONG_S, every_s=LONG_EVERY_S)
    third = len(soaked.taken) // 3
    thirds = [soaked.taken[at : at + third + 1] for at in (0, third, 2 * third)]
    grown = [census.grown_mib(part) for part in thirds]
    for name in grown[0]:
        mib = [round(part[name], 1) for part in grown]
        sys.stdout.write(f"{name} grew {mib} MiB in each third\n")
    assert set(soaked.ends) == {"whole"}
    assert leaks(soaked) == {}
    late = grown[-1]
    assert {name: mib for name, mib in late.items() if mib > LATE_MIB} == {}
