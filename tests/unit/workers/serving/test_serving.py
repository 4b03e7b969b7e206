"""One request from delivery to ack, with an echo engine and a recording mail."""

import gc
import threading

import msgspec
import pytest

from fixtures.engines import EchoEngine
from genie import topology
from genie.contracts.inference import (
    AnswerExtras,
    AttemptStarted,
    Chunk,
    Fault,
    FinishReason,
    JobState,
    Message,
    Outcome,
    PartialAnswer,
    SampledToken,
    Sampling,
    Usage,
)
from genie.messaging import envelope
from genie.messaging.publisher import Letter
from unit.workers.serving_twins import (
    BOUND_S,
    MODEL,
    NOW,
    Box,
    Puppet,
    Stage,
    task,
)
from workers.bidding.credits import BID_MOST
from workers.engine.protocol import EngineRequest, Finish, Sink
from workers.serving.attempt import Attempt, state_of
from workers.serving.reports import START_S
from workers.serving.serving import CancelledJobs


def test_the_message_is_acked_only_after_the_outcome_is_confirmed() -> None:
    stage = Stage()
    stage.events.holds = True
    stage.take()
    stage.puppet.finish()
    outcome_letter = stage.events.letters[-1]
    assert (outcome_letter.key, outcome_letter.confirmed) == (topology.OUTCOMES, True)
    assert stage.settled == []
    assert outcome_letter.on_sent is not None
    outcome_letter.on_sent()
    assert stage.settled == ["ack"]


def test_nothing_keeps_a_request_that_has_ended() -> None:
    gc.collect()
    gc.disable()  # what is not pointed at goes without it
    try:
        before = len(attempts())
        stage = Stage()
        for _ in range(3):
            stage.take()
            stage.puppet.say("one")
            stage.puppet.finish()
            stage.puppet.sink = lambda _event: None  # engines forget who has ended
        stage.replies.letters.clear()
        stage.events.letters.clear()  # of the last ones, who is told of the confirm
        assert len(attempts()) == before
    finally:
        gc.enable()


def attempts() -> list[object]:
    # Its class, not isinstance: torch warns when one asks its old objects for theirs.
    return [one for one in gc.get_objects() if type(one) is Attempt]


def test_the_asker_hears_everything_in_order_and_the_cloud_no_chunks() -> None:
    stage = Stage()
    stage.take()
    stage.puppet.say("one")
    for words in (" two three four five", " six"):
        stage.puppet.say(words)
    stage.puppet.finish()
    asker = stage.replies.events
    assert [type(e) for e in asker] == [AttemptStarted, Chunk, Chunk, Chunk, Outcome]
    chunks = [e for e in asker if isinstance(e, Chunk)]
    assert [c.text for c in chunks] == ["one", " two three four five", " six"]
    assert [c.seq for c in chunks] == [0, 1, 2]
    assert {letter.key for letter in stage.replies.letters} == {"reply.web1"}
    assert [type(e) for e in stage.events.events] == [AttemptStarted, Outcome]


def test_somebody_who_comes_later_is_told_all_that_is_written() -> None:
    stage = Stage()
    stage.take(job_id="j1", reply_to=None)
    stage.puppet.say("one")
    stage.puppet.say(" two")
    stage.serving.say("j1", "reply.web2", "j1.listener")
    stage.serving.say("unknown", "reply.web2", "x")
    (letter,) = stage.replies.letters
    (told,) = stage.replies.events
    assert letter.key == "reply.web2"
    assert isinstance(told, Chunk)
    assert (told.job_id, told.text, told.tokens) == ("j1.listener", "one two", 2)
    stage.puppet.finish()
    assert stage.outcome.text == "one two"
    stage.serving.say("j1", "reply.web2", "j1.listener")
    assert len(stage.replies.letters) == 1


def test_a_request_that_ends_at_once_is_not_said_to_have_started() -> None:
    stage = Stage()
    stage.take(chunks=False)
    stage.puppet.say("all of it")
    assert stage.serving.starts.are_owed
    stage.puppet.finish()
    stage.wait()
    assert [type(e) for e in stage.events.events] == [Outcome]
    assert [type(e) for e in stage.replies.events] == [Outcome]


def test_a_request_that_runs_on_is_said_to_have_started_once() -> None:
    stage = Stage()
    stage.take(chunks=False)
    stage.wait(START_S / 2)
    assert stage.events.events == []
    stage.wait(START_S / 2)
    stage.wait()
    assert [type(e) for e in stage.events.events] == [AttemptStarted]
    assert [type(e) for e in stage.replies.events] == [AttemptStarted]


def test_the_end_of_an_answer_waits_for_the_text_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage, send = Stage(), Box.send
    is_sending, is_over = threading.Event(), threading.Event()

    def slow(box: Box, letter: Letter) -> None:
        if not is_sending.is_set():
            is_sending.set()
            is_over.wait(0.05)  # an end that waits for nobody comes in between
        send(box, letter)

    stage.take()
    monkeypatch.setattr(Box, "send", slow)
    saying = threading.Thread(target=stage.puppet.say, args=("one",))
    saying.start()
    assert is_sending.wait(BOUND_S)
    stage.puppet.finish()
    is_over.set()
    saying.join(BOUND_S)
    assert isinstance(stage.replies.events[-1], Outcome)
    assert any(isinstance(event, Chunk) for event in stage.replies.events)


def test_another_attempt_is_said_at_once_for_it_may_be_one_too_many() -> None:
    again = Stage()
    again.serving.take(again.delivery(envelope.pack(task()), redelivered=True))
    crashed = Stage()
    crashed.take(crashes=1)
    for stage in (again, crashed):
        assert [type(e) for e in stage.events.events] == [AttemptStarted]


def test_who_wants_the_whole_answer_gets_no_chunks() -> None:
    stage = Stage()
    stage.take(chunks=False)
    stage.wait()
    stage.puppet.say("one two")
    stage.puppet.finish()
    assert [type(e) for e in stage.replies.events] == [AttemptStarted, Outcome]


def test_the_outcome_carries_text_usage_timing_and_who_made_it() -> None:
    stage = Stage()
    stage.take()
    stage.clock = 3.0
    stage.puppet.say("hello")
    stage.puppet.finish()
    outcome = stage.outcome
    assert (outcome.state, outcome.text) == (JobState.COMPLETED, "hello")
    assert (outcome.worker_id, outcome.worker) == ("w1", "ann")
    assert outcome.fingerprint == "gf1-a"
    assert outcome.usage.completion_tokens == 11
    timing = outcome.timing
    assert (timing.queue_s, timing.first_token_s, timing.total_s) == (2.0, 1.0, 3.0)


def test_nobody_waiting_means_no_chunks_and_the_whole_text() -> None:
    stage = Stage()
    stage.take(reply_to=None)
    stage.puppet.say("all of it")
    stage.puppet.finish()
    assert stage.replies.letters == []
    assert stage.outcome.text == "all of it"


def test_the_engine_gets_the_org_as_border_and_the_time_that_is_left() -> None:
    stage = Stage()
    stage.take()
    (request,) = stage.puppet.requests
    assert (request.scope, request.deadline_s) == ("acme", 30.0)
    assert request.id != "job1"  # an attempt's own


BAD = [
    b"",
    b"\xff\xfe",
    b"null",
    b'[[],{"task":{"kind":"inference"}},{"callbacks":null,"errbacks":null}]',
    b"[" * 5000,
    b" " * (topology.MAX_MESSAGE_BYTES + 2048),
]


@pytest.mark.parametrize("body", BAD)
def test_a_message_that_is_no_task_goes_to_the_dead_letters(body: bytes) -> None:
    stage = Stage()
    stage.serving.take(stage.delivery(body))
    assert stage.settled == ["reject"]
    assert stage.events.letters == []


def test_a_task_of_another_model_than_its_queue_goes_to_the_dead_letters() -> None:
    stage = Stage()
    stage.take(model="echo:large")
    assert stage.settled == ["reject"]


def test_the_log_never_holds_a_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stage()
    good = envelope.pack(task(messages=(Message(role="user", content="SECRET"),)))
    stage.take(good.replace(b'"interactive"', b'"SECRET"'))
    stage.take(good)
    stage.puppet.say("SECRET")
    stage.puppet.finish()
    stage.take(good)
    stage.puppet.finish(FinishReason.ERROR, Fault(code="x", message="SECRET"))
    said = capsys.readouterr()
    assert "SECRET" not in said.out + said.err


def test_a_job_past_its_deadline_times_out_without_running() -> None:
    stage = Stage()
    stage.take(deadline_at=NOW)
    assert stage.outcome.state is JobState.TIMEOUT
    assert stage.puppet.requests == []
    assert stage.settled == ["ack"]


def test_a_job_cancelled_before_it_came_does_not_run() -> None:
    stage = Stage()
    stage.serving.cancel("job1")
    stage.take()
    assert stage.outcome.state is JobState.CANCELLED
    assert stage.puppet.requests == []


def test_a_running_job_is_cancelled_in_its_engine() -> None:
    stage = Stage()
    stage.take()
    stage.serving.cancel("job1")
    assert stage.puppet.cancelled == [stage.puppet.requests[0].id]
    stage.puppet.finish(FinishReason.CANCELLED)
    assert stage.outcome.state is JobState.CANCELLED


def test_another_fingerprint_than_asked_for_fails_naming_both() -> None:
    stage = Stage()
    stage.take(fingerprint="gf1-b")
    assert stage.outcome.state is JobState.FAILED
    fault = stage.outcome.fault
    assert fault is not None
    assert fault.code == "fingerprint_mismatch"
    assert "gf1-a" in fault.message
    assert "gf1-b" in fault.message


def test_a_fault_of_the_job_ends_it() -> None:
    stage = Stage()
    stage.take()
    fault = Fault(code="context_length_exceeded", message="9 > 8", param="messages")
    stage.puppet.finish(FinishReason.ERROR, fault)
    assert (stage.outcome.state, stage.outcome.fault) == (JobState.FAILED, fault)
    assert stage.settled == ["ack"]
    assert stage.served == []


def test_an_unexpected_error_fails_the_job_with_its_class_and_nothing_else() -> None:
    stage = Stage(Puppet(ZeroDivisionError("SECRET")))
    stage.take()
    fault = stage.outcome.fault
    assert fault is not None
    assert (fault.code, stage.outcome.state) == ("internal_error", JobState.FAILED)
    assert "ZeroDivisionError" in fault.message
    assert "SECRET" not in fault.message
    assert stage.settled == ["ack"]
    assert stage.serving.wait_idle(None, 0)


def test_an_answer_over_the_size_limit_fails_with_the_next_step() -> None:
    stage = Stage()
    stage.take()
    stage.puppet.say("x" * (topology.MAX_MESSAGE_BYTES + 1))
    stage.puppet.finish()
    assert stage.outcome.state is JobState.FAILED
    assert stage.outcome.fault is not None
    assert stage.outcome.fault.code == "message_too_large"


def test_of_two_copies_of_a_running_job_each_is_acknowledged_once() -> None:
    stage = Stage()
    stage.serving.take(stage.delivery(envelope.pack(task()), " first"))
    stage.serving.take(stage.delivery(envelope.pack(task()), " second"))
    assert len(stage.puppet.requests) == 1
    # One copy is enough to keep until the end is confirmed.
    assert stage.settled == ["ack first"]
    stage.puppet.finish()
    assert stage.settled == ["ack first", "ack second"]


def test_what_runs_counts_until_its_end_and_a_free_slot_is_said_at_once() -> None:
    stage = Stage()
    stage.take()
    (load,) = stage.serving.loads()
    assert (load.in_flight, load.free) == (1, 3)
    assert not stage.serving.wait_idle(MODEL, 0)
    assert stage.serving.wait_idle("another", 0)
    stage.puppet.finish()
    (load,) = stage.serving.loads()
    assert load.in_flight == 0
    assert (stage.slots, stage.served) == (["free"], [MODEL])


def test_an_engine_bids_by_the_speed_it_was_measured_at() -> None:
    stage = Stage()
    assert stage.serving.loads()[0].bid == BID_MOST
    stage.take()
    stage.puppet.finish()
    assert 0 < stage.serving.loads()[0].bid < BID_MOST


def test_many_requests_on_a_real_engine_each_end_once() -> None:
    engine = EchoEngine(model=MODEL, slots=4, ms_per_token=1)
    stage, done = Stage(engine), threading.Event()
    for n in range(20):
        stage.take(envelope.pack(msgspec.structs.replace(task(), job_id=f"j{n}")))
        if n % 4 == 3:
            assert stage.serving.wait_idle(None, BOUND_S)
    done.set()
    engine.close()
    assert sorted(o.job_id for o in stage.events.outcomes) == sorted(
        f"j{n}" for n in range(20)
    )
    assert stage.settled == ["ack"] * 20


@pytest.mark.parametrize(
    ("reason", "code", "state"),
    [
        (FinishReason.STOP, None, JobState.COMPLETED),
        (FinishReason.LENGTH, None, JobState.COMPLETED),
        (FinishReason.CANCELLED, None, JobState.CANCELLED),
        (FinishReason.ERROR, "deadline_exceeded", JobState.TIMEOUT),
        (FinishReason.ERROR, "anything", JobState.FAILED),
    ],
)
def test_an_engines_last_word_is_a_job_state(
    reason: FinishReason, code: str | None, state: JobState
) -> None:
    fault = None if code is None else Fault(code=code, message="")
    assert state_of(Finish(id="x", reason=reason, usage=Usage(), fault=fault)) is state


@pytest.mark.parametrize(
    ("extras", "param"),
    [
        (None, "max_tokens"),
        (AnswerExtras(others=(PartialAnswer(text="y"),)), "max_tokens"),
        (AnswerExtras(vectors=("v",)), "input"),
    ],
)
def test_an_answer_no_message_can_carry_fails_with_what_to_ask_less_of(
    extras: AnswerExtras | None, param: str
) -> None:
    stage = Stage()
    stage.take()
    stage.puppet.say("x" * topology.MAX_MESSAGE_BYTES)
    stage.puppet.finish(extras=extras)
    outcome = stage.outcome
    assert outcome.state is JobState.FAILED
    assert outcome.fault is not None
    assert (outcome.fault.code, outcome.fault.param) == ("message_too_large", param)
    assert (outcome.text, outcome.extras) == ("", None)
    assert stage.settled == ["ack"]


def test_a_stream_that_told_of_its_tokens_ends_well_without_them() -> None:
    stage = Stage()
    stage.take(sampling=Sampling(logprobs=0))
    token = SampledToken(token="x" * 1000, logprob=-1.0)
    for _ in range(12):
        stage.puppet.say("x", odds=(token,) * 100)
    stage.puppet.finish()
    assert stage.outcome.state is JobState.COMPLETED
    assert stage.outcome.text == "x" * 12
    assert stage.outcome.answers[0].choices == ()
    chunks = [event for event in stage.replies.events if isinstance(event, Chunk)]
    assert sum(len(chunk.choices) for chunk in chunks) == 1200

    waiting = Stage()
    waiting.take(sampling=Sampling(logprobs=0), chunks=False)
    for _ in range(12):
        waiting.puppet.say("x", odds=(token,) * 100)
    waiting.puppet.finish()
    assert waiting.outcome.fault is not None
    assert "log probabilities" in waiting.outcome.fault.message


def test_a_cancelled_job_is_remembered_and_others_are_not() -> None:
    cancels = CancelledJobs()
    cancels.add("a", now=0.0)
    assert cancels.has("a", now=1.0)
    assert not cancels.has("b", now=1.0)


def test_a_cancel_is_forgotten_after_its_time() -> None:
    cancels = CancelledJobs(keep_s=10.0)
    cancels.add("a", now=0.0)
    assert not cancels.has("a", now=10.0)


def test_no_number_of_cancels_takes_more_than_its_bound() -> None:
    cancels = CancelledJobs(keep=3)
    for n in range(10):
        cancels.add(f"{n}", now=float(n))
    assert [n for n in range(10) if cancels.has(f"{n}", now=10.0)] == [7, 8, 9]


def test_a_cancel_that_comes_while_a_job_starts_reaches_its_engine() -> None:
    class Early(Puppet):
        """Hears of the cancel before it hears of the request."""

        def submit(self, request: EngineRequest, sink: Sink) -> None:
            stage.serving.cancel("job1")
            super().submit(request, sink)

        def cancel(self, request_id: str) -> None:
            if request_id in [one.id for one in self.requests]:
                super().cancel(request_id)

    stage = Stage(Early())
    stage.take()
    assert stage.puppet.cancelled == [stage.puppet.requests[0].id]


def test_what_an_engine_refuses_at_once_is_not_said_to_have_started() -> None:
    class Strict(Puppet):
        def submit(self, request: EngineRequest, sink: Sink) -> None:
            super().submit(request, sink)
            self.finish(FinishReason.ERROR, Fault(code="invalid_request", message=""))

    stage = Stage(Strict())
    stage.take()
    stage.wait()
    assert stage.events.events == [stage.outcome]
