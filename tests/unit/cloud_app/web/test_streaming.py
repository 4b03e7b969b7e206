import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from cloud_app.api import responses
from cloud_app.jobs.stream import AnswerText, QueueWait
from cloud_app.store.records import JobRecord
from cloud_app.web import streaming
from cloud_app.web.streaming import StreamItem, StreamPlan
from genie.contracts.inference import JobState
from genie.errors import DatabaseDown

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def record() -> JobRecord:
    return JobRecord(
        id="j1",
        org="acme",
        key_id="k1",
        state=JobState.QUEUED,
        mode="stream",
        persona="chat",
        model="echo:small",
        queue="genie",
        work_class="interactive",
        created_at=NOW,
        deadline_at=NOW,
    )


@pytest.fixture
def plan() -> StreamPlan:
    return StreamPlan(
        dialect=responses.CHAT, job=record(), includes_usage=False, request_id="req_1"
    )


def test_a_waiting_client_is_told_its_place_but_not_too_often(plan: StreamPlan) -> None:
    items = [QueueWait(position=2, eta_s=3.0), QueueWait(position=1, eta_s=1.0)]
    sent = list(streaming.frames(plan, iter(items)))

    assert sent[1:] == [b": queued position=2 eta_s=3.0\n\n"]


def test_a_mistake_of_ours_is_told_without_its_detail(plan: StreamPlan) -> None:
    def broken() -> Iterator[StreamItem]:
        yield AnswerText(text="a", tokens=1, worker=None)
        raise RuntimeError("secret detail")

    last = list(streaming.frames(plan, broken()))[-1].decode()

    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["code"] == "internal_error"
    assert "req_1" in error["message"]
    assert "secret" not in last


def test_a_database_that_goes_away_is_told_in_the_stream(plan: StreamPlan) -> None:
    def broken() -> Iterator[StreamItem]:
        yield QueueWait(position=None, eta_s=None)
        raise DatabaseDown("the database cannot be reached")

    last = list(streaming.frames(plan, broken()))[-1].decode()

    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
