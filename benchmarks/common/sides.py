"""The sides of a comparison: whom to ask, and whose processor time it is.

A fleet of this tree, one of another checkout beside it, and peers; all on one RabbitMQ
and one PostgreSQL, each with a virtual host and a database of its own.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.common.checkout import THIS, CheckoutFleet
from benchmarks.common.loader import Load, Loader, Loaders, Target
from benchmarks.common.processes import Part, Snapshot, prioritize, spent
from fixtures.nodes import PostgresNode, RabbitNode

INFRA = ("broker", "database")

SETTLE_S = 0.5
"""After a load: what is recorded when the answer is out belongs to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Somebody to ask: ``whole`` requests, or a ``stream`` of (persona, tokens).

    ``own`` tells its Python processes by part, ``infra`` are the servers it needs.
    """

    name: str
    own: Callable[[], Mapping[str, Part]]
    whole: Target
    infra: Mapping[str, Part] = field(default_factory=dict)
    stream: Callable[[str, int], Target] | None = None
    fleet: CheckoutFleet | None = None

    @property
    def parts(self) -> dict[str, Part]:
        """All whose processor time counts."""
        return {**self.own(), **self.infra}

    @property
    def widened(self) -> list[str]:
        """What was raised by hand, for the figure's line."""
        return [] if self.fleet is None else self.fleet.widened

    def streaming(self, persona: str, tokens: int) -> Target:
        """The target of a stream."""
        assert self.stream is not None
        return self.stream(persona, tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A load, and CPU seconds by part until what followed it was done."""

    load: Load
    cpu_s: Mapping[str, float]


class Bench:
    """Loads one side at a time and counts what it used meanwhile.

    ``is_prioritized`` puts all that takes part ahead of the machine's other work.
    """

    def __init__(self, *, is_prioritized: bool) -> None:
        self._runner = asyncio.Runner()
        self._loaders = Loaders()
        self.is_prioritized = is_prioritized

    def load(
        self,
        side: Side,
        target: Target,
        work: Callable[[Loader], Awaitable[Load]],
        *,
        at_once: int,
        failing: float = 0.0,
    ) -> Sample:
        """Run ``work``, which asks for so many requests ``at_once``.

        A fleet whose web refuses them is widened, and the load repeated. Raises
        RuntimeError when a larger share than ``failing`` of its answers was wrong.
        """
        fleet = side.fleet
        if fleet and 0 < fleet.carries < at_once:
            fleet.restart_web(at_once)
        cell = self._load(side, target, work)
        if fleet and fleet.carries < at_once and 503 in cell.load.statuses:
            fleet.widen_web(at_once)
            cell = self._load(side, target, work)
        cell.load.check(side.name, failing)
        return cell

    def _load(
        self, side: Side, target: Target, work: Callable[[Loader], Awaitable[Load]]
    ) -> Sample:
        loader, parts = self._loaders.of(target), side.parts
        before = Snapshot.take()
        if self.is_prioritized:
            prioritize({os.getpid()}.union(*(p.pids(before) for p in parts.values())))

        async def run() -> Load:
            return await work(loader)

        load = self._runner.run(run())
        time.sleep(SETTLE_S)
        return Sample(load=load, cpu_s=spent(parts, before, Snapshot.take()))

    def idle(self, sides: Iterable[Side], seconds: float) -> dict[str, object]:
        """Percent of a core that each part takes while nobody asks for anything."""
        before = Snapshot.take()
        time.sleep(seconds)
        after = Snapshot.take()
        percent = 100 / (after.at - before.at)
        return {
            side.name: {
                part: round(used * percent, 1)
                for part, used in spent(side.parts, before, after).items()
            }
            for side in sides
        }

    def close(self) -> None:
        """Close every connection."""
        self._loaders.close()
        self._runner.close()


Enter = Callable[[], AbstractContextManager[Side]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """The servers that all sides share."""

    rabbit: RabbitNode
    postgres: PostgresNode

    @property
    def infra(self) -> dict[str, Part]:
        """Broker and database as parts."""
        return {
            "broker": Part((self.rabbit.pid,)),
            "database": Part((self.postgres.pid,)),
        }

    def fleet(self, tree: Path, name: str, paces: Mapping[str, float]) -> Enter:
        """A fleet of ``tree``; it is started when the result is entered."""
        return lambda: self._fleet(tree, name, paces)

    @contextmanager
    def _fleet(
        self, tree: Path, name: str, paces: Mapping[str, float]
    ) -> Iterator[Side]:
        first = next(iter(paces))
        with CheckoutFleet(
            tree,
            name=name,
            broker_url=self.rabbit.vhost(name),
            database_url=self.postgres.create_database(),
            paces=paces,
        ) as fleet:
            fleet.start()
            yield Side(
                name=name,
                own=fleet.parts,
                infra=self.infra,
                whole=fleet.chat(first, 1, stream=False),
                stream=lambda persona, tokens: fleet.chat(persona, tokens, stream=True),
                fleet=fleet,
            )


@contextmanager
def servers() -> Iterator[Servers]:
    """A private RabbitMQ and PostgreSQL."""
    with RabbitNode() as rabbit, PostgresNode() as postgres:
        yield Servers(rabbit=rabbit, postgres=postgres)


@contextmanager
def running(enters: Sequence[Enter]) -> Iterator[list[Side]]:
    """All sides, started at the same time."""
    with ExitStack() as stack, ThreadPoolExecutor(len(enters)) as pool:
        managers = [enter() for enter in enters]
        started = [pool.submit(manager.__enter__) for manager in managers]
        failed = [one.exception() for one in started]
        for manager, error in zip(managers, failed, strict=True):
            if error is None:
                stack.push(manager.__exit__)
        for error in filter(None, failed):
            raise error
        yield [one.result() for one in started]


def trees(against: Path | None) -> dict[str, Path]:
    """The checkouts to measure by the name of their side."""
    if against is None:
        return {"genie": THIS}
    return {"genie": THIS, "old": against}
