"""Messages that go back to their queue, and jobs that go on elsewhere."""

from datetime import timedelta

import pytest

from genie.contracts.inference import (
    AttemptGivenBack,
    AttemptStarted,
    Chunk,
    Fault,
    FinishReason,
    JobState,
    Outcome,
    PartialAnswer,
)
from genie.messaging.publisher import Letter
from unit.workers.serving_twins import NOW, Puppet, Stage
from workers.engine.errors import EngineBusy
from workers.serving import policy
from workers.serving.serving import PAUSE_S

DIED = Fault(code="engine_died", message="died", retryable=True)


@pytest.mark.parametrize(
    "fault", [Fault(code="engine_closed", message="closed", retryable=True)]
)
def test_a_fault_of_the_machine_gives_the_message_back_without_an_outcome(
    fault: Fault,
) -> None:
    stage = Stage()
    stage.take()
    stage.wait()
    stage.puppet.finish(FinishReason.ERROR, fault)
    assert stage.settled == ["requeue"]
    assert [type(e) for e in stage.events.events] == [AttemptStarted, AttemptGivenBack]
    assert stage.serving.wait_idle(None, 0)


def test_a_started_job_goes_back_only_when_the_cloud_can_know_of_it() -> None:
    stage = Stage()
    stage.take()
    stage.wait()
    stage.events.holds = True
    stage.serving.abandon()
    assert stage.settled == []
    stage.events.held[-1].on_sent()  # type: ignore[misc]  # it is what was held for
    assert stage.settled == ["requeue"]


def test_a_crash_is_counted_in_the_message_that_goes_back() -> None:
    stage = Stage()
    stage.events.holds = True
    stage.take()
    stage.puppet.finish(FinishReason.ERROR, DIED)
    assert [(it.job_id, it.crashes) for it in stage.events.again] == [("job1", 1)]
    assert stage.settled == []  # not before the broker has the new message
    stage.events.held[-1].on_sent()  # type: ignore[misc]  # it is what was held for
    assert stage.settled == ["ack"]
    assert [type(e) for e in stage.events.events] == [AttemptStarted]


def test_the_third_crash_is_poison_and_ends_the_job() -> None:
    stage = Stage()
    stage.take(crashes=policy.MOST - 1)
    stage.puppet.finish(FinishReason.ERROR, DIED)
    assert stage.outcome.state is JobState.FAILED
    assert stage.outcome.fault == policy.POISON
    assert stage.settled == ["ack"]
    assert stage.events.again == []


def test_a_job_that_saw_two_crashes_waits_for_an_empty_engine_and_keeps_it() -> None:
    stage = Stage()
    stage.take(job_id="innocent")
    stage.take(job_id="suspect", crashes=policy.ALONE_FROM)
    assert stage.serving.loads() == ()
    assert len(stage.puppet.requests) == 1
    stage.puppet.finish()
    stage.serving.tend()
    assert len(stage.puppet.requests) == 2
    assert stage.serving.loads() == ()
    stage.take(job_id="next")
    assert len(stage.puppet.requests) == 2
    stage.puppet.finish()
    stage.serving.tend()
    assert len(stage.puppet.requests) == 3
    assert len(stage.serving.loads()) == 1


def test_what_waits_for_an_empty_engine_goes_back_when_the_worker_stops() -> None:
    stage = Stage()
    stage.take(job_id="innocent")
    stage.take(job_id="suspect", crashes=policy.ALONE_FROM)
    assert not stage.serving.wait_idle(None, 0)
    stage.serving.abandon()
    assert stage.settled == ["requeue"] * 2
    assert stage.serving.wait_idle(None, 0)


def test_what_waits_for_an_empty_engine_is_forgotten_with_the_connection() -> None:
    stage = Stage()
    stage.take(job_id="innocent")
    stage.take(job_id="suspect", crashes=policy.ALONE_FROM)
    stage.serving.lost()
    stage.puppet.finish()
    stage.serving.tend()
    assert len(stage.puppet.requests) == 1


def test_a_lost_connection_is_said_of_what_runs_and_it_goes_on() -> None:
    stage = Stage()
    stage.take(job_id="done")
    stage.puppet.finish()
    stage.take(job_id="young")
    stage.serving.lost()
    said = stage.events.events[1:]
    assert [(type(e), e.job_id) for e in said] == [
        (AttemptStarted, "young"),
        (AttemptGivenBack, "young"),
    ]
    assert isinstance(said[1], AttemptGivenBack)
    assert (said[1].goes_on, said[1].attempt_id) == (True, stage.puppet.requests[1].id)
    stage.puppet.finish()
    assert [one.job_id for one in stage.events.outcomes] == ["done", "young"]


def test_a_busy_engine_gives_the_message_back_without_a_start() -> None:
    stage = Stage(Puppet(EngineBusy(in_flight=4, bound=0)))
    stage.take()
    assert stage.settled == ["requeue"]
    assert stage.events.letters == []


def test_a_model_that_is_not_ready_gives_the_message_back() -> None:
    stage = Stage()
    stage.ready.clear()
    stage.take()
    assert stage.settled == ["requeue"]


def test_after_giving_a_message_back_no_other_is_asked_for_a_moment() -> None:
    stage = Stage(Puppet(EngineBusy(in_flight=4, bound=0)))
    stage.take()
    assert stage.serving.loads() == ()
    stage.clock = PAUSE_S
    assert len(stage.serving.loads()) == 1


def test_abandoned_work_goes_back_and_says_nothing_more() -> None:
    stage = Stage()
    stage.take()
    stage.wait()
    stage.serving.abandon()
    assert stage.settled == ["requeue"]
    assert [type(e) for e in stage.events.events] == [AttemptStarted, AttemptGivenBack]
    assert stage.puppet.cancelled == [stage.puppet.requests[0].id]
    stage.puppet.say("late")
    stage.puppet.finish(FinishReason.CANCELLED)
    assert stage.settled == ["requeue"]
    assert stage.events.outcomes == []
    assert stage.serving.wait_idle(None, 0)


def test_work_that_ends_while_it_is_abandoned_is_settled_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage()
    stage.take()
    send = stage.events.send

    def abandon_first(letter: Letter) -> None:
        stage.serving.abandon()
        send(letter)

    monkeypatch.setattr(stage.events, "send", abandon_first)
    stage.puppet.finish()
    assert stage.settled == ["ack"]


def test_a_restarted_job_goes_on_after_what_its_asker_has() -> None:
    stage = Stage()
    stage.take()
    first = stage.puppet.requests[0]
    stage.puppet.say("something else")
    stage.serving.resume("job1", (PartialAnswer(text="one two"),))
    assert stage.puppet.cancelled == [first.id]
    assert stage.puppet.requests[1].resume == "one two"
    stage.puppet.say(" three")
    stage.puppet.finish()
    assert stage.outcome.text == "one two three"
    kinds = [type(event) for event in stage.events.events]
    assert kinds == [AttemptStarted, AttemptGivenBack, AttemptStarted, Outcome]
    last = [e for e in stage.replies.events if isinstance(e, AttemptStarted)][-1]
    chunk = [e for e in stage.replies.events if isinstance(e, Chunk)][-1]
    assert (last.resumed, last.attempt_id) == ((len("one two"),), chunk.attempt_id)
    assert (chunk.seq, chunk.text) == (0, " three")
    assert stage.settled == ["ack"]
    (load,) = stage.serving.loads()
    assert load.in_flight == 0


def test_what_does_not_run_here_is_not_resumed() -> None:
    stage = Stage()
    stage.serving.resume("job1", (PartialAnswer(text="one two"),))
    stage.take()
    stage.puppet.finish()
    stage.serving.resume("job1", (PartialAnswer(text="one two"),))
    assert len(stage.puppet.requests) == 1


def test_long_work_is_handed_on_with_what_is_written() -> None:
    stage = Stage()
    stage.take(deadline_at=NOW + timedelta(hours=24))
    assert stage.puppet.requests[0].deadline_s == policy.WORK_MOST_S
    stage.puppet.say("one two")
    fault = Fault(code="deadline_exceeded", message="the deadline passed")
    stage.puppet.finish(FinishReason.ERROR, fault)
    (again,) = stage.events.again
    assert (again.job_id, again.crashes) == ("job1", 0)
    assert again.resume == (PartialAnswer(text="one two", tokens=1),)
    assert stage.events.outcomes == []
    assert stage.settled == ["ack"]
    stage.take(resume=again.resume)
    stage.puppet.say(" three")
    stage.puppet.finish()
    assert stage.outcome.text == "one two three"
