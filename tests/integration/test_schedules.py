"""P16: schedules fire once, whoever fires them, whoever is killed while doing so."""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import pytest

from cloud_app import store
from cloud_app.brain.calendar import CatchUpPolicy, OverlapPolicy
from cloud_app.context import Context
from cloud_app.jobs import lifecycle
from cloud_app.schedules import schedules
from cloud_app.schedules.schedules import NewSchedule
from cloud_app.store.records import KeyRecord, ScheduleRecord
from fixtures import web
from fixtures.nodes import PostgresNode

TESTS = Path(__file__).parents[1]
BRAINS = 3
SEED = 16
MOST_S = 600.0
ASK = {"model": "echo:small", "messages": [{"role": "user", "content": "{{fire_at}}"}]}


class Brains:
    """Three processes that fire schedules; one is killed now and then."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self._command = [sys.executable, "-m", "fixtures.firing_brain"]
        self._command += [database_url, str(folder)]
        self._environ = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
        self._running: list[subprocess.Popen[bytes]] = []
        self.killed = 0

    def __enter__(self) -> Self:
        self._running = [self._start() for _ in range(BRAINS)]
        return self

    def __exit__(self, *_error: object) -> None:
        for brain in self._running:
            brain.kill()
            brain.wait()

    def kill(self, number: int) -> None:
        """``kill -9`` of one, and another in its place."""
        brain = self._running.pop(number)
        assert brain.poll() is None, "a brain ended by itself"
        brain.kill()
        brain.wait()
        self.killed += 1
        self._running.append(self._start())

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, env=self._environ)


@pytest.fixture
def ctx(postgres: PostgresNode, tmp_path: Path) -> Iterator[Context]:
    """A cloud on an empty PostgreSQL database, at the time it is."""
    postgres.start()
    settings = web.cloud_settings(tmp_path, database_url=postgres.create_database())
    made = web.context(tmp_path, settings=settings, clock=lambda: datetime.now(UTC))
    yield made
    made.db.dispose()


@pytest.mark.parametrize(
    ("names", "slots", "kills"),
    [
        pytest.param(4, 15, 3, id="short"),
        pytest.param(10, 100, 25, id="P16", marks=pytest.mark.chaos),
    ],
)
@pytest.mark.timeout(MOST_S + 60)
def test_no_slot_is_missed_or_doubled_by_brains_that_are_killed(
    ctx: Context, tmp_path: Path, names: int, slots: int, kills: int
) -> None:
    key, secret = web.key(ctx)[0], web.join(ctx, models=(web.ready(),))
    made = [_overdue(ctx, key, f"s{number}", slots) for number in range(names)]
    dice, until, beat = random.Random(SEED), time.monotonic() + MOST_S, 0
    with Brains(ctx.settings.database_url, tmp_path) as brains:
        while not _is_over(ctx, made, slots) or brains.killed < kills:
            assert time.monotonic() < until, _told(ctx, made)
            time.sleep(dice.uniform(0.5, 3.0))
            beat += 1
            web.beat(ctx, secret, seq=beat, models=(web.ready(),))
            if brains.killed < kills:
                brains.kill(dice.randrange(BRAINS))
    print(f"{names * slots} slots, {brains.killed} kills, seed {SEED}")  # noqa: T201  # the figure
    for schedule in made:
        _check(ctx, schedule, slots)


def _overdue(ctx: Context, key: KeyRecord, name: str, slots: int) -> ScheduleRecord:
    """A schedule whose last ``slots`` minutes nobody has fired."""
    new = NewSchedule(
        name=name,
        cron="* * * * *",
        request=ASK,
        overlap=OverlapPolicy.QUEUE,
        catch_up=CatchUpPolicy.ALL,
    )
    made = schedules.create(ctx, key, new)
    assert made.next_at is not None
    first = made.next_at - timedelta(minutes=slots)
    with ctx.db.session() as session:
        store.schedules.change(session, made.id, next_at=first, due_at=first)
    return schedules.get(ctx, "acme", name)


def _wanted(schedule: ScheduleRecord, slots: int) -> list[datetime]:
    assert schedule.next_at is not None
    return [schedule.next_at + timedelta(minutes=number) for number in range(slots)]


def _is_over(ctx: Context, made: list[ScheduleRecord], slots: int) -> bool:
    """True when every wanted slot has become a job that ended."""
    for schedule in made:
        runs = schedules.runs(ctx, schedule, 10_000)
        started = {run.fire_at for run in runs if run.state == "started"}
        if not started.issuperset(_wanted(schedule, slots)):
            return False
        with ctx.db.reading() as session:
            if store.schedules.open_jobs(session, schedule.id):
                return False
    return True


def _check(ctx: Context, schedule: ScheduleRecord, slots: int) -> None:
    runs = schedules.runs(ctx, schedule, 10_000)
    wanted = _wanted(schedule, slots)
    per_slot = Counter(run.fire_at for run in runs)
    assert [per_slot[slot] for slot in wanted] == [1] * slots
    answers = Counter(
        job.outcome.text
        for run in runs
        if run.job_id is not None
        for job in [lifecycle.get(ctx, "acme", run.job_id)]
    )
    assert [answers[_text(slot)] for slot in wanted] == [1] * slots
    assert _jobs_of(ctx, schedule) == sum(run.job_id is not None for run in runs)


def _jobs_of(ctx: Context, schedule: ScheduleRecord) -> int:
    """How many jobs there are of a schedule, whatever its runs say."""
    count, after = 0, None
    while page := lifecycle.find(ctx, "acme", limit=200, after=after):
        count += sum(
            job.request.metadata.get("schedule") == schedule.name for job in page
        )
        after = page[-1].id
    return count


def _text(slot: datetime) -> str:
    return slot.isoformat(timespec="seconds")


def _told(ctx: Context, made: list[ScheduleRecord]) -> str:
    """What is left, for a failure's report."""
    found = [schedules.get(ctx, "acme", one.name) for one in made]
    states = Counter(
        run.state.value for one in made for run in schedules.runs(ctx, one, 10_000)
    )
    return f"{dict(states)}, trouble: {[one.trouble for one in found]}"
