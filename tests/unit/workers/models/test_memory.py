"""Does a model fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genie.contracts.fleet import DesiredModel, GpuStatus, HostStatus
from genie.contracts.model import ModelSpec, Quant
from genie.memory import MemoryNeed
from workers.models.memory import (
    GIB,
    Device,
    MemoryLimits,
    MemoryRefusal,
    devices,
    place,
    usable,
)

QUANT = Quant(name="bf16", dtype="bfloat16", weight_bytes=2 * GIB)
CPU_QUANT = Quant(name="f32", dtype="float32", weight_bytes=4 * GIB, devices=("cpu",))
GPU_QUANT = Quant(name="nf4", dtype="nf4", weight_bytes=GIB, devices=("cuda",))
NEED = MemoryNeed(weights=2 * GIB, kv_cache=GIB, overhead=GIB // 2)
NO_LIMITS = MemoryLimits(reserve_share=0.0)


def wanted(engine: str = "transformers") -> DesiredModel:
    spec = ModelSpec(
        id="qwen3:1b",
        family="qwen3",
        parameters=10**9,
        license="Apache-2.0",
        source="path:/models",
        context_max=4096,
        layers=1,
        kv_heads=1,
        head_dim=1,
        quants=(QUANT, CPU_QUANT, GPU_QUANT),
        engine=engine,
    )
    return DesiredModel(spec=spec, quant="bf16", slots=4, context=2048, reason="test")


def device(name: str, free_gib: float) -> Device:
    return Device(name=name, total=16 * GIB, free=int(free_gib * GIB))


@pytest.mark.parametrize(
    ("quant", "places", "chosen"),
    [
        (QUANT, [device("cpu", 8)], "cpu"),
        (QUANT, [device("cuda:0", 8), device("cpu", 99)], "cuda:0"),
        (QUANT, [device("cuda:0", 4), device("cuda:1", 6), device("cpu", 9)], "cuda:1"),
        (CPU_QUANT, [device("cuda:0", 8), device("cpu", 8)], "cpu"),
    ],
)
def test_the_emptiest_device_the_quant_runs_on_is_chosen(
    quant: Quant, places: list[Device], chosen: str
) -> None:
    assert place(wanted(), quant, NEED, places, NO_LIMITS) == chosen


def test_an_engine_that_runs_on_processors_never_takes_a_gpu() -> None:
    places = [device("cuda:0", 8), device("cpu", 8)]
    answer = place(wanted("echo"), QUANT, NEED, places, NO_LIMITS, kinds=("cpu",))
    assert answer == "cpu"


def test_a_model_too_big_is_refused_with_both_figures_and_a_next_step() -> None:
    limits = MemoryLimits(reserve_share=0.1)
    answer = place(wanted(), QUANT, NEED, [device("cpu", 4)], limits)
    assert isinstance(answer, MemoryRefusal)
    assert "needs 3.50 GiB" in answer.reason
    assert "2.40 GiB free of 16.00" in answer.reason
    assert "use fewer slots" in answer.reason


def test_a_gpu_quant_on_a_host_without_one_is_refused_by_name() -> None:
    answer = place(wanted(), GPU_QUANT, NEED, [device("cpu", 99)], NO_LIMITS)
    assert isinstance(answer, MemoryRefusal)
    assert "runs on cuda and this machine has cpu" in answer.reason


@pytest.mark.parametrize(
    ("free", "granted"),
    [
        ((3, 3, 3), "cuda:0,1"),
        ((1, 2, 3), "cuda:1,2"),
        ((1.5, 1.5, 1.5), "cuda:0,1,2"),
        ((1, 1, 1), None),
    ],
)
def test_a_model_too_big_for_one_gpu_gets_as_few_as_hold_it(
    free: tuple[float, ...], granted: str | None
) -> None:
    cards = [device(f"cuda:{at}", gib) for at, gib in enumerate(free)]
    answer = place(wanted(), QUANT, NEED, [*cards, device("cpu", 99)], NO_LIMITS)
    if granted is None:
        assert isinstance(answer, MemoryRefusal)
    else:
        assert answer == granted


def test_the_operators_limit_holds_for_several_gpus_together() -> None:
    cards = [device(f"cuda:{at}", 3) for at in range(3)]
    limits = MemoryLimits(reserve_share=0.0, limit_bytes=3 * GIB)
    assert isinstance(place(wanted(), QUANT, NEED, cards, limits), MemoryRefusal)


def test_the_operators_limit_counts_what_is_already_held() -> None:
    limits = MemoryLimits(reserve_share=0.0, limit_bytes=4 * GIB, held_bytes=GIB)
    assert usable(device("cpu", 16), limits) == 3 * GIB
    answer = place(wanted(), QUANT, NEED, [device("cpu", 16)], limits)
    assert isinstance(answer, MemoryRefusal)
    assert "limit 4.00" in answer.reason


def test_gpus_come_with_what_the_driver_says_is_free() -> None:
    host = HostStatus(
        cpu_count=1,
        memory_total_bytes=8,
        memory_available_bytes=5,
        disk_free_bytes=0,
    )
    gpu = GpuStatus(
        index=1, uuid="u", name="n", memory_total_bytes=10, memory_used_bytes=4
    )
    assert devices(host, (gpu,)) == (
        Device(name="cuda:1", total=10, free=6),
        Device(name="cpu", total=8, free=5),
    )


sizes = st.integers(0, 64 * GIB)


@given(sizes, sizes, st.floats(0, 0.99), st.one_of(st.none(), sizes), sizes)
def test_what_is_granted_always_fits_the_live_figure(
    free: int, need: int, share: float, limit: int | None, held: int
) -> None:
    limits = MemoryLimits(reserve_share=share, limit_bytes=limit, held_bytes=held)
    where = Device(name="cpu", total=64 * GIB, free=free)
    total = MemoryNeed(weights=need, kv_cache=0, overhead=0)
    answer = place(wanted(), QUANT, total, [where], limits)
    assert isinstance(answer, str) == (need <= usable(where, limits))
    assert usable(where, limits) <= free
