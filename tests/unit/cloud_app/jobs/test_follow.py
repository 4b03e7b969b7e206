"""What somebody hears of a job that others submitted, from its start to its end."""

from collections.abc import Callable

import pytest

from cloud_app.bus import JobInbox
from cloud_app.jobs import follow, lifecycle
from cloud_app.jobs.follow import JobListener
from cloud_app.jobs.stream import AnswerText, QueueWait
from cloud_app.store.records import JobRecord
from fixtures.clouds import Cloud, outcome
from genie.contracts.inference import Chunk, JobState, Outcome
from genie.errors import BrokerDown, JobFailed

Say = Callable[[], None]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "LOOK_S", 0.01)


def hear(
    cloud: Cloud, job: JobRecord, *says: Say
) -> list[QueueWait | AnswerText | Outcome]:
    """All that a listener is told while one thing after the other happens."""
    left = list(says)

    def look(*_asked: str) -> None:
        if left:
            left.pop(0)()

    setattr(cloud.bus, "say", look)  # noqa: B010  # the worker of this test
    items = []
    for item in JobListener(cloud.ctx, cloud.reread(job)).items():
        items.append(item)
        if isinstance(item, QueueWait) and not item.is_started and left:
            left.pop(0)()
    return items


def words(items: list[QueueWait | AnswerText | Outcome]) -> list[str]:
    return [item.text for item in items if isinstance(item, AnswerText)]


def says(cloud: Cloud, text: str) -> Say:
    """A worker tells every listener all that is written."""

    def say() -> None:
        replies = cloud.ctx.replies
        for name, inbox in replies._inboxes.items():
            inbox.put(Chunk(job_id=name, attempt_id="a", seq=0, text=text, tokens=1))

    return say


@pytest.fixture
def cloud_with_replies(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """A cloud whose reply queue needs no broker."""

    def expect(name: str) -> JobInbox:
        inbox = cloud.ctx.replies._inboxes[name] = JobInbox()
        return inbox

    monkeypatch.setattr(cloud.ctx.replies, "expect", expect)
    return cloud


def test_a_listener_hears_what_is_new_and_then_the_end(
    cloud_with_replies: Cloud,
) -> None:
    cloud = cloud_with_replies
    job = cloud.job()
    items = hear(
        cloud,
        job,
        lambda: assert_true(cloud.start(job, "a")),
        says(cloud, "one"),
        says(cloud, "one two"),
        lambda: assert_true(cloud.finish(job, "one two three")),
    )
    assert words(items) == ["one", " two", " three"]
    assert isinstance(items[0], QueueWait)
    assert items[0].position == 1
    assert isinstance(items[-1], Outcome)
    assert items[-1].state is JobState.COMPLETED
    assert cloud.ctx.replies._inboxes == {}


def assert_true(is_true: bool) -> None:
    assert is_true


def test_the_next_worker_is_waited_for_until_it_says_more(
    cloud_with_replies: Cloud,
) -> None:
    cloud = cloud_with_replies
    job = cloud.job()
    cloud.start(job, "a")
    items = hear(
        cloud,
        job,
        says(cloud, "one two"),
        lambda: assert_true(cloud.start(job, "b", worker_id="w2")),
        says(cloud, "one"),
        says(cloud, "one two three"),
        lambda: assert_true(cloud.finish(job, "one two three")),
    )
    assert words(items) == ["one two", " three"]


def test_another_answer_is_not_spliced_and_the_job_goes_on(
    cloud_with_replies: Cloud,
) -> None:
    cloud = cloud_with_replies
    job = cloud.job()
    cloud.start(job, "a")
    with pytest.raises(JobFailed, match="job goes on") as caught:
        hear(cloud, job, says(cloud, "one two"), says(cloud, "eins zwei"))
    assert caught.value.error_code == "stream_broken"
    assert cloud.reread(job).state is JobState.RUNNING


def test_leaving_changes_nothing(cloud_with_replies: Cloud) -> None:
    cloud = cloud_with_replies
    job = cloud.job()
    items = JobListener(cloud.ctx, job).items()
    next(items)
    items.close()
    assert cloud.reread(job).state is JobState.QUEUED
    assert cloud.ctx.replies._inboxes == {}


def test_a_job_that_has_ended_is_told_at_once(cloud_with_replies: Cloud) -> None:
    cloud = cloud_with_replies
    done, failed = cloud.job(), cloud.job()
    cloud.start(done, "a")
    cloud.finish(done, "one")
    assert words(hear(cloud, done)) == ["one"]
    lifecycle.apply(cloud.ctx, outcome(failed.id, state=JobState.FAILED))
    (last,) = hear(cloud, failed)
    assert isinstance(last, Outcome)
    assert last.state is JobState.FAILED


def test_an_answer_that_is_not_kept_is_said_so(cloud_with_replies: Cloud) -> None:
    cloud = cloud_with_replies
    job = cloud.job()
    cloud.finish(job, "one")
    cloud.clock.forward(48 * 3600)
    lifecycle.sweep(cloud.ctx)
    with pytest.raises(JobFailed, match="no longer kept"):
        hear(cloud, job)


def test_a_broker_that_is_away_is_waited_for(cloud_with_replies: Cloud) -> None:
    cloud = cloud_with_replies
    job = cloud.job()
    cloud.start(job, "a")

    def down() -> None:
        raise BrokerDown("away")

    items = hear(cloud, job, down, lambda: assert_true(cloud.finish(job, "one")))
    assert words(items) == ["one"]
