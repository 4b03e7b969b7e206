"""How many slots of which context a place holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genie import catalog, memory
from genie.memory import MemoryPool

MODELS = catalog.load().models
SMALL, LARGE = MODELS["smollm2:135m"], MODELS["qwen3:8b"]
GIB = 1024**3


def card(free_bytes: int) -> MemoryPool:
    return MemoryPool(name="cuda:0", kind="cuda", free_bytes=free_bytes)


@given(st.integers(0, 100 * GIB), st.sampled_from([512, 2048, 40960]))
def test_the_slots_fit_and_one_more_would_not(free: int, context: int) -> None:
    quant = LARGE.quants[0]
    found = memory.fit(LARGE, quant, card(free), context)
    if found.slots:
        assert found.need.total <= free
    if found.slots < memory.SLOTS_MAX:
        more = found.slots + 1
        need = memory.need(LARGE, quant, slots=more, context=context)
        assert need.total > free


def test_a_place_too_small_shows_what_one_request_would_need() -> None:
    found = memory.fit(LARGE, LARGE.quants[0], card(GIB), 2048)
    assert found.slots == 0
    assert found.need.total > 15 * GIB


def test_only_quants_that_run_there_are_shown() -> None:
    here = MemoryPool(name="cpu", kind="cpu", free_bytes=64 * GIB)
    assert list(memory.fits(LARGE, [here])) == []
    assert {one.quant for one in memory.fits(SMALL, [here])} == {"f32"}


@pytest.mark.parametrize(
    ("model", "asked", "shown"),
    [
        ("smollm2:135m", None, (2048, 8192)),
        ("qwen3:8b", None, (2048, 8192, 32768)),
        ("all-minilm:22m", None, (256,)),
        ("smollm2:135m", 100, (100,)),
        ("smollm2:135m", 100_000, (8192,)),
    ],
)
def test_no_context_is_longer_than_the_model_reads(
    model: str, asked: int | None, shown: tuple[int, ...]
) -> None:
    assert memory.contexts(MODELS[model], asked) == shown


def test_an_encoder_keeps_no_cache() -> None:
    spec = MODELS["all-minilm:22m"]
    found = memory.fit(spec, spec.quants[0], card(GIB), 256)
    assert found.need.kv_cache == 0
    assert found.slots == memory.SLOTS_MAX
