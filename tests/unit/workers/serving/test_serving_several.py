"""Several answers to one request: one message, one outcome, every slot counted."""

from datetime import timedelta

import pytest

from fixtures.engines import EchoEngine
from genie.contracts.inference import (
    AttemptStarted,
    Chunk,
    Fault,
    FinishReason,
    JobState,
    Outcome,
    PartialAnswer,
    Sampling,
)
from unit.workers.serving_twins import BOUND_S, NOW, Puppet, Stage
from workers.engine.errors import EngineBusy

STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH


def in_flight(stage: Stage) -> int:
    (load,) = stage.serving.loads()
    return load.in_flight


def chunks(stage: Stage) -> list[Chunk]:
    return [event for event in stage.replies.events if isinstance(event, Chunk)]


def test_each_answer_has_a_random_stream_of_its_own_and_a_slot() -> None:
    stage = Stage()
    stage.take(n=3, sampling=Sampling(seed=7))
    asked = stage.puppet.requests
    assert [one.sampling.seed for one in asked] == [7, 8, 9]
    assert len({one.id for one in asked}) == 3
    assert in_flight(stage) == 3


def test_one_outcome_holds_all_answers_and_counts_the_prompt_once() -> None:
    stage = Stage()
    stage.take(n=2)
    stage.puppet.say("two", number=1)
    stage.puppet.finish(LENGTH, number=1, cached=8)
    assert stage.events.outcomes == []
    assert in_flight(stage) == 1
    stage.puppet.say("one", number=0)
    stage.puppet.finish(STOP, number=0, cached=0)

    answers = stage.outcome.answers
    assert [(one.text, one.finish_reason) for one in answers] == [
        ("one", STOP),
        ("two", LENGTH),
    ]
    usage = stage.outcome.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (9, 22)
    assert usage.cached_tokens == 0
    assert stage.settled == ["ack"]
    assert in_flight(stage) == 0


def test_a_stream_is_told_of_each_answers_end_as_it_comes() -> None:
    stage = Stage()
    stage.take(n=2)
    stage.puppet.say("uno", number=1)
    stage.puppet.finish(STOP, number=1)
    told = [(c.seq, c.index, c.text, c.finish_reason) for c in chunks(stage)]
    assert told == [(0, 1, "uno", None), (1, 1, "", STOP)]
    stage.puppet.say("one", number=0)
    stage.puppet.finish(LENGTH, number=0)
    assert (chunks(stage)[-1].index, chunks(stage)[-1].finish_reason) == (0, LENGTH)
    assert isinstance(stage.replies.events[-1], Outcome)


def test_who_does_not_wait_gets_no_chunks_of_several_answers() -> None:
    stage = Stage()
    stage.take(n=2, reply_to=None)
    for number in (0, 1):
        stage.puppet.say("x", number=number)
        stage.puppet.finish(number=number)
    assert stage.replies.events == []
    assert stage.outcome.state is JobState.COMPLETED


def test_a_cancel_stops_every_answer() -> None:
    stage = Stage()
    stage.take(n=3)
    ids = [one.id for one in stage.puppet.requests]
    stage.serving.cancel("job1")
    assert stage.puppet.cancelled == ids
    stage.puppet.finish(FinishReason.CANCELLED, number=1)
    assert stage.outcome.state is JobState.CANCELLED
    assert in_flight(stage) == 0


def test_a_fault_of_one_answer_ends_them_all() -> None:
    stage = Stage()
    stage.take(n=3)
    ids = [one.id for one in stage.puppet.requests]
    stage.puppet.finish(FinishReason.ERROR, Fault(code="bad", message="no"), number=1)
    assert stage.outcome.state is JobState.FAILED
    assert stage.puppet.cancelled == [ids[0], ids[2]]
    stage.puppet.finish(FinishReason.CANCELLED, number=0)
    assert len(stage.events.outcomes) == 1
    assert in_flight(stage) == 0


def test_an_engine_that_takes_only_some_of_them_gets_none() -> None:
    engine = Puppet(EngineBusy(in_flight=9, bound=1), takes=2)
    stage = Stage(engine)
    stage.take(n=3)
    assert engine.cancelled[:2] == [one.id for one in engine.requests]
    assert stage.settled == ["requeue"]
    stage.clock += 1.0
    assert in_flight(stage) == 0


def test_a_dead_engine_gives_the_message_on_once() -> None:
    stage = Stage()
    stage.take(n=2)
    died = Fault(code="engine_died", message="died", retryable=True)
    stage.puppet.finish(FinishReason.ERROR, died, number=0)
    stage.puppet.finish(FinishReason.ERROR, died, number=1)
    (again,) = stage.events.again
    assert (again.n, again.crashes) == (2, 1)
    assert stage.settled == ["ack"]


def test_several_answers_go_on_after_what_their_asker_has() -> None:
    stage = Stage()
    stage.take(n=3, sampling=Sampling(seed=7))
    given = (
        PartialAnswer(text="one", tokens=1),
        PartialAnswer(text="uno", tokens=4, finish_reason=STOP),
    )
    stage.serving.resume("job1", given)
    asked = stage.puppet.requests[3:]
    assert [(one.resume, one.sampling.seed) for one in asked] == [("one", 7), ("", 9)]
    stage.puppet.say(" two", number=3)
    stage.puppet.finish(number=3)
    stage.puppet.say("eins", number=4)
    stage.puppet.finish(LENGTH, number=4)
    assert [one.text for one in stage.outcome.answers] == ["one two", "uno", "eins"]
    assert [one.finish_reason for one in stage.outcome.answers] == [STOP, STOP, LENGTH]
    assert stage.outcome.usage.completion_tokens == 11 + 4 + 11
    last = [e for e in stage.replies.events if isinstance(e, AttemptStarted)][-1]
    assert last.resumed == (3, 3)


def test_answers_that_had_all_ended_are_only_asked_for_their_end() -> None:
    stage = Stage()
    ended = PartialAnswer(text="uno", tokens=4, finish_reason=LENGTH)
    stage.take(n=2, resume=(ended, ended), sampling=Sampling(min_tokens=2))
    (asked,) = stage.puppet.requests
    assert (asked.sampling.max_tokens, asked.sampling.min_tokens) == (0, 0)
    stage.puppet.finish(LENGTH)
    assert [one.finish_reason for one in stage.outcome.answers] == [LENGTH, LENGTH]
    assert chunks(stage) == []


def test_long_answers_are_handed_on_together() -> None:
    stage = Stage()
    stage.take(n=2, deadline_at=NOW + timedelta(hours=24))
    stage.puppet.say("uno", number=1)
    stage.puppet.finish(number=1)
    stage.puppet.say("one", number=0)
    late = Fault(code="deadline_exceeded", message="the deadline passed")
    stage.puppet.finish(FinishReason.ERROR, late, number=0)
    (again,) = stage.events.again
    assert [(one.text, one.finish_reason) for one in again.resume] == [
        ("one", None),
        ("uno", STOP),
    ]


@pytest.mark.parametrize("slots", [1, 8])
def test_the_echo_engine_gives_as_many_answers_as_are_asked(slots: int) -> None:
    engine = EchoEngine(slots=slots)
    stage = Stage(engine)
    stage.take(n=4, sampling=Sampling(max_tokens=2))
    assert stage.serving.wait_idle(None, BOUND_S)
    engine.close()
    assert [one.text for one in stage.outcome.answers] == ["hi there"] * 4
    assert stage.outcome.usage.completion_tokens == 8
