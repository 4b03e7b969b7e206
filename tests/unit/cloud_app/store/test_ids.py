"""Ids sort by time and nobody can guess them."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from cloud_app.store import ids

MOMENTS = st.datetimes(
    min_value=datetime(1970, 1, 2),  # noqa: DTZ001  # hypothesis wants them naive
    max_value=datetime(2500, 1, 1),  # noqa: DTZ001  # hypothesis wants them naive
    timezones=st.just(UTC),
)


@given(one=MOMENTS, other=MOMENTS)
def test_ids_sort_by_the_time_they_were_made(one: datetime, other: datetime) -> None:
    first, second = sorted((one, other))
    if (second - first).total_seconds() >= 0.002:
        assert ids.new_id(first) < ids.new_id(second)


@given(one=st.integers(0, 2**128 - 1), other=st.integers(0, 2**128 - 1))
def test_larger_numbers_sort_later(one: int, other: int) -> None:
    assert (ids.encode(one) < ids.encode(other)) == (one < other)


def test_no_two_ids_are_alike() -> None:
    made = {ids.new_id() for _ in range(1000)}
    assert len(made) == 1000
    assert all(ids.is_id(each) for each in made)


def test_an_id_is_known_with_and_without_its_prefix() -> None:
    made = ids.new_id()
    assert ids.bare(f"chatcmpl-{made}") == ids.bare(f"cmpl-{made}") == made
    assert not ids.is_id(f"cmpl-{made}")
    assert not ids.is_id(made.upper())
