"""Cron lines against the clocks of the world."""

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_app.brain import calendar
from cloud_app.brain.calendar import CatchUpPolicy
from genie.errors import BadRequest

NOON = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)

# zone, line, from this moment on, the runs in UTC
TRANSITIONS = {
    "Berlin springs over 02:30": (
        "Europe/Berlin",
        "30 2 * * *",
        "2026-03-28T02:00",
        ("2026-03-29T01:00", "2026-03-30T00:30"),
    ),
    "Berlin has 02:30 twice": (
        "Europe/Berlin",
        "30 2 * * *",
        "2026-10-24T12:00",
        ("2026-10-25T00:30", "2026-10-26T01:30"),
    ),
    "New York springs over 02:15": (
        "America/New_York",
        "15 2 * * *",
        "2026-03-07T12:00",
        ("2026-03-08T07:00", "2026-03-09T06:15"),
    ),
    "New York has 01:30 twice": (
        "America/New_York",
        "30 1 * * *",
        "2026-10-31T12:00",
        ("2026-11-01T05:30", "2026-11-02T06:30"),
    ),
    "Havana springs over midnight": (
        "America/Havana",
        "0 0 * * *",
        "2026-03-07T12:00",
        ("2026-03-08T05:00", "2026-03-09T04:00"),
    ),
    "Beirut springs over midnight": (
        "Asia/Beirut",
        "0 0 * * *",
        "2026-03-28T12:00",
        ("2026-03-28T22:00", "2026-03-29T21:00"),
    ),
    "Lord Howe springs by half an hour": (
        "Australia/Lord_Howe",
        "15 2 * * *",
        "2026-10-03T00:00",
        ("2026-10-03T15:30", "2026-10-04T15:15"),
    ),
    "Lord Howe repeats half an hour": (
        "Australia/Lord_Howe",
        "45 1 * * *",
        "2026-04-04T00:00",
        ("2026-04-04T14:45", "2026-04-05T15:15"),
    ),
    "Troll springs by two hours": (
        "Antarctica/Troll",
        "0 2 * * *",
        "2026-03-28T12:00",
        ("2026-03-29T01:00", "2026-03-30T00:00"),
    ),
    "Samoa skips a whole day": (
        "Pacific/Apia",
        "0 12 * * *",
        "2011-12-29T12:00",
        ("2011-12-29T22:00", "2011-12-30T10:00", "2011-12-30T22:00"),
    ),
    "every half hour follows real time through Berlin's repeated hour": (
        "Europe/Berlin",
        "*/30 * * * *",
        "2026-10-25T00:00",
        ("2026-10-25T00:30", "2026-10-25T01:00", "2026-10-25T01:30"),
    ),
    "half hours of one repeated hour run once each": (
        "Europe/Berlin",
        "*/30 2 * * *",
        "2026-10-24T12:00",
        ("2026-10-25T00:00", "2026-10-25T00:30", "2026-10-26T01:00"),
    ),
    "half hours of one missing hour run once together": (
        "Europe/Berlin",
        "*/30 2 * * *",
        "2026-03-28T12:00",
        ("2026-03-29T01:00", "2026-03-30T00:00"),
    ),
}


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize("name", TRANSITIONS)
def test_a_line_survives_a_change_of_the_clock(name: str) -> None:
    zone, line, begin, runs = TRANSITIONS[name]
    found = islice(calendar.after(calendar.parse(line, zone), utc(begin)), len(runs))
    assert tuple(found) == tuple(utc(run) for run in runs)


ZONES = ("Europe/Berlin", "America/Havana", "Australia/Lord_Howe", "Asia/Beirut", "UTC")
LINES = ("30 2 * * *", "*/20 * * * *", "0 0 * * 0", "15,45 1-3 * * *", "0 */6 1 * *")


@given(
    zone=st.sampled_from(ZONES),
    line=st.sampled_from(LINES),
    minute=st.integers(-1_000_000, 1_000_000),
    skip=st.integers(0, 9),
)
def test_runs_are_in_order_and_the_same_from_wherever_one_starts(
    zone: str, line: str, minute: int, skip: int
) -> None:
    cron, start = calendar.parse(line, zone), NOON + timedelta(minutes=minute)
    runs = list(islice(calendar.after(cron, start), 12))
    assert runs[0] > start
    assert all(earlier < later for earlier, later in pairwise(runs))
    assert list(islice(calendar.after(cron, runs[skip]), 2)) == runs[skip + 1 :][:2]


@pytest.mark.parametrize(
    "line", ["", "* * * *", "61 * * * *", "0 0 31 2 *", "* * * * * *", "@often"]
)
def test_a_line_that_is_none_is_refused_with_the_fields(line: str) -> None:
    with pytest.raises(BadRequest, match="minute hour day month weekday") as caught:
        calendar.parse(line, "UTC")
    assert caught.value.param == "cron"


@pytest.mark.parametrize("zone", ["", "Berlin", "../etc/passwd", "Mars/Olympus"])
def test_a_zone_that_is_none_is_refused_with_an_example(zone: str) -> None:
    with pytest.raises(BadRequest, match="Europe/Berlin") as caught:
        calendar.parse("@daily", zone)
    assert caught.value.param == "timezone"


def test_what_is_not_due_yet_stays_where_it_is() -> None:
    cron, later = calendar.parse("@hourly", "UTC"), NOON + timedelta(hours=1)
    decided = calendar.due(cron, later, NOON, CatchUpPolicy.ALL)
    assert (decided.fire, decided.missed, decided.next_at) == ((), (), later)


# hours since the last run: what each way of catching up starts of 10:00, 11:00, 12:00
@pytest.mark.parametrize(
    ("catch_up", "late_s", "started"),
    [
        (CatchUpPolicy.NONE, 0, (12,)),
        (CatchUpPolicy.NONE, 60, (12,)),
        (CatchUpPolicy.NONE, 61, ()),
        (CatchUpPolicy.LAST, 61, (12,)),
        (CatchUpPolicy.ALL, 61, (10, 11, 12)),
    ],
)
def test_missed_runs_are_caught_up_as_told(
    catch_up: CatchUpPolicy, late_s: int, started: tuple[int, ...]
) -> None:
    cron, first = calendar.parse("@hourly", "UTC"), NOON - timedelta(hours=2)
    decided = calendar.due(cron, first, NOON + timedelta(seconds=late_s), catch_up)
    assert tuple(run.hour for run in decided.fire) == started
    assert len(decided.fire) + len(decided.missed) == 3
    assert decided.next_at == NOON + timedelta(hours=1)


@pytest.mark.parametrize(("catch_up", "total"), [("all", 1441), ("last", 1)])
def test_a_day_missed_by_the_minute_is_decided_in_bursts(
    catch_up: str, total: int
) -> None:
    cron, at = calendar.parse("* * * * *", "UTC"), NOON - timedelta(days=1)
    fired: list[datetime] = []
    while at <= NOON:
        decided = calendar.due(cron, at, NOON, CatchUpPolicy(catch_up))
        assert len(decided.fire) <= calendar.BURST
        assert decided.next_at is not None
        fired, at = [*fired, *decided.fire], decided.next_at
    assert (len(fired), len(set(fired)), fired[-1]) == (total, total, NOON)


def test_jitter_is_the_same_for_all_and_another_for_each_run() -> None:
    runs = [NOON + timedelta(hours=n) for n in range(200)]
    found = [calendar.jitter("s1", run, 600) for run in runs]
    assert found == [calendar.jitter("s1", run, 600) for run in runs]
    assert len(set(found)) > 190
    assert timedelta(0) <= min(found) < timedelta(seconds=60)
    assert timedelta(seconds=540) < max(found) < timedelta(seconds=600)
    assert calendar.jitter("s1", NOON, 0) == timedelta(0)
    assert calendar.jitter("s2", NOON, 600) != found[0]


def test_the_next_runs_are_said_in_local_words() -> None:
    cron = calendar.parse("30 7 * * 1-5", "Europe/Berlin")
    assert calendar.upcoming(cron, NOON) == (
        "Tue 2026-05-05 07:30 CEST",
        "Wed 2026-05-06 07:30 CEST",
        "Thu 2026-05-07 07:30 CEST",
    )
