"""The heartbeat thread: its pace, its nudges, and that nothing kills it."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from genie.contracts.fleet import Heartbeat, HeartbeatReply, RegistrationReply
from genie.errors import CloudUnreachable, GenieError, Unauthorized
from workers import hardware
from workers.agent import Agent, HeartbeatTimer
from workers.cloud import CloudClient

HOST = hardware.host_status(Path("/"))
FIRST = RegistrationReply(
    worker_id="w1",
    worker_secret="gw-1",
    name="ann",
    org="acme",
    broker_url="memory://",
    queues=("genie",),
)
BOUND_S = 60.0


class CloudTwin(CloudClient):
    """Answers heartbeats by a script; then ``next_in_s`` for ever."""

    def __init__(self, *script: Exception | HeartbeatReply, next_in_s: float) -> None:
        super().__init__("http://twin")
        self._script = list(script)
        self._next_in_s = next_in_s
        self.beats: list[tuple[float, int, str]] = []
        self._news = threading.Condition()

    def heartbeat(self, beat: Heartbeat, secret: str) -> HeartbeatReply:
        with self._news:
            self.beats.append((time.monotonic(), beat.seq, secret))
            self._news.notify_all()
        turn = self._script.pop(0) if self._script else answer(self._next_in_s)
        if isinstance(turn, Exception):
            raise turn
        return turn

    def wait_beats(self, count: int) -> None:
        with self._news:
            assert self._news.wait_for(lambda: len(self.beats) >= count, BOUND_S)


def answer(next_in_s: float = 60.0, *, register: bool = False) -> HeartbeatReply:
    now = datetime.now(UTC) + timedelta(hours=1)
    return HeartbeatReply(
        ack_seq=0, server_time=now, next_in_s=next_in_s, register=register
    )


def report(seq: int) -> Heartbeat:
    return Heartbeat(seq=seq, boot_id="b", host=HOST)


def agent(
    cloud: CloudClient,
    *,
    obey: Callable[[HeartbeatReply], None] = lambda _reply: None,
    enrol: Callable[[], RegistrationReply] = lambda: FIRST,
) -> Agent:
    pace = HeartbeatTimer(interval_s=0.02, jitter=lambda: 0.0)
    return Agent(cloud, FIRST, report=report, obey=obey, enrol=enrol, pace=pace)


def test_beats_come_at_the_clouds_interval_and_are_numbered() -> None:
    cloud = CloudTwin(next_in_s=0.1)
    beating = agent(cloud)
    beating.start()
    cloud.wait_beats(3)
    beating.stop()
    assert [seq for _, seq, _ in cloud.beats[:3]] == [1, 2, 3]
    assert cloud.beats[2][0] - cloud.beats[0][0] >= 0.2


def test_a_nudge_brings_a_beat_at_once() -> None:
    cloud = CloudTwin(next_in_s=60.0)
    beating = agent(cloud)
    beating.start()
    cloud.wait_beats(1)
    beating.nudge()
    cloud.wait_beats(2)
    beating.stop()


def test_a_burst_of_changes_is_one_beat_a_second_after_the_last() -> None:
    cloud = CloudTwin(next_in_s=60.0)
    beating = agent(cloud)
    beating.start()
    cloud.wait_beats(1)
    for _ in range(50):
        beating.changed()
    cloud.wait_beats(2)
    beating.stop()
    assert len(cloud.beats) == 2
    assert cloud.beats[1][0] - cloud.beats[0][0] >= 0.9


@pytest.mark.parametrize(
    "error",
    [CloudUnreachable("away"), GenieError("odd"), RuntimeError("our bug")],
)
def test_no_error_ends_the_heartbeats(error: Exception) -> None:
    cloud = CloudTwin(error, error, next_in_s=60.0)
    beating = agent(cloud)
    beating.start()
    cloud.wait_beats(3)
    beating.stop()


def test_what_breaks_while_obeying_does_not_end_the_heartbeats() -> None:
    cloud = CloudTwin(next_in_s=60.0)

    def obey(_reply: HeartbeatReply) -> None:
        raise KeyError("a bug of ours")

    beating = agent(cloud, obey=obey)
    beating.start()
    cloud.wait_beats(2)
    beating.stop()


@pytest.mark.parametrize("turn", [answer(register=True), Unauthorized("who?")])
def test_a_worker_the_cloud_does_not_know_registers_and_uses_its_new_secret(
    turn: Exception | HeartbeatReply,
) -> None:
    import msgspec

    cloud = CloudTwin(turn, next_in_s=60.0)
    fresh = msgspec.structs.replace(FIRST, worker_secret="gw-2")
    beating = agent(cloud, enrol=lambda: fresh)
    beating.start()
    cloud.wait_beats(2)
    beating.stop()
    assert [secret for _, _, secret in cloud.beats] == ["gw-1", "gw-2"]


def test_time_is_the_clouds() -> None:
    cloud, heard = CloudTwin(next_in_s=60.0), threading.Event()
    beating = agent(cloud, obey=lambda _reply: heard.set())
    beating.start()
    assert heard.wait(BOUND_S)
    beating.stop()
    ahead = beating.now() - datetime.now(UTC)
    assert timedelta(minutes=59) < ahead < timedelta(minutes=61)


def test_waits_double_while_the_cloud_is_away_and_end_at_the_interval() -> None:
    pace = HeartbeatTimer(interval_s=30.0, jitter=lambda: 1.0)
    waits = [pace.after_miss() for _ in range(7)]
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    assert pace.after_answer(30.0) == 33.0
    assert pace.after_miss() == 1.0


@pytest.mark.parametrize("jitter", [-1.0, 0.0, 1.0])
def test_the_jitter_is_a_tenth(jitter: float) -> None:
    pace = HeartbeatTimer(interval_s=30.0, jitter=lambda: jitter)
    assert pace.after_answer(30.0) == pytest.approx(30 + 3 * jitter)
