"""The data plane behind a network that misbehaves, on a real RabbitMQ."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from cloud_app.bus import Bus
from cloud_app.jobs import lifecycle
from fixtures.clouds import Cloud
from fixtures.fleet import wait_until
from fixtures.nodes import RabbitNode
from fixtures.proxy import Proxy
from genie import topology
from genie.contracts.inference import AttemptStarted, Chunk, JobState, WorkClass
from genie.errors import BrokerDown
from integration.test_worker_dataplane import task
from integration.worker_rig import MODEL, Asker, Rig
from workers.bidding import credits as bidding

SILENT_S = 4.0
HALF_OPEN_S = 30.0
"""What promises.md allows to notice that a peer went silent."""


@pytest.fixture
def proxy(rabbitmq: RabbitNode) -> Iterator[Proxy]:
    """The worker's way to the broker."""
    with Proxy(rabbitmq.port) as proxy:
        yield proxy


def test_a_cut_connection_is_made_anew_and_work_in_hand_ends_once(
    rabbitmq_url: str, asker: Asker, proxy: Proxy
) -> None:
    with Rig(proxy.of(rabbitmq_url), "ann", ms_per_token=20):
        jobs = [asker.ask("word " * 20) for _ in range(4)]
        for job in jobs:
            asker.started(job)
        proxy.cut()
        outcomes = [asker.outcome(job) for job in jobs]
        after = asker.outcome(asker.ask())
    assert {one.state for one in outcomes} == {JobState.COMPLETED}
    assert after.state is JobState.COMPLETED


def test_connections_cut_again_and_again_make_no_job_poison(
    rabbitmq_url: str, rabbitmq: RabbitNode, asker: Asker, tmp_path: Path
) -> None:
    cloud = Cloud(f"sqlite:///{tmp_path}/genie.db")
    job = cloud.job(mode="stream")
    with ExitStack() as stack:
        asker.ask("word " * 60, job_id=job.id)
        for number in range(lifecycle.ATTEMPTS_MAX + 3):
            way = stack.enter_context(Proxy(rabbitmq.port))
            rig = Rig(way.of(rabbitmq_url), f"w{number}", ms_per_token=100)
            stack.enter_context(rig)
            asker.wait_until(partial(runs_on, asker, job.id, f"w{number}"))
            rig.plane.close_credits()  # or it would take its own job again
            # What is not confirmed is told again, after the next worker's start.
            wait_until(rig.has_told, 10, "its start is confirmed", every_s=0.002)
            way.cut()
        asker.outcome(job.id, topology.OUTCOMES)
    for event in asker.events(job.id, topology.OUTCOMES):
        assert not isinstance(event, Chunk)
        lifecycle.apply(cloud.ctx, event)
    ended = cloud.reread(job)
    cloud.close()
    assert (ended.state, ended.attempts) == (
        JobState.COMPLETED,
        lifecycle.ATTEMPTS_MAX + 3,
    )


def test_a_network_that_was_gone_for_a_while_needs_no_restart(
    rabbitmq_url: str, asker: Asker, proxy: Proxy
) -> None:
    with Rig(proxy.of(rabbitmq_url), "ann") as rig:
        proxy.refuse()
        wait_until(lambda: not rig.is_connected, 10, "the cut is noticed")
        job = asker.ask()
        proxy.allow()
        assert asker.outcome(job).state is JobState.COMPLETED


@pytest.mark.parametrize(
    "turn", [0, *(pytest.param(n, marks=[pytest.mark.chaos]) for n in range(1, 5))]
)
def test_a_peer_that_goes_silent_is_noticed_and_its_work_runs_elsewhere(
    rabbitmq_url: str, asker: Asker, proxy: Proxy, turn: int
) -> None:
    with Rig(proxy.of(rabbitmq_url), "silent", ms_per_token=500) as silent:
        job = asker.ask("a b c d e f g h " * 10)
        assert asker.started(job).worker == "silent"
        with Rig(rabbitmq_url, "heir"):
            proxy.pause()
            began = time.monotonic()
            wait_until(
                lambda: "heir" in workers_of(asker, job), HALF_OPEN_S, "it runs again"
            )
            wait_until(lambda: not silent.is_connected, HALF_OPEN_S, "it noticed too")
            took_s = time.monotonic() - began
            proxy.resume()
            assert asker.outcome(job).state is JobState.COMPLETED
    sys.stdout.write(f"P4: turn={turn} noticed after {took_s:.1f} s\n")
    assert took_s < HALF_OPEN_S


def runs_on(asker: Asker, job: str, worker: str) -> bool:
    return worker in workers_of(asker, job)


def workers_of(asker: Asker, job: str) -> list[str]:
    return [e.worker for e in asker.events(job) if isinstance(e, AttemptStarted)]


def test_a_slow_network_changes_no_answer(
    rabbitmq_url: str, asker: Asker, rabbitmq: RabbitNode
) -> None:
    with (
        Proxy(rabbitmq.port, delay_s=0.02) as slow,
        Rig(slow.of(rabbitmq_url), "ann"),
    ):
        jobs = [asker.ask(f"slow {n}") for n in range(10)]
        texts = [asker.outcome(job).text for job in jobs]
    assert texts == [f"slow {n} slow {n}" for n in range(10)]


def test_a_worker_that_is_connected_and_hears_nothing_starts_anew(
    rabbitmq_url: str, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bidding, "WATCH_S", 0.5)
    with Rig(rabbitmq_url, "ann") as rig:
        asker.outcome(asker.ask())
        deaf = threading.Event()

        def silently_gone() -> None:
            for one in tuple(rig.plane._open.values()):
                rig.plane._link.cancel(one.tag)
            deaf.set()

        rig.plane._link.call(silently_gone)
        assert deaf.wait(5)
        assert asker.outcome(asker.ask()).state is JobState.COMPLETED


def test_work_goes_on_after_the_broker_restarted(
    rabbitmq_url: str, rabbitmq: RabbitNode
) -> None:
    with Rig(rabbitmq_url, "ann") as rig:
        with Asker(rabbitmq_url) as before:
            before.outcome(before.ask())
        rabbitmq.kill()
        rabbitmq.start()
        began = time.monotonic()
        wait_until(lambda: rig.is_connected, 10, "it is connected again")
        assert time.monotonic() - began < 10
        with Asker(rabbitmq_url) as after:
            assert after.outcome(after.ask()).state is JobState.COMPLETED


def test_background_queues_that_do_not_answer_hold_up_no_interactive_work(
    rabbitmq_url: str, rabbitmq: RabbitNode, asker: Asker
) -> None:
    background = (WorkClass.JOB, WorkClass.BATCH)
    with Rig(rabbitmq_url, "ann"):
        for work_class in background:
            asker.outcome(asker.ask(work_class=work_class))
    # As after a crash of the broker, until a quorum queue has a leader again.
    queues = [topology.model_queue(topology.SHARED, MODEL, one) for one in background]
    for queue in queues:
        rabbitmq.ctl("eval", _leader_does(rabbitmq_url, queue, "suspend"))
    try:
        with Rig(rabbitmq_url, "bob", slots=1) as bob:
            wait_until(lambda: held(bob) >= set(background), 10, "it asks there too")
            began = time.monotonic()
            for _ in range(20):
                asker.outcome(asker.ask())
            took_s = time.monotonic() - began
            for queue in queues:
                rabbitmq.ctl("eval", _leader_does(rabbitmq_url, queue, "resume"))
            for work_class in background:
                asker.outcome(asker.ask(work_class=work_class))
            wait_until(lambda: not left(bob), 10, "no consumer is remembered in vain")
    finally:
        for queue in queues:
            rabbitmq.ctl("eval", _leader_does(rabbitmq_url, queue, "resume"))
    assert took_s < SILENT_S  # the broker gives a silent leader five seconds or more


def held(rig: Rig) -> set[WorkClass]:
    return {credit.work_class for credit in tuple(rig.plane._open)}


def left(rig: Rig) -> set[str]:
    """Tags somebody listens for though their consumers are gone."""
    session: Any = rig.plane._link._session  # type: ignore[attr-defined]
    background = session.channels["background"]
    known = session._consumers.items()
    tags = {tag for tag, one in known if one.channel is background}
    return tags - {one.tag for one in tuple(rig.plane._open.values())}


def _leader_does(url: str, queue: str, what: str) -> str:
    vhost = urlsplit(url).path[1:]
    return (
        f'R = rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>), '
        "{ok, Q} = rabbit_amqqueue:lookup(R), {Name, _} = amqqueue:get_pid(Q), "
        f"sys:{what}(Name)."
    )


def test_a_broker_in_alarm_refuses_soon_and_recovers(
    rabbitmq_url: str, rabbitmq: RabbitNode, asker: Asker
) -> None:
    bus = Bus(rabbitmq_url)
    wanted = task(asker)
    try:
        bus.publish(wanted)
        rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
        began = time.monotonic()
        with pytest.raises(BrokerDown):
            bus.publish(wanted)
        assert time.monotonic() - began < 5
        rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")
        wait_until(lambda: is_published(bus, asker), 20, "the alarm is over")
    finally:
        rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")
        bus.close()
    with Rig(rabbitmq_url, "ann"):
        assert asker.outcome(asker.ask()).state is JobState.COMPLETED


def test_what_ends_during_an_alarm_is_told_after_it(
    rabbitmq_url: str, rabbitmq: RabbitNode, asker: Asker
) -> None:
    with Rig(rabbitmq_url, "ann", ms_per_token=50) as rig:
        jobs = [asker.ask("a b c d " * 5) for _ in range(3)]
        for job in jobs:
            asker.started(job)
        rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
        try:
            wait_until(lambda: rig.engine.stats().active == 0, 20, "the engine is done")
        finally:
            rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")
        states = [asker.outcome(job, topology.OUTCOMES).state for job in jobs]
        after = asker.outcome(asker.ask())
    assert states == [JobState.COMPLETED] * 3
    assert after.state is JobState.COMPLETED


def is_published(bus: Bus, asker: Asker) -> bool:
    try:
        bus.publish(task(asker))
    except BrokerDown:
        return False
    return True
