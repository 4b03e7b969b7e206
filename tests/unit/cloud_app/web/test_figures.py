from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_app.store.reports import JobTimes
from cloud_app.web import figures
from genie.contracts.inference import JobState

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
FINITE = st.floats(0, 1e6, allow_nan=False)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def job(
    *,
    created: float,
    started: float | None = None,
    first: float | None = None,
    finished: float | None = None,
    state: JobState = JobState.COMPLETED,
    tokens: int = 0,
    persona: str = "chat",
    model: str = "echo:small",
) -> JobTimes:
    return JobTimes(
        id=f"job-{created}",
        state=state,
        persona=persona,
        model=model,
        created_at=ago(created),
        started_at=None if started is None else ago(started),
        first_token_at=None if first is None else ago(first),
        finished_at=None if finished is None else ago(finished),
        tokens=tokens,
    )


def test_a_fleet_that_did_nothing_shows_zeros_and_flat_lines() -> None:
    tiles = figures.tiles((), {}, NOW)

    assert [tile.value for tile in tiles] == ["0", "0", "0", "–", "0"]
    assert all(len(tile.line.split()) == figures.STEPS for tile in tiles)
    assert {point.partition(",")[2] for point in tiles[0].line.split()} == {"27.0"}


def test_the_tiles_say_what_happened() -> None:
    jobs = (
        job(created=40, started=35, first=30, finished=10, tokens=600),
        job(created=100, started=90, state=JobState.RUNNING),
        job(created=5, state=JobState.QUEUED),
    )
    counts = {JobState.RUNNING: 1, JobState.QUEUED: 7, JobState.TIMEOUT: 2}
    tiles = {tile.id: tile.value for tile in figures.tiles(jobs, counts, NOW)}

    assert tiles == {
        "tokens": "10",
        "running": "1",
        "waiting": "7",
        "ttft": "10 s",
        "failed": "2",
    }


def test_tokens_count_where_they_were_made() -> None:
    one = (job(created=200, started=150, first=120, finished=20, tokens=100),)

    assert figures.tokens_between(one, ago(70), ago(20)) == pytest.approx(50)
    assert figures.tokens_between(one, ago(20), NOW) == 0
    assert figures.tokens_between(one, ago(600), NOW) == pytest.approx(100)


def test_a_job_waits_until_it_starts_and_runs_until_it_ends() -> None:
    one = (job(created=60, started=40, finished=10),)

    assert [figures.waiting_at(one, ago(s)) for s in (61, 50, 30)] == [0, 1, 0]
    assert [figures.running_at(one, ago(s)) for s in (50, 30, 5)] == [0, 1, 0]


def test_a_job_cancelled_before_it_started_waits_no_longer() -> None:
    one = (job(created=60, finished=30, state=JobState.CANCELLED),)

    assert [figures.waiting_at(one, ago(s)) for s in (50, 20)] == [1, 0]


def test_shares_are_of_the_last_hour_and_the_largest_comes_first() -> None:
    jobs = (
        job(created=10, first=9, persona="review"),
        job(created=20, first=18, persona="review"),
        job(created=30, persona="chat"),
        job(created=4000, persona="old"),
    )
    first, second = figures.shares(jobs, NOW)

    assert (first.persona, round(first.share, 2)) == ("review", 0.67)
    assert first.first_token_p95_s == 2.0
    assert first.newest_job_id == "job-10"
    assert (second.persona, second.first_token_p95_s) == ("chat", None)


@given(st.lists(FINITE, min_size=1))
def test_every_line_stays_within_its_picture(values: list[float]) -> None:
    points = figures.polyline(values, width=100, height=20).split()

    assert len(points) == len(values)
    for point in points:
        x, y = map(float, point.split(","))
        assert 0 <= x <= 100.1
        assert 0.9 <= y <= 19.1


@given(st.lists(FINITE, min_size=1))
def test_the_95th_percentile_is_a_value_that_few_exceed(values: list[float]) -> None:
    found = figures.percentile_95(values)

    assert found in values
    assert sum(value > found for value in values) <= 0.05 * len(values)
