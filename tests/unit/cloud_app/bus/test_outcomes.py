import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pytest

from cloud_app.bus import OutcomeConsumer, outcomes
from fixtures.twin_link import TwinLink
from genie.contracts import codec
from genie.contracts.inference import AttemptStarted, RecordedEvent
from genie.errors import DatabaseDown
from genie.messaging.link import BrokerMessage


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


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Iterator[TwinLink]:
    """What every consumer here consumes by."""
    made = TwinLink()
    monkeypatch.setattr("genie.messaging.broker.connect", lambda *_words: made)
    yield made


def settle(consumer: OutcomeConsumer, jobs: int) -> None:
    """Give it a started event of each job, then let it record them."""
    for tag in range(1, jobs + 1):
        event = AttemptStarted(
            job_id=f"job-{tag}",
            attempt_id="1",
            worker_id="w",
            worker="atlas",
            model="echo:small",
            at=datetime(2026, 1, 1, tzinfo=UTC),
        )
        body = codec.encode(event)
        consumer._receive(
            BrokerMessage(
                body=body, redelivered=False, headers=dict, channel=None, tag=tag
            )
        )
    consumer._settle()


def test_all_are_acked_once_they_are_recorded(
    waits: list[float], link: TwinLink
) -> None:
    database = Database(gone_at="never")
    settle(OutcomeConsumer("memory://", database.apply), 4)

    assert link.acked == [1, 2, 3, 4]
    assert (link.given_back, link.dead, waits) == ([], [], [])


def test_when_the_database_goes_away_the_rest_comes_again_after_one_wait(
    waits: list[float],
    link: TwinLink,
) -> None:
    database = Database(gone_at="job-3")
    settle(OutcomeConsumer("memory://", database.apply), 6)

    assert database.asked == ["job-1", "job-2", "job-3"]
    assert link.acked == [1, 2]
    assert link.given_back == [3, 4, 5, 6]
    assert waits == [outcomes.RETRY_S]


def test_when_none_can_be_recorded_together_all_come_again_after_one_wait(
    waits: list[float],
    link: TwinLink,
) -> None:
    database = Database(gone_at="job-2")
    consumer = OutcomeConsumer("memory://", database.apply, database.together)
    settle(consumer, 4)

    assert (link.acked, link.given_back) == ([], [1, 2, 3, 4])
    assert waits == [outcomes.RETRY_S]


def test_one_that_cannot_be_recorded_is_dead_and_the_others_are_not(
    waits: list[float],
    link: TwinLink,
) -> None:
    def apply(event: RecordedEvent) -> bool:
        if event.job_id == "job-2":
            raise ValueError("a mistake of ours")
        return True

    settle(OutcomeConsumer("memory://", apply), 3)

    assert (link.acked, link.dead, waits) == ([1, 3], [2], [])
