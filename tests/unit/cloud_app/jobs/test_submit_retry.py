"""Jobs that did not complete, submitted again."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from sqlalchemy import delete

from cloud_app import store
from cloud_app.api.orders import Mode, Order
from cloud_app.context import Context
from cloud_app.fleet import registry
from cloud_app.jobs import lifecycle, submit
from cloud_app.store import tables
from cloud_app.store.records import JobRecord, KeyRecord, WebhookConfig
from fixtures import web
from fixtures.web import Clock, TwinBus
from genie.contracts.inference import JobRequest, JobState, Message, ModelInput
from genie.errors import BadRequest, NoCapacity, UnknownJob


class Rig:
    """A cloud with one worker that fails everything until told otherwise."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.ctx: Context = web.context(folder, clock=self.clock)
        self.bus = cast(TwinBus, self.ctx.bus)
        self.key: KeyRecord = web.key(self.ctx)[0]
        web.join(self.ctx, models=(web.ready(),))
        self.bus.work = web.failing("engine_error", "it broke")

    def submit(self, **given: object) -> JobRecord:
        """A job that says hi, unless told otherwise."""
        values: dict[str, object] = {
            "key": self.key,
            "mode": Mode.ASYNC,
            "model": "echo:small",
            "input": ModelInput(messages=(Message(role="user", content="hi"),)),
            "sampling": {"max_tokens": 7, "seed": 3},
            "request": JobRequest(metadata={"ticket": "7"}),
        }
        order = Order(**(values | given))  # type: ignore[arg-type]  # by name
        accepted = submit.submit(self.ctx, order)
        return lifecycle.get(self.ctx, "acme", accepted.job.id)

    def retry(self, job: JobRecord) -> JobRecord:
        made = submit.retry(self.ctx, self.key, job.id)
        return lifecycle.get(self.ctx, "acme", made.id)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.ctx.db.dispose()


def test_a_retry_is_a_new_job_with_the_same_question(rig: Rig) -> None:
    old = rig.submit(retain_h=5)
    rig.bus.work = web.answer
    rig.clock.pass_s(60)
    new = rig.retry(old)
    assert (old.state, new.state) == (JobState.FAILED, JobState.COMPLETED)
    assert (new.request.retry_of, new.request.metadata, new.retain_h) == (
        old.id,
        {"ticket": "7"},
        5,
    )
    first, second = rig.bus.published
    assert (second.messages, second.sampling) == (first.messages, first.sampling)
    assert second.deadline_at - first.deadline_at == new.created_at - old.created_at


def test_retrying_twice_gives_the_same_new_job(rig: Rig) -> None:
    old = rig.submit()
    rig.bus.work = web.answer
    assert rig.retry(old).id == rig.retry(old).id
    assert len(rig.bus.published) == 2


def test_a_retry_that_failed_is_retried_in_its_turn(rig: Rig) -> None:
    old = rig.submit()
    second = rig.retry(old)
    rig.bus.work = web.answer
    third = rig.retry(old)
    assert (second.request.retry_of, third.request.retry_of) == (old.id, second.id)


def test_a_retry_tells_the_same_webhook(rig: Rig) -> None:
    hook = WebhookConfig(url="https://example.com/h", secret="longer than 8")
    new = rig.retry(rig.submit(webhook=hook))
    with rig.ctx.db.reading() as session:
        (told,) = store.webhooks.of_org(session, "acme", job_id=new.id)
    assert (told.url, told.secret) == (hook.url, hook.secret)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"mode": Mode.SYNC}, "is not kept"),
        ({"retain_h": 0}, "is not kept"),
    ],
)
def test_a_prompt_that_is_not_kept_cannot_be_retried(
    rig: Rig, given: dict[str, object], why: str
) -> None:
    old = rig.submit(**given)
    with pytest.raises(BadRequest, match=why) as caught:
        rig.retry(old)
    assert caught.value.error_code == "not_retryable"


def test_only_what_did_not_complete_is_retried(rig: Rig) -> None:
    rig.bus.work = web.answer
    with pytest.raises(BadRequest, match="is completed; only failed"):
        rig.retry(rig.submit())


def test_another_orgs_job_is_unknown(rig: Rig) -> None:
    with pytest.raises(UnknownJob):
        submit.retry(rig.ctx, rig.key, store.ids.new_id())


def test_many_are_retried_by_a_filter_and_the_rest_is_explained(rig: Rig) -> None:
    failed = [rig.submit() for _ in range(3)]
    waited = rig.submit(mode=Mode.SYNC)
    rig.bus.work = web.answer
    rig.submit()
    found = submit.retry_all(rig.ctx, rig.key, limit=100, model="echo:small")
    assert {job.request.retry_of for job in found.jobs} == {job.id for job in failed}
    assert [job_id for job_id, _ in found.skipped] == [waited.id]
    again = submit.retry_all(rig.ctx, rig.key, limit=100)
    assert {job.id for job in again.jobs} == {job.id for job in found.jobs}
    assert submit.retry_all(rig.ctx, rig.key, limit=9, persona="x").jobs == ()


def test_a_retry_waits_for_a_worker_that_is_away(rig: Rig) -> None:
    old = rig.submit()
    rig.clock.pass_s(3600)
    rig.bus.work = lambda _task: ()
    new = rig.retry(old)
    assert new.state is JobState.QUEUED
    assert "atlas (lost) to return" in new.request.route["waits"]


def test_a_fleet_that_can_never_serve_refuses_to_retry(rig: Rig) -> None:
    old = rig.submit()
    with rig.ctx.db.session() as session:
        session.exec(delete(tables.WorkerRow))
    registry.invalidate_view(rig.ctx)
    with pytest.raises(NoCapacity):
        submit.retry_all(rig.ctx, rig.key, limit=10)
    assert lifecycle.get(rig.ctx, "acme", old.id).state is JobState.FAILED
