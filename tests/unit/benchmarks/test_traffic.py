"""What a stream's reader saw, judged against what was to be read."""

import pytest

from benchmarks.common.figures import p99
from benchmarks.common.traffic import Told


def told(*pieces: str, error: str | None = None) -> Told:
    return Told(
        asked_at=10.0,
        expected=["a", "b", "a", "b"],
        pieces=list(pieces),
        times=[11.0, 11.5, 14.0, 14.1][: len(pieces)],
        error=error,
    )


@pytest.mark.parametrize(
    ("seen", "is_whole", "is_doubled"),
    [
        (told("a b", " a", " b"), True, False),
        (told("a b", " a"), False, False),
        (told("a b", " a", " b", error="CloudUnreachable"), False, False),
        (told("a b", " b"), False, True),
        (told("a b", " a", " b", " a"), False, True),
        (told(), False, False),
    ],
    ids=["whole", "short", "broken off", "a gap", "too long", "nothing"],
)
def test_a_stream_is_whole_or_short_or_doubled(
    seen: Told, is_whole: bool, is_doubled: bool
) -> None:
    assert (seen.is_whole, seen.is_doubled) == (is_whole, is_doubled)


def test_a_stream_has_a_first_text_and_a_longest_pause() -> None:
    seen = told("a", " b", " a")
    assert (seen.first_s, seen.pause_s) == (1.0, 2.5)
    assert (told().first_s, told().pause_s) == (None, 0.0)


@pytest.mark.parametrize(
    ("values", "expected"), [([3.0], 3.0), ([2.0, 9.0, 1.0], 9.0), (range(200), 197)]
)
def test_one_in_a_hundred_exceeds_p99(values: list[float], expected: float) -> None:
    assert p99(list(values)) == expected
