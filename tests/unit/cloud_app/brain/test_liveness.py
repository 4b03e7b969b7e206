import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_app.brain.liveness import is_mass_silence, liveness
from cloud_app.brain.views import Liveness
from fixtures.views import fleet, worker


@pytest.mark.parametrize(
    ("age_s", "state"),
    [
        (0, Liveness.ONLINE),
        (45, Liveness.ONLINE),
        (45.1, Liveness.LATE),
        (90, Liveness.LATE),
        (90.1, Liveness.OFFLINE),
        (300, Liveness.OFFLINE),
        (300.1, Liveness.LOST),
        (1e9, Liveness.LOST),
    ],
)
def test_liveness_follows_the_clock(age_s: float, state: Liveness) -> None:
    assert liveness(age_s) is state


@pytest.mark.parametrize(
    ("ages", "answer"),
    [
        ([], False),
        ([400], False),
        ([5, 5], False),
        ([100, 5], False),
        ([100, 110], True),
        ([50, 60, 70, 5, 5], True),
        ([100, 110, 120, 5, 5, 5], False),
        ([100, 200, 300, 5, 5], False),
        ([5, 5, 5000, 6000, 7000, 8000], False),
        ([100, 5, 5000, 6000], False),
        ([5000, 9000, 70000], True),
    ],
    ids=[
        "an empty fleet",
        "one worker alone",
        "all online",
        "half is not more than half",
        "two of two",
        "three of five at once, late already counts",
        "three of six",
        "three of five, each on its own",
        "workers gone for long do not count",
        "one of the two heard of lately",
        "nobody is there at all",
    ],
)
def test_mass_silence_is_more_than_half_at_once(ages: list[int], answer: bool) -> None:
    hosts = (worker(f"w{n}", age_s=age) for n, age in enumerate(ages))
    assert is_mass_silence(fleet(*hosts)) is answer


@given(st.integers(2, 60), st.integers(1, 59), st.floats(46, 540))
def test_a_minority_is_never_a_mass(count: int, silent: int, age_s: float) -> None:
    silent = min(silent, count // 2)
    hosts = [worker(f"w{n}", age_s=age_s if n < silent else 1) for n in range(count)]
    assert not is_mass_silence(fleet(*hosts))
