import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from cloud_app.bus import OutcomeConsumer, outcomes
from genie.contracts import codec
from genie.contracts.inference import AttemptStarted, RecordedEvent
from genie.errors import DatabaseDown
from genie.messaging.light import Arrived


class Channel:
    """What was said of each message, by its tag."""

    def __init__(self) -> None:
        self.acked: list[int] = []
        self.given_back: list[int] = []
        self.dead: list[int] = []

    def basic_ack(self, tag: int) -> None:
        self.acked.append(tag)

    def basic_reject(self, tag: int, *, requeue: bool) -> None:
        (self.given_back if requeue else self.dead).append(tag)


class Database:
    """Records jobs until the one with which it goes away."""

    def __init__(self, gone_at: str) -> None:
        self._gone_at = gone_at
        self.asked: list[str] = []

    def apply(self, event: RecordedEvent) -> bool:
        self.asked.append(event.job_id)
        if event.job_id >= self._gone_at:
            raise DatabaseDown("the database cannot be reached")
        return True

    def together(self, events: Sequence[RecordedEvent]) -> Sequence[int]:
        for event in events:
            self.apply(event)
        return ()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it waited, each time; it does not wait here."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


def settled(consumer: OutcomeConsumer, jobs: int) -> Channel:
    """Give it a started event of each job, then let it record them."""
    channel = Channel()
    for tag in range(1, jobs + 1):
        event = AttemptStarted(
            job_id=f"job-{tag}",
            attempt_id="1",
            worker_id="w",
            worker="atlas",
            model="echo:small",
            at=datetime(2026, 1, 1, tzinfo=UTC),
        )
        message = Arrived(codec.encode(event), tag, False)
        consumer._receive(cast(Any, channel), message)
    consumer._settle(cast(Any, channel))
    return channel


def test_all_are_acked_once_they_are_recorded(waits: list[float]) -> None:
    database = Database(gone_at="never")
    channel = settled(OutcomeConsumer("memory://", database.apply), 4)

    assert channel.acked == [1, 2, 3, 4]
    assert (channel.given_back, channel.dead, waits) == ([], [], [])


def test_when_the_database_goes_away_the_rest_comes_again_after_one_wait(
    waits: list[float],
) -> None:
    database = Database(gone_at="job-3")
    channel = settled(OutcomeConsumer("memory://", database.apply), 6)

    assert database.asked == ["job-1", "job-2", "job-3"]
    assert channel.acked == [1, 2]
    assert channel.given_back == [3, 4, 5, 6]
    assert waits == [outcomes.RETRY_S]


def test_when_none_can_be_recorded_together_all_come_again_after_one_wait(
    waits: list[float],
) -> None:
    database = Database(gone_at="job-2")
    consumer = OutcomeConsumer("memory://", database.apply, database.together)
    channel = settled(consumer, 4)

    assert (channel.acked, channel.given_back) == ([], [1, 2, 3, 4])
    assert waits == [outcomes.RETRY_S]


def test_one_that_cannot_be_recorded_is_dead_and_the_others_are_not(
    waits: list[float],
) -> None:
    def apply(event: RecordedEvent) -> bool:
        if event.job_id == "job-2":
            raise ValueError("a mistake of ours")
        return True

    channel = settled(OutcomeConsumer("memory://", apply), 3)

    assert (channel.acked, channel.dead, waits) == ([1, 3], [2], [])
