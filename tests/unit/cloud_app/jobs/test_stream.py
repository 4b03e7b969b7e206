"""What an asker is told while its job waits, changes its worker, or is not read."""

import msgspec
import pytest

from cloud_app.bus import JobInbox, PublishUnconfirmed
from cloud_app.context import Context
from cloud_app.jobs import lifecycle, stream
from cloud_app.jobs.stream import AnswerText, JobStream, QueueWait
from cloud_app.store.records import JobRecord
from fixtures.clouds import Cloud
from genie.contracts.fleet import ModelState, ModelStatus
from genie.contracts.inference import AttemptStarted, Chunk, Event, JobState, Outcome
from genie.errors import BrokerDown

READY = ModelStatus(
    model="echo:small",
    quant="none",
    state=ModelState.READY,
    fingerprint="f" * 12,
    tokens_per_s=25.0,
)


@pytest.fixture
def ctx(cloud: Cloud) -> Context:
    """What a watch works with."""
    return cloud.ctx


@pytest.fixture
def job(cloud: Cloud) -> JobRecord:
    """A queued job."""
    return cloud.job(mode="stream")


def began(
    job: JobRecord, attempt: str, *, resumed: tuple[int, ...] = ()
) -> AttemptStarted:
    return AttemptStarted(
        job_id=job.id,
        attempt_id=attempt,
        worker_id=f"id-of-{attempt}",
        worker=attempt,
        model=job.model,
        at=job.created_at,
        redelivered=attempt != "a",
        resumed=resumed,
    )


def said(job: JobRecord, attempt: str, seq: int, text: str) -> Chunk:
    return Chunk(job_id=job.id, attempt_id=attempt, seq=seq, text=text, tokens=1)


def ended(job: JobRecord, attempt: str, text: str) -> Outcome:
    return Outcome(
        job_id=job.id,
        attempt_id=attempt,
        worker_id="w",
        worker=attempt,
        model=job.model,
        state=JobState.COMPLETED,
        at=job.created_at,
        text=text,
    )


def stopped(job: JobRecord, attempt: str) -> Outcome:
    return msgspec.structs.replace(ended(job, attempt, ""), state=JobState.CANCELLED)


def told(
    ctx: Context, job: JobRecord, *events: Event, repeats: bool = True
) -> tuple[list[str], Outcome, JobStream]:
    """The texts and the outcome a stream of these events gives."""
    inbox = JobInbox()
    for event in events:
        inbox.put(event)
    watch = JobStream(ctx, job, inbox, repeats=repeats)
    items = list(watch.items())
    outcome = items[-1]
    assert isinstance(outcome, Outcome)
    return [item.text for item in items if isinstance(item, AnswerText)], outcome, watch


def test_work_that_may_not_be_published_is_published_once_more(
    ctx: Context, job: JobRecord
) -> None:
    published: list[str] = []
    inbox = JobInbox()
    for event in (
        PublishUnconfirmed(),
        began(job, "a"),
        PublishUnconfirmed(),
        ended(job, "a", "x"),
    ):
        inbox.put(event)
    watch = JobStream(ctx, job, inbox, publish=lambda: published.append(job.id))
    assert [type(item) for item in watch.items()] == [AnswerText, Outcome]
    assert published == [job.id]  # what has begun is surely published


def test_work_nobody_can_publish_is_refused_as_ever(
    ctx: Context, job: JobRecord
) -> None:
    def refuse() -> None:
        raise BrokerDown("the broker is away; try again")

    inbox = JobInbox()
    inbox.put(PublishUnconfirmed())
    with pytest.raises(BrokerDown):
        list(JobStream(ctx, job, inbox, publish=refuse).items())


def test_an_answer_that_repeats_itself_is_spliced_and_nobody_is_asked(
    cloud: Cloud, job: JobRecord
) -> None:
    texts, outcome, _ = told(
        cloud.ctx,
        job,
        began(job, "a"),
        said(job, "a", 0, "one two"),
        began(job, "b"),
        said(job, "b", 0, "one two three"),
        ended(job, "b", "one two three"),
    )
    assert texts == ["one two", " three"]
    assert outcome.state is JobState.COMPLETED
    assert cloud.bus.resumed == []


def test_an_attempt_that_was_stopped_because_another_had_answered_is_no_end(
    cloud: Cloud, job: JobRecord
) -> None:
    assert lifecycle.apply(cloud.ctx, ended(job, "a", "one two three"))
    texts, outcome, _ = told(
        cloud.ctx,
        job,
        began(job, "a"),
        said(job, "a", 0, "one two"),  # the rest of it got lost with the broker
        began(job, "b"),
        said(job, "b", 0, "one"),
        stopped(job, "b"),
    )
    assert texts == ["one two", " three"]
    assert outcome.state is JobState.COMPLETED


def test_a_cancelled_job_s_stream_ends_as_cancelled(
    cloud: Cloud, job: JobRecord
) -> None:
    lifecycle.cancel(cloud.ctx, job.org, job.id)
    _, outcome, _ = told(cloud.ctx, job, began(job, "a"), stopped(job, "a"))
    assert outcome.state is JobState.CANCELLED


def test_an_answer_at_random_goes_on_after_what_was_given(
    cloud: Cloud, job: JobRecord
) -> None:
    texts, outcome, watch = told(
        cloud.ctx,
        job,
        began(job, "a"),
        said(job, "a", 0, "one two"),
        began(job, "b"),
        said(job, "b", 0, "another"),
        began(job, "c", resumed=(len("one two"),)),
        said(job, "b", 1, " answer"),
        said(job, "c", 0, " three"),
        ended(job, "c", "one two three"),
        repeats=False,
    )
    assert "".join(texts) == "one two three"
    assert outcome.state is JobState.COMPLETED
    assert watch.gave_up is None
    assert cloud.bus.resumed == [("id-of-b", job.id, ("one two",))]


def test_a_repetition_that_differs_goes_on_after_what_was_given(
    cloud: Cloud, job: JobRecord
) -> None:
    texts, outcome, _ = told(
        cloud.ctx,
        job,
        began(job, "a"),
        said(job, "a", 0, "one two"),
        began(job, "b"),
        said(job, "b", 0, "one too"),
        began(job, "c", resumed=(len("one two"),)),
        said(job, "c", 0, " three"),
        ended(job, "c", "one two three"),
    )
    assert "".join(texts) == "one two three"
    assert outcome.state is JobState.COMPLETED
    assert len(cloud.bus.resumed) == 1


def test_an_attempt_before_any_text_was_given_needs_no_one_to_go_on(
    cloud: Cloud, job: JobRecord
) -> None:
    texts, _, _ = told(
        cloud.ctx,
        job,
        began(job, "a"),
        began(job, "b"),
        said(job, "b", 0, "fresh"),
        ended(job, "b", "fresh"),
        repeats=False,
    )
    assert texts == ["fresh"]
    assert cloud.bus.resumed == []


@pytest.mark.parametrize("repeats", [True, False])
def test_what_a_worker_sent_twice_is_told_once_and_asks_nobody(
    cloud: Cloud, job: JobRecord, repeats: bool
) -> None:
    texts, outcome, _ = told(
        cloud.ctx,
        job,
        began(job, "a"),
        said(job, "a", 0, "one"),
        began(job, "a"),
        said(job, "a", 0, "one"),
        said(job, "a", 1, " two"),
        ended(job, "a", "one two"),
        repeats=repeats,
    )
    assert texts == ["one", " two"]
    assert outcome.state is JobState.COMPLETED
    assert cloud.bus.resumed == []


def test_an_answer_survives_one_loss_after_another(
    cloud: Cloud, job: JobRecord
) -> None:
    texts, outcome, _ = told(
        cloud.ctx,
        job,
        began(job, "a"),
        said(job, "a", 0, "one"),
        said(job, "a", 2, " three"),  # " two" got lost
        began(job, "b", resumed=(len("one"),)),
        said(job, "b", 1, " three"),  # and again
        began(job, "c", resumed=(len("one"),)),
        said(job, "c", 0, " two"),
        ended(job, "c", "one two three"),
    )
    assert "".join(texts) == "one two three"
    assert outcome.state is JobState.COMPLETED
    assert [worker for worker, *_ in cloud.bus.resumed] == ["id-of-a", "id-of-b"]


def test_an_answer_whose_beginning_got_lost_is_begun_anew(
    cloud: Cloud, job: JobRecord
) -> None:
    cloud.start(job, "a", "id-of-a")  # the record heard of it, the asker did not
    texts, outcome, _ = told(
        cloud.ctx,
        job,
        said(job, "a", 1, " two"),
        began(job, "b"),
        said(job, "b", 0, "one two"),
        ended(job, "b", "one two"),
    )
    assert texts == ["one two"]
    assert outcome.state is JobState.COMPLETED
    assert [worker for worker, *_ in cloud.bus.resumed] == ["id-of-a"]


def test_a_worker_whose_start_got_lost_too_is_asked_once_the_record_knows_it(
    cloud: Cloud, job: JobRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "WAIT_S", 0.01)
    inbox = JobInbox()
    inbox.put(said(job, "a", 1, " two"))
    texts: list[str] = []
    for item in JobStream(cloud.ctx, job, inbox).items():
        if isinstance(item, AnswerText):
            texts.append(item.text)
        elif isinstance(item, QueueWait) and not cloud.bus.resumed:
            cloud.start(job, "a", "id-of-a")
        elif isinstance(item, QueueWait):
            inbox.put(began(job, "b"))
            inbox.put(said(job, "b", 0, "one two"))
            inbox.put(ended(job, "b", "one two"))
    assert texts == ["one two"]
    assert [worker for worker, *_ in cloud.bus.resumed] == ["id-of-a"]


def test_an_answer_that_loses_its_way_again_and_again_is_given_up(
    cloud: Cloud, job: JobRecord
) -> None:
    lost = [
        event
        for turn in range(stream.RESUMES + 1)
        for event in (
            began(job, f"a{turn}", resumed=(len("one"),)),
            said(job, f"a{turn}", 1, "?"),
        )
    ]
    _, outcome, _ = told(
        cloud.ctx, job, began(job, "a"), said(job, "a", 0, "one"), *lost
    )
    assert outcome.fault is not None
    assert outcome.fault.code == "stream_broken"
    assert len(cloud.bus.resumed) == stream.RESUMES


def test_an_answer_that_ended_otherwise_is_an_honest_error(
    cloud: Cloud, job: JobRecord
) -> None:
    texts, outcome, watch = told(
        cloud.ctx,
        job,
        began(job, "a"),
        said(job, "a", 0, "one two"),
        began(job, "b"),
        ended(job, "b", "another answer"),
        repeats=False,
    )
    assert texts == ["one two"]
    assert outcome.state is JobState.FAILED
    assert outcome.fault is not None
    assert outcome.fault.code == "stream_broken"
    assert watch.gave_up == outcome.fault


def test_a_worker_that_never_goes_on_is_given_up(
    cloud: Cloud, job: JobRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "RESUME_S", 0.0)
    monkeypatch.setattr(stream, "WAIT_S", 0.01)
    _, outcome, _ = told(
        cloud.ctx,
        job,
        began(job, "a"),
        said(job, "a", 0, "one two"),
        began(job, "b"),
        repeats=False,
    )
    assert outcome.fault is not None
    assert "did not go on" in outcome.fault.message


def test_a_reader_that_does_not_keep_up_is_cut_off_with_the_reason(
    cloud: Cloud, job: JobRecord
) -> None:
    inbox = JobInbox(most_chunks=3)
    for seq in range(5):
        inbox.put(said(job, "a", seq, "x"))
    watch = JobStream(cloud.ctx, job, inbox)
    outcome = next(watch.items())
    assert isinstance(outcome, Outcome)
    assert watch.gave_up == outcome.fault == stream.TOO_SLOW


def test_an_inbox_counts_bytes_and_what_was_read_makes_room() -> None:
    chunk = Chunk(job_id="j", attempt_id="a", seq=0, text="", tokens=1)
    inbox = JobInbox(most_bytes=10)
    for _ in range(100):
        inbox.put(chunk, 8)
        assert inbox.get(0) == chunk
    inbox.put(chunk, 8)
    inbox.put(chunk, 8)
    assert inbox.is_cut
    assert inbox.get(0) is None


def test_who_waits_hears_its_place_and_when_it_is_due(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "WAIT_S", 0.01)
    monkeypatch.setattr(stream, "ROW_EVERY_S", 0.0)
    cloud.beat(cloud.join(), 0, READY)
    jobs = []
    for _ in range(3):
        cloud.clock.forward(1)
        jobs.append(cloud.job(mode="stream"))
    assert [place(cloud, job) for job in jobs] == [(1, None), (2, None), (3, None)]
    cloud.ctx.answer_lengths.note(jobs[0].model, 50)
    assert place(cloud, jobs[2]) == (3, 3 * 50 / READY.tokens_per_s)
    cloud.start(jobs[0], "a")
    assert place(cloud, jobs[2])[0] == 2


def place(cloud: Cloud, job: JobRecord) -> tuple[int | None, float | None]:
    """What a waiting stream is told first."""
    item = next(JobStream(cloud.ctx, job, JobInbox()).items())
    assert isinstance(item, QueueWait)
    return item.position, item.eta_s
