import msgspec
from hypothesis import given
from hypothesis import strategies as st

from genie import catalog, memory

MODELS = catalog.load().models
SMALL = MODELS["smollm2:135m"]
MIB = 1024**2


def test_the_kv_cache_of_16_slots_of_512_tokens_is_exactly_360_mib() -> None:
    need = memory.need(SMALL, SMALL.quants[0], slots=16, context=512)
    assert need.kv_cache == 360 * MIB


def test_the_weights_of_the_small_model_are_513_mib() -> None:
    assert SMALL.quants[0].weight_bytes // MIB == 513


def test_the_total_is_weights_cache_and_overhead() -> None:
    need = memory.need(SMALL, SMALL.quants[0], slots=4, context=1024)
    assert need.total == need.weights + need.kv_cache + need.overhead
    assert need.overhead > memory.OVERHEAD_BYTES


def test_the_echo_engine_has_no_overhead() -> None:
    echo = msgspec.structs.replace(SMALL, engine="echo")
    assert memory.need(echo, echo.quants[0], slots=1, context=1).overhead == 0


def test_the_cache_of_a_quantised_model_stays_16_bit() -> None:
    quant = msgspec.structs.replace(SMALL.quants[0], dtype="nf4")
    half = msgspec.structs.replace(SMALL.quants[0], dtype="bfloat16")
    per_token = memory.kv_bytes_per_token(SMALL, quant)
    assert per_token == memory.kv_bytes_per_token(SMALL, half) == 23_040


@given(st.sampled_from(sorted(MODELS)), st.integers(1, 64), st.integers(1, 40_000))
def test_more_slots_or_context_never_take_less(
    model: str, slots: int, context: int
) -> None:
    spec = MODELS[model]
    quant = spec.quants[0]
    need = memory.need(spec, quant, slots=slots, context=context).total
    assert need <= memory.need(spec, quant, slots=slots + 1, context=context).total
    assert need <= memory.need(spec, quant, slots=slots, context=context + 1).total
