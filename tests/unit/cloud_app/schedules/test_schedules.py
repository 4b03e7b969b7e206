"""Schedules fired: each run once, whatever overlaps, is missed or away."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from cloud_app import store
from cloud_app.brain.calendar import CatchUpPolicy, OverlapPolicy
from cloud_app.context import Context
from cloud_app.fleet import registry
from cloud_app.jobs import lifecycle
from cloud_app.orgs import auth
from cloud_app.schedules import schedules
from cloud_app.schedules.schedules import NewSchedule
from cloud_app.store.records import (
    KeyRecord,
    RunRecord,
    RunTrigger,
    ScheduleRecord,
    WebhookConfig,
)
from fixtures import web
from fixtures.web import Clock, TwinBus
from genie.contracts.inference import InferenceTask, JobState
from genie.errors import BadRequest, Conflict, NoCapacity, NotFound, UnknownModel

HOUR = 3600
ASK = {"model": "echo:small", "messages": [{"role": "user", "content": "On {{date}}"}]}


class Rig:
    """A cloud with one worker, and one key to make schedules with."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.ctx: Context = web.context(folder, clock=self.clock)
        self.bus = cast(TwinBus, self.ctx.bus)
        self.key: KeyRecord = web.key(self.ctx)[0]
        self.secret = web.join(self.ctx, models=(web.ready(),))
        self.beats = 0

    def make(self, **given: object) -> ScheduleRecord:
        """A schedule that runs every hour unless told otherwise."""
        values = {"name": "digest", "cron": "@hourly", "request": ASK} | given
        new = NewSchedule(**values)  # type: ignore[arg-type]  # by name
        return schedules.create(self.ctx, self.key, new)

    def pass_s(self, seconds: float) -> int:
        """Let time pass with a live worker, then fire; how many runs started."""
        self.clock.pass_s(seconds)
        self.beats += 1
        web.beat(self.ctx, self.secret, seq=self.beats, models=(web.ready(),))
        return self.fire()

    def fire(self) -> int:
        return schedules.fire(self.ctx)

    def runs(self, name: str = "digest") -> tuple[RunRecord, ...]:
        """Its runs, oldest first."""
        schedule = schedules.get(self.ctx, "acme", name)
        return tuple(reversed(schedules.runs(self.ctx, schedule, 200)))

    def states(self, name: str = "digest") -> list[str]:
        return [run.state.value for run in self.runs(name)]

    def busy(self) -> None:
        """From now on workers take jobs and do not end them."""
        self.bus.work = lambda task: iter((web.started(task),))

    def end(self, task: InferenceTask) -> None:
        """A worker ends one of them."""
        lifecycle.apply(self.ctx, web.outcome(task, text="done", tokens=1))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.ctx.db.dispose()


def test_a_due_run_becomes_a_job_with_its_variables_filled_in(rig: Rig) -> None:
    schedule = rig.make()
    assert rig.fire() == 0
    assert rig.pass_s(HOUR) == 1
    (run,), (task,) = rig.runs(), rig.bus.published
    assert (run.state, run.job_id) == ("started", task.job_id)
    assert run.fire_at == schedule.next_at == rig.clock.at
    assert task.messages[-1].content == "On 2026-05-04"
    job = lifecycle.get(rig.ctx, "acme", task.job_id)
    assert (job.state, job.mode) == (JobState.COMPLETED, "async")
    assert job.request.metadata == {"schedule": "digest"}
    assert rig.fire() == 0  # twice at the same moment starts nothing more


def test_dates_are_of_the_schedules_zone_and_of_when_it_was_due(rig: Rig) -> None:
    text = {"messages": [{"role": "user", "content": "{{fire_at}} {{time}} {{now}}"}]}
    rig.make(timezone="Asia/Tokyo", request=ASK | text)
    rig.pass_s(HOUR + 30)
    assert rig.bus.published[0].messages[-1].content == (
        "2026-05-04T22:00:00+09:00 22:00 2026-05-04T22:00:30+09:00"
    )


@pytest.mark.parametrize(
    ("catch_up", "states"),
    [
        (CatchUpPolicy.NONE, ["skipped", "skipped", "skipped"]),
        (CatchUpPolicy.LAST, ["skipped", "skipped", "started"]),
        (CatchUpPolicy.ALL, ["started", "started", "started"]),
    ],
)
def test_what_was_missed_is_caught_up_as_told(
    rig: Rig, catch_up: CatchUpPolicy, states: list[str]
) -> None:
    rig.make(catch_up=catch_up, overlap=OverlapPolicy.REPLACE)
    rig.pass_s(3 * HOUR + 120)
    assert rig.states() == states
    skipped = [run.reason for run in rig.runs() if run.state == "skipped"]
    assert all(reason and "late; catch-up is" in reason for reason in skipped)


def test_skip_leaves_a_run_out_while_the_one_before_goes_on(rig: Rig) -> None:
    rig.busy()
    rig.make(overlap=OverlapPolicy.SKIP)
    rig.pass_s(HOUR)
    rig.pass_s(HOUR)
    assert rig.states() == ["started", "skipped"]
    assert (rig.runs()[1].reason or "").endswith("was still running")
    rig.end(rig.bus.published[0])
    rig.pass_s(HOUR)
    assert rig.states() == ["started", "skipped", "started"]


def test_queue_starts_each_run_after_the_one_before(rig: Rig) -> None:
    rig.busy()
    rig.make(overlap=OverlapPolicy.QUEUE)
    for _ in range(3):
        rig.pass_s(HOUR)
    assert rig.states() == ["started", "queued", "queued"]
    assert rig.fire() == 0
    for done in range(2):
        rig.end(rig.bus.published[done])
        assert rig.fire() == 1
    assert rig.states() == ["started", "started", "started"]
    texts = [task.job_id for task in rig.bus.published]
    assert [run.job_id for run in rig.runs()] == texts


def test_a_new_run_does_not_overtake_one_that_waits(rig: Rig) -> None:
    rig.busy()
    rig.make(overlap=OverlapPolicy.QUEUE)
    rig.pass_s(HOUR)
    rig.pass_s(HOUR)
    rig.end(rig.bus.published[0])
    assert rig.pass_s(HOUR) == 1  # the third is due before the second has begun
    assert rig.states() == ["started", "started", "queued"]


def test_a_schedule_paused_since_it_was_read_starts_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = rig.make()
    schedules.pause(rig.ctx, "acme", "digest")
    monkeypatch.setattr(store.schedules, "due", lambda *_: (read,))
    assert rig.pass_s(HOUR) == 0
    assert rig.states() == []


def test_replace_cancels_the_run_before(rig: Rig) -> None:
    rig.busy()
    rig.make(overlap=OverlapPolicy.REPLACE)
    rig.pass_s(HOUR)
    rig.pass_s(HOUR)
    first, second = (
        lifecycle.get(rig.ctx, "acme", t.job_id) for t in rig.bus.published
    )
    assert (first.state, second.state) == (JobState.CANCELLED, JobState.RUNNING)
    assert rig.bus.cancelled == [first.id]


def test_of_several_runs_at_once_replace_runs_the_last_one_only(rig: Rig) -> None:
    rig.busy()
    rig.make(overlap=OverlapPolicy.REPLACE, catch_up=CatchUpPolicy.ALL)
    rig.pass_s(3 * HOUR)
    states = [
        lifecycle.get(rig.ctx, "acme", run.job_id or "").state for run in rig.runs()
    ]
    assert states == [JobState.CANCELLED, JobState.CANCELLED, JobState.RUNNING]
    assert len(rig.bus.published) == 1


def test_jitter_starts_a_run_later_and_not_at_another_slot(rig: Rig) -> None:
    schedule = rig.make(jitter_s=600.0)
    late = schedules.delay(schedule, schedule.next_at or rig.clock.at)
    assert timedelta(0) < late < timedelta(minutes=10)
    assert rig.pass_s(HOUR + late.total_seconds() - 1) == 0
    assert rig.pass_s(1) == 1
    assert rig.runs()[0].fire_at == schedule.next_at


def test_a_fleet_that_cannot_serve_leaves_the_run_due_and_says_so(rig: Rig) -> None:
    rig.make()
    rig.clock.pass_s(HOUR)  # no heartbeat for an hour: nobody is there
    registry.invalidate_view(rig.ctx)
    assert rig.fire() == 0
    waiting = schedules.get(rig.ctx, "acme", "digest")
    assert "genie worker join" in (waiting.trouble or "")
    assert rig.runs() == ()
    assert rig.pass_s(50) == 1
    assert schedules.get(rig.ctx, "acme", "digest").trouble is None


def test_a_broker_that_is_away_leaves_the_job_to_the_relay(rig: Rig) -> None:
    rig.make()
    rig.bus.is_down = True
    assert rig.pass_s(HOUR) == 1
    (run,) = rig.runs()
    assert lifecycle.get(rig.ctx, "acme", run.job_id or "").state is JobState.QUEUED
    rig.bus.is_down = False
    rig.clock.pass_s(20)
    assert lifecycle.relay(rig.ctx) == 1


def test_a_revoked_key_pauses_its_schedules_with_the_reason(rig: Rig) -> None:
    rig.make()
    auth.revoke_key(rig.ctx, "acme", rig.key.id)
    assert rig.pass_s(HOUR) == 0
    paused = schedules.get(rig.ctx, "acme", "digest")
    assert paused.paused_at == rig.clock.at
    assert "revoked" in (paused.trouble or "")
    assert rig.runs() == ()


def test_a_request_that_became_wrong_is_refused_and_the_next_run_comes(
    rig: Rig,
) -> None:
    schedule = rig.make()
    gone = ASK | {"model": "gone:1b"}
    with rig.ctx.db.session() as session:
        store.schedules.change(session, schedule.id, request=gone)
    rig.pass_s(HOUR)
    (run,) = rig.runs()
    assert run.state == "refused"
    assert "gone:1b" in (run.reason or "")
    with rig.ctx.db.session() as session:
        store.schedules.change(session, schedule.id, request=ASK)
    assert rig.pass_s(HOUR) == 1


def test_a_paused_schedule_starts_nothing_and_makes_up_for_nothing(rig: Rig) -> None:
    rig.make(catch_up=CatchUpPolicy.ALL)
    schedules.pause(rig.ctx, "acme", "digest")
    assert rig.pass_s(5 * HOUR) == 0
    schedules.resume(rig.ctx, "acme", "digest")
    assert rig.fire() == 0
    assert rig.pass_s(HOUR) == 1
    assert len(rig.runs()) == 1


def test_a_run_by_hand_starts_at_once_and_changes_no_plan(rig: Rig) -> None:
    schedule = rig.make()
    run = schedules.run_now(rig.ctx, rig.key, "digest")
    assert (run.trigger, run.fire_at) == (RunTrigger.MANUAL, rig.clock.at)
    assert [task.job_id for task in rig.bus.published] == [run.job_id]
    assert schedules.get(rig.ctx, "acme", "digest").next_at == schedule.next_at
    with pytest.raises(BadRequest, match="a moment ago"):
        schedules.run_now(rig.ctx, rig.key, "digest")


def test_a_removed_schedule_is_gone_with_its_runs(rig: Rig) -> None:
    rig.make()
    rig.pass_s(HOUR)
    schedules.remove(rig.ctx, "acme", "digest")
    with pytest.raises(NotFound, match="genie schedule list"):
        schedules.get(rig.ctx, "acme", "digest")
    assert rig.pass_s(HOUR) == 0
    assert len(lifecycle.find(rig.ctx, "acme")) == 1


def test_another_org_sees_no_schedule(rig: Rig) -> None:
    rig.make()
    auth.ensure_org(rig.ctx, "globex")
    with pytest.raises(NotFound):
        schedules.get(rig.ctx, "globex", "digest")
    assert schedules.find(rig.ctx, "globex") == ()


@pytest.mark.parametrize(
    ("given", "kind", "param"),
    [
        ({"cron": "61 * * * *"}, BadRequest, "cron"),
        ({"timezone": "Mars/Olympus"}, BadRequest, "timezone"),
        ({"name": " "}, BadRequest, "name"),
        ({"request": {}}, BadRequest, "request.messages"),
        ({"request": ASK | {"model": "gone:1b"}}, UnknownModel, "model"),
        ({"request": ASK | {"user": "{{datum}}"}}, BadRequest, "request"),
        (
            {"webhook": WebhookConfig(url="http://10.0.0.1/", secret="longer than 8")},
            BadRequest,
            "webhook.url",
        ),
    ],
)
def test_what_could_never_run_is_refused_when_it_is_made(
    rig: Rig, given: dict[str, object], kind: type[Exception], param: str
) -> None:
    with pytest.raises(kind) as caught:
        rig.make(**given)
    assert getattr(caught.value, "param", None) == param


def test_a_name_is_taken_once(rig: Rig) -> None:
    rig.make()
    with pytest.raises(Conflict, match="genie schedule rm"):
        rig.make()


def test_a_schedules_webhook_is_told_of_every_job(rig: Rig) -> None:
    rig.make(webhook=WebhookConfig(url="https://example.com/h", secret="longer than 8"))
    rig.pass_s(HOUR)
    with rig.ctx.db.reading() as session:
        (told,) = store.webhooks.of_org(session, "acme")
    assert (told.job_id, told.url) == (rig.runs()[0].job_id, "https://example.com/h")


def test_moments_are_those_of_the_clock(rig: Rig) -> None:
    schedule = rig.make(cron="30 7 * * *", timezone="Europe/Berlin")
    assert schedule.next_at == datetime.fromisoformat("2026-05-05T07:30:00+02:00")


def test_nobody_can_serve_means_a_run_by_hand_is_refused(rig: Rig) -> None:
    rig.make()
    rig.clock.pass_s(HOUR)
    registry.invalidate_view(rig.ctx)
    with pytest.raises(NoCapacity):
        schedules.run_now(rig.ctx, rig.key, "digest")
