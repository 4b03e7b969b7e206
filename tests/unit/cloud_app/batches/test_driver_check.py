"""Names of a batch's lines, each in a few bytes."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from cloud_app.batches.driver import DigestSet


@given(st.lists(st.text(max_size=3), max_size=40))
def test_a_name_is_new_once(names: list[str]) -> None:
    seen, known = DigestSet(), set[str]()
    for name in names:
        assert seen.add(name) == (name not in known)
        known.add(name)
    assert len(seen) == len(known)


def test_it_grows_and_forgets_nothing() -> None:
    seen = DigestSet()
    names = [f"line-{n}" for n in range(5_000)]
    assert all(seen.add(name) for name in names)
    assert not any(seen.add(name) for name in names)


def test_a_name_takes_a_few_bytes() -> None:
    tracemalloc.start()
    try:
        seen = DigestSet()
        for n in range(50_000):
            seen.add(f"line-{n}")
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 50_000 * 32
    assert most < 50_000 * 48  # two tables for a moment, while it grows
