"""What the Fleet page draws, on both databases."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest

from cloud_app.api.orders import Mode, Order
from cloud_app.context import Context
from cloud_app.jobs.submit import submit
from cloud_app.orgs import auth
from cloud_app.store import reports
from cloud_app.store.records import KeyRecord
from cloud_app.web.pages import fleet
from fixtures import web
from fixtures.web import Clock, TwinBus
from genie.contracts.inference import JobState, Message, ModelInput

HOUR = timedelta(hours=1)


@pytest.fixture(params=["sqlite", "postgresql"])
def ctx(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Context]:
    """A context with one worker, on each kind of database."""
    settings = web.cloud_settings(tmp_path)
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").create_database()
        settings = web.cloud_settings(tmp_path, database_url=url)
    made = web.context(tmp_path, settings=settings)
    web.join(made, models=(web.ready(),))
    yield made
    made.db.dispose()


@pytest.fixture
def key(ctx: Context) -> KeyRecord:
    """An admin key."""
    return web.key(ctx)[0]


def ask(ctx: Context, key: KeyRecord, persona: str = "chat") -> str:
    order = Order(
        key=key,
        mode=Mode.ASYNC,
        persona=persona,
        input=ModelInput(messages=(Message(role="user", content="hi"),)),
        sampling={},
    )
    return submit(ctx, order).job.id


def test_the_last_hour_is_what_is_open_or_was_asked_or_ended_in_it(
    ctx: Context, key: KeyRecord
) -> None:
    bus, clock = cast(TwinBus, ctx.bus), cast(Clock, ctx.now)
    ask(ctx, key)
    bus.work = lambda task: []
    waiting = ask(ctx, key)
    clock.pass_s(7200)
    web.join(ctx, "borealis", models=(web.ready(),))
    bus.work = web.failing("load_failed", "it does not load")
    failed = ask(ctx, key)

    found = reports.since(ctx.db, key.org, ctx.now() - HOUR)
    counts = reports.counts(ctx.db, key.org, ctx.now() - HOUR)

    assert {job.id for job in found} == {waiting, failed}
    assert counts[JobState.QUEUED] == counts[JobState.FAILED] == 1
    assert counts[JobState.COMPLETED] == 0
    assert reports.states(ctx.db)["completed"] == 1


def test_the_page_tells_how_long_where_and_why(ctx: Context, key: KeyRecord) -> None:
    for _ in range(3):
        ask(ctx, key, "review")
    page = fleet.fleet_page(ctx, key)

    row = page.reasons[0]
    assert (row.personas, row.model, row.share) == (("review",), "echo:small", 1.0)
    assert row.why
    assert sum("chat" in other.personas for other in page.reasons) == 1
    assert [worker.name for worker in page.workers] == ["atlas"]
    assert page.queues[0].name == "genie"


def test_another_orgs_work_is_not_drawn(ctx: Context, key: KeyRecord) -> None:
    job_id = ask(ctx, key)
    rival = auth.ensure_org(ctx, "rival")
    start = ctx.now() - HOUR

    assert reports.since(ctx.db, rival, start) == ()
    assert reports.reasons(ctx.db, rival, [job_id]) == {}
    assert sum(reports.counts(ctx.db, rival, start).values()) == 0
