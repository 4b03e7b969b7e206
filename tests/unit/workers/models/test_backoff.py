"""When a failed model is tried again."""

from datetime import UTC, datetime, timedelta

from workers.models.backoff import FailureHistory

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def test_a_fresh_model_may_be_tried() -> None:
    assert FailureHistory().allows(START)


def test_a_failure_waits_30_s_and_the_second_a_minute() -> None:
    failures = FailureHistory()
    failures.note("no", START)
    assert (failures.retry_at, failures.allows(at(29))) == (at(30), False)
    assert failures.allows(at(30))
    failures.note("no", at(30))
    assert failures.retry_at == at(90)


def test_three_failures_in_ten_minutes_end_the_retries() -> None:
    failures = FailureHistory()
    for second in (0, 30, 90):
        failures.note("no", at(second))
    assert failures.retry_at is None
    assert not failures.allows(at(1e6))
    assert failures.reason == "no"


def test_failures_far_apart_never_end_the_retries() -> None:
    failures = FailureHistory()
    for minute in range(0, 100, 6):
        failures.note("no", at(60 * minute))
        assert failures.retry_at is not None


def test_a_final_failure_is_not_tried_again() -> None:
    failures = FailureHistory()
    failures.note("another fingerprint", START, is_final=True)
    assert not failures.allows(at(1e6))


def test_the_first_death_restarts_an_engine_at_once_and_the_second_waits() -> None:
    failures = FailureHistory()
    failures.note_death("killed", START)
    assert failures.allows(START)
    failures.note_death("killed", at(5))
    assert failures.retry_at == at(35)
    failures.note_death("killed", at(40))
    assert failures.retry_at is None


def test_deaths_at_work_make_a_model_rest_longer_but_never_for_good() -> None:
    failures = FailureHistory()
    waits = []
    for second in range(12):
        failures.note_death_at_work("a prompt did it", at(second))
        assert failures.retry_at is not None
        waits.append((failures.retry_at - at(second)).total_seconds())
    assert waits[:5] == [0, 0, 30, 60, 120]
    assert waits[-1] == 900
    failures.note_death_at_work("long after", at(3600))
    assert failures.allows(at(3600))


def test_success_clears_the_record() -> None:
    failures = FailureHistory()
    failures.note("no", START)
    failures.clear()
    assert failures.allows(START)
    assert failures.at == []
