"""What workers ask for, as a real RabbitMQ sees it; in memory where priorities do not
matter."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import kombu
import pytest
from amqp.exceptions import NotFound

from fixtures.fleet import wait_until
from genie import topology
from genie.contracts.inference import AttemptStarted, JobState, Outcome, WorkClass
from integration.worker_rig import MODEL, Asker, Rig
from workers.bidding import consumers as bidding
from workers.bidding.credits import Credit

OTHER, ACME = "echo:large", "org.acme"
FAST, J, B = WorkClass.INTERACTIVE, WorkClass.JOB, WorkClass.BATCH
MODELS = (MODEL, OTHER)
PATIENCE_S = 10.0
FAST_CREDIT = Credit(queue=topology.SHARED, model=MODEL, work_class=FAST)


@pytest.fixture(params=["rabbitmq", "memory"])
def asker(request: pytest.FixtureRequest) -> Iterator[Asker]:
    """Somebody who asks, on either transport."""
    if request.param == "memory":
        url = "memory://"
    else:
        url = request.getfixturevalue("rabbitmq_url")
    with Asker(url) as asker:
        yield asker


def test_a_worker_asks_once_for_each_queue_and_model_and_stops_where_it_is_full(
    rabbitmq_url: str,
) -> None:
    with (
        Asker(rabbitmq_url) as asker,
        Rig(
            rabbitmq_url,
            "ann",
            slots=1,
            ms_per_token=20,
            queues=(ACME, topology.SHARED),
            models=MODELS,
        ),
        consumers(rabbitmq_url) as count,
    ):
        every = [
            (queue, model) for queue in (ACME, topology.SHARED) for model in MODELS
        ]
        until(lambda: [count(*one) for one in every] == [1, 1, 1, 1])
        job = asker.ask("word " * 500)
        asker.started(job)
        until(lambda: [count(*one) for one in every] == [0, 1, 0, 1])
        other = asker.ask(model=OTHER)
        assert asker.outcome(other).state is JobState.COMPLETED
        assert not asker.times([job], Outcome)


def test_background_work_begins_when_no_interactive_work_waits(asker: Asker) -> None:
    batch = [asker.ask(work_class=B) for _ in range(6)]
    jobs = [asker.ask(work_class=J) for _ in range(6)]
    urgent = [asker.ask() for _ in range(6)]
    with Rig(asker.url, "ann", slots=2, ms_per_token=2):
        for job in (*urgent, *jobs, *batch):
            assert asker.outcome(job).state is JobState.COMPLETED
        starts = [asker.times(one, AttemptStarted) for one in (urgent, jobs, batch)]
    assert [len(one) for one in starts] == [6, 6, 6]
    assert max(starts[0]) < min(*starts[1], *starts[2])


def test_equal_workers_that_idle_share_evenly(
    rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bidding, "RENEW_S", 0.2)
    with (
        Asker(rabbitmq_url) as asker,
        Rig(rabbitmq_url, "ann", ms_per_token=20),
        Rig(rabbitmq_url, "bob", ms_per_token=20),
        Rig(rabbitmq_url, "cyd", ms_per_token=20),
    ):
        served = Counter(asker.outcome(asker.ask("a")).worker for _ in range(60))
    assert sorted(served) == ["ann", "bob", "cyd"]
    assert min(served.values()) >= 6


def test_a_much_faster_worker_gets_what_both_could_serve(rabbitmq_url: str) -> None:
    with (
        Asker(rabbitmq_url) as asker,
        Rig(rabbitmq_url, "slow", ms_per_token=100),
        Rig(rabbitmq_url, "fast", ms_per_token=5),
    ):
        served = [asker.outcome(asker.ask("a")).worker for _ in range(12)]
    # Each serves its first of all to be measured, and dither may give away another.
    assert served.count("fast") >= 8


def test_a_bid_drawn_anew_leaves_one_consumer_and_loses_nothing(
    rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bidding, "RENEW_S", 0.01)
    monkeypatch.setattr(bidding, "TICK_S", 0.005)
    monkeypatch.setattr(bidding, "SOON_S", 0.005)
    with (
        Asker(rabbitmq_url) as asker,
        Rig(rabbitmq_url, "ann", slots=2) as ann,
        Rig(rabbitmq_url, "bob", slots=2) as bob,
        consumers(rabbitmq_url) as count,
    ):
        texts = []
        for number in range(60):
            job = asker.ask(f"n {number}")
            time.sleep(0.01)
            texts.append(asker.outcome(job).text)
        until(lambda: set(tags(ann)) == {FAST, J, B} == set(tags(bob)))
        before = tags(ann)
        # A consumer opened anew on a quorum queue would cost the broker a Raft round.
        kept = {J: before[J], B: before[B]}
        until(lambda: tags(ann).get(FAST, before[FAST]) != before[FAST])
        assert tags(ann).items() >= kept.items()
        until(lambda: count(topology.SHARED, MODEL) == 2)
    assert texts == [f"n {number} n {number}" for number in range(60)]


def test_who_asks_alone_keeps_its_consumer_until_another_comes(
    rabbitmq_url: str,
) -> None:
    with (
        Asker(rabbitmq_url) as asker,
        Rig(rabbitmq_url, "ann", slots=3, ms_per_token=20) as ann,
    ):
        asker.outcome(asker.ask())  # it is measured then
        until(lambda: places(ann) == 3)
        tag = tags(ann)[FAST]
        for _ in range(5):
            asker.outcome(asker.ask("a"))
        assert tags(ann)[FAST] == tag
        running = [asker.ask("word " * 20) for _ in range(3)]
        for job in running:
            asker.started(job)
        assert tags(ann)[FAST] == tag  # full, and still open
        waiting = asker.ask()
        with Rig(rabbitmq_url, "bob"):
            assert asker.outcome(waiting).worker == "bob"
            until(lambda: places(ann) <= 1)
            for job in running:
                assert asker.outcome(job).worker == "ann"


def test_what_was_pushed_and_not_begun_is_given_back_when_another_comes(
    rabbitmq_url: str,
) -> None:
    with (
        Asker(rabbitmq_url) as asker,
        Rig(rabbitmq_url, "ann", slots=3, ms_per_token=100) as ann,
    ):
        asker.outcome(asker.ask("a"))
        until(lambda: places(ann) == 3)
        jobs = [asker.ask("word " * 20, work_class=J) for _ in range(2)]
        for job in jobs:
            asker.started(job)
        pushed = [asker.ask("word " * 10) for _ in range(3)]
        until(lambda: len(ann.plane._open[FAST_CREDIT].pushed) == 2)
        with Rig(rabbitmq_url, "bob"):
            workers = Counter(asker.outcome(job).worker for job in pushed)
        assert workers == {"ann": 1, "bob": 2}
        starts = [e for e in asker.events(pushed[2]) if isinstance(e, AttemptStarted)]
        assert [start.worker for start in starts] == ["bob"]


def places(rig: Rig) -> int:
    """For how many messages its interactive consumer is open; 0 without one."""
    found = rig.plane._open.get(FAST_CREDIT)
    return found.places if found else 0


def tags(rig: Rig) -> dict[WorkClass, str]:
    """The consumers a worker of one model and queue holds."""
    held = tuple(rig.plane._open.items())
    return {credit.work_class: one.tag for credit, one in held}


@contextmanager
def consumers(url: str) -> Iterator[Callable[[str, str], int]]:
    """Asks the broker how many consumers a model's interactive queue has."""
    connection: kombu.Connection = kombu.Connection(url)
    with connection:

        def count(queue: str, model: str) -> int:
            name = topology.model_queue(queue, model, FAST)
            try:
                with connection.channel() as channel:
                    found = channel.queue_declare(name, passive=True)
            except NotFound:  # nobody has asked for anything there yet
                return 0
            return int(found.consumer_count)

        yield count


def until(seen: Callable[[], bool]) -> None:
    wait_until(seen, PATIENCE_S, "the broker and the workers agree", every_s=0.02)
