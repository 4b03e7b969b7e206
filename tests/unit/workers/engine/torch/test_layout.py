"""Which slots are read together, without a tensor in sight."""

from hypothesis import given
from hypothesis import strategies as st

from workers.engine.torch.layout import PROGRAMS, parts_of, spans

SLOTS = st.sets(st.integers(0, 40), max_size=20).map(sorted)


def test_slots_of_one_length_are_read_in_one_call() -> None:
    (found,) = spans([0, 1, 2], [50, 50, 50], call_keys=0)
    assert (found.low, found.high, found.reach, found.has_gaps) == (0, 3, 50, False)


def test_a_long_one_among_short_ones_is_read_apart() -> None:
    found = spans([0, 1, 2, 3, 4], [10, 10, 900, 10, 10], call_keys=100)
    assert [(one.low, one.high) for one in found] == [(0, 2), (2, 3), (3, 5)]


def test_a_call_that_costs_more_than_it_saves_is_not_made() -> None:
    (found,) = spans([0, 1, 7], [10, 300, 10], call_keys=10_000)
    assert (found.low, found.high, found.has_gaps) == (0, 8, True)


def test_nobody_decoding_needs_no_call() -> None:
    assert spans([], [], call_keys=5) == ()


@given(SLOTS, st.data(), st.integers(0, 500))
def test_every_row_is_in_one_span_that_reaches_far_enough(
    slots: list[int], data: st.DataObject, call_keys: int
) -> None:
    reach = st.integers(1, 400)
    lengths = data.draw(st.lists(reach, min_size=len(slots), max_size=len(slots)))
    found = spans(slots, lengths, call_keys)
    rows = [row for one in found for row in range(one.first, one.end)]
    assert rows == list(range(len(slots)))
    for one in found:
        for row in range(one.first, one.end):
            assert one.low <= slots[row] < one.high
            assert lengths[row] <= one.reach
    # Never dearer than one call for all.
    if found:
        whole = (slots[-1] - slots[0] + 1) * max(lengths)
        together = sum(one.keys for one in found) + call_keys * (len(found) - 1)
        assert together <= whole


@given(st.integers(1, 5000), st.integers(1, 2000))
def test_few_different_numbers_of_parts_are_ever_asked_for(
    programs: int, blocks: int
) -> None:
    parts = parts_of(programs, blocks)
    assert parts in {1, 2, 4, 8, 16, 32, 64}
    assert parts <= blocks
    assert parts == 1 or parts * programs <= PROGRAMS
