from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_app.brain import capacity
from cloud_app.brain.capacity import Fit, NoFit, fit
from fixtures.views import GB, MODELS, NOW, SHIPPED, gpu, placement, ready, worker
from genie import catalog, engines, memory
from genie.contracts.fleet import EngineFacts, EngineMemory, ModelState
from genie.contracts.model import Quant

SMALL, CODER = SHIPPED.models["smollm2:135m"], SHIPPED.models["qwen2.5-coder:7b"]


def fitted(found: Fit | NoFit) -> Fit:
    assert isinstance(found, Fit), found
    return found


def refused(found: Fit | NoFit) -> NoFit:
    assert isinstance(found, NoFit), found
    return found


@pytest.mark.parametrize(
    ("model", "device", "memory_gb", "quant", "slots", "context"),
    [
        ("smollm2:135m", "cpu", 24, "f32", 4, 4096),
        ("smollm2:135m", "cuda", 24, "f32", 8, 8192),
        ("smollm2:135m", "cpu", 1.2, "f32", 1, 4096),
        ("smollm2:135m", "cpu", 1.05, "f32", 1, 1024),
        ("qwen3:0.6b", "cuda", 24, "bf16", 8, 8192),
        ("qwen3:0.6b", "cpu", 24, "f32", 4, 4096),
        ("qwen2.5-coder:7b", "cuda", 80, "bf16", 8, 8192),
        ("qwen2.5-coder:7b", "cuda", 18, "bf16", 1, 8192),
    ],
)
def test_slots_shrink_before_the_context_does(
    model: str, device: str, memory_gb: float, quant: str, slots: int, context: int
) -> None:
    host = worker(device=device, memory_gb=memory_gb)
    found = fitted(fit(SHIPPED.models[model], host))
    assert (found.quant.name, found.slots, found.context) == (quant, slots, context)


def test_a_worker_without_the_engine_is_refused() -> None:
    bare = replace(worker(), engines=(engines.assumed("echo"),))
    assert refused(fit(SMALL, bare)).reasons == ("cpu-1 has no transformers engine",)


def test_a_model_without_a_quant_for_the_device_is_refused() -> None:
    assert "runs on cpu" in refused(fit(CODER, worker())).reasons[0]


def test_a_model_too_big_is_refused_with_both_sizes() -> None:
    reasons = refused(fit(CODER, gpu(memory_gb=8))).reasons
    assert reasons == ("needs 17.2 GB and gpu-1 has 8.0 GB",)


def test_a_model_that_takes_all_there_is_fits_and_a_byte_more_does_not() -> None:
    # One slot of the least context: nothing smaller could be loaded instead.
    least = capacity.smallest(CODER, "cuda", engines.assumed(CODER.engine))
    assert fitted(fit(CODER, gpu(), free_bytes=least)).need.total == least
    assert isinstance(fit(CODER, gpu(), free_bytes=least - 1), NoFit)


def test_a_request_that_fills_the_context_to_its_end_is_served() -> None:
    assert fitted(fit(SMALL, worker(), min_context=4096)).context == 4096
    assert refused(fit(SMALL, worker(), min_context=4097)).context_max == 4096


def test_files_that_take_all_of_the_disk_fit() -> None:
    size = min(quant.weight_bytes for quant in SMALL.quants)
    assert isinstance(fit(SMALL, replace(worker(), disk_free_bytes=size)), Fit)
    assert isinstance(fit(SMALL, replace(worker(), disk_free_bytes=size - 1)), NoFit)


def test_a_request_over_the_served_context_is_refused_with_both_numbers() -> None:
    found = refused(fit(SMALL, worker(), min_context=5000))
    assert found.context_max == 4096
    assert "5000 tokens" in found.reasons[0]
    assert "4096" in found.reasons[0]


def test_the_context_never_shrinks_below_what_is_asked() -> None:
    host = worker(memory_gb=1.05)
    assert fitted(fit(SMALL, host)).context == 1024
    assert isinstance(fit(SMALL, host, min_context=4096), NoFit)


def test_a_full_disk_is_refused_unless_the_files_are_there() -> None:
    full = replace(worker(), disk_free_bytes=GB // 10)
    assert "of disk" in refused(fit(SMALL, full)).reasons[0]
    cached = msgspec.structs.replace(ready(SMALL.id), state=ModelState.ON_DISK)
    assert isinstance(fit(SMALL, replace(full, models=(cached,))), Fit)
    own = msgspec.structs.replace(SMALL, source="path:/models/small")
    assert isinstance(fit(own, full), Fit)


def test_a_smaller_quant_is_tried_when_the_first_does_not_fit() -> None:
    small = Quant(name="int8", dtype="int8", weight_bytes=CODER.parameters)
    spec = msgspec.structs.replace(CODER, quants=(*CODER.quants, small))
    assert fitted(fit(spec, gpu(memory_gb=12))).quant.name == "int8"


def test_a_measured_peak_counts_when_it_is_more_than_the_arithmetic() -> None:
    spot = placement(SMALL.id)
    quant = SMALL.quants[0]
    need = memory.need(SMALL, quant, slots=spot.slots, context=spot.context).total
    low = replace(
        worker(), models=(msgspec.structs.replace(ready(SMALL.id), peak_bytes=1),)
    )
    high = replace(
        worker(), models=(msgspec.structs.replace(ready(SMALL.id), peak_bytes=9 * GB),)
    )
    assert capacity.held_bytes(SMALL, low, spot) == need
    assert capacity.held_bytes(SMALL, high, spot) == 9 * GB


def test_a_quant_the_catalog_no_longer_has_counts_as_measured() -> None:
    spot = replace(placement(SMALL.id), quant="gone", since=NOW)
    assert capacity.held_bytes(SMALL, worker(), spot) == 0


@given(
    st.sampled_from(MODELS),
    st.sampled_from(["cpu", "cuda"]),
    st.integers(0, 200),
    st.integers(0, 9000),
)
def test_a_fit_never_takes_more_than_there_is(
    model: str, device: str, memory_gb: int, min_context: int
) -> None:
    host = worker(device=device, memory_gb=memory_gb)
    found = fit(SHIPPED.models[model], host, min_context=min_context)
    if isinstance(found, Fit):
        assert found.need.total <= host.memory_bytes
        assert min_context <= found.context <= SHIPPED.models[model].context_max
        assert found.slots >= 1


@given(st.sampled_from(MODELS), st.integers(0, 200 * GB), st.integers(0, 50 * GB))
def test_more_memory_never_turns_a_fit_into_a_refusal(
    model: str, free: int, more: int
) -> None:
    spec, host = SHIPPED.models[model], gpu(memory_gb=300)
    less = fit(spec, host, free_bytes=free)
    if isinstance(less, Fit):
        better = fitted(fit(spec, host, free_bytes=free + more))
        assert (better.context, better.slots) >= (less.context, less.slots)


@pytest.mark.parametrize(
    ("text", "least"),
    [
        ("", 0),
        (" " * 300, 3),
        ("one, two\nthree", 3),
        ("x" * 128, 1),
        ("x" * 129, 2),
        ("語" * 100, 3),
    ],
)
def test_a_text_takes_at_least_its_words_and_its_bytes(text: str, least: int) -> None:
    assert capacity.least_tokens(text) == least


@given(st.text(), st.text())
def test_more_text_never_takes_fewer_tokens(one: str, other: str) -> None:
    assert capacity.least_tokens(one + other) >= capacity.least_tokens(one)


class TestPlacesFromTheSource:
    WIDE = msgspec.structs.replace(
        catalog.load(catalog.ECHO).models["echo:small"],
        source="echo:?ms_per_token=10&slots=1024",
    )

    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    def test_the_source_says_how_many_whatever_memory_there_is(
        self, device: str
    ) -> None:
        host = replace(
            worker(device=device, memory_gb=0.001), engines=(engines.assumed("echo"),)
        )
        found = fitted(fit(self.WIDE, host))
        assert (found.slots, found.context, found.need.total) == (1024, 2048, 0)

    def test_without_a_word_of_slots_it_has_as_many_as_any_model(self) -> None:
        plain = msgspec.structs.replace(self.WIDE, source="echo:")
        host = replace(worker(), engines=(engines.assumed("echo"),))
        assert fitted(fit(plain, host)).slots == capacity.SLOTS["cpu"]


class TestWhatAnEngineServes:
    def test_a_source_the_engine_does_not_read_is_refused(self) -> None:
        odd = msgspec.structs.replace(SMALL, source="tiny:?slots=2")
        why = "the transformers engine of cpu-1 reads no tiny: source"
        assert refused(fit(odd, worker())).reasons == (why,)

    def test_only_quants_it_computes_are_chosen(self) -> None:
        facts = msgspec.structs.replace(
            engines.assumed("transformers"), dtypes=("bfloat16",)
        )
        host = replace(worker(), engines=(facts,))
        assert refused(fit(SMALL, host)).reasons
        both = msgspec.structs.replace(
            SMALL,
            quants=(
                *SMALL.quants,
                Quant(name="b", dtype="bfloat16", weight_bytes=1_000),
            ),
        )
        assert fitted(fit(both, host)).quant.name == "b"

    def test_a_gpu_is_no_place_for_an_engine_of_processors(self) -> None:
        facts = msgspec.structs.replace(
            engines.assumed("transformers"), devices=("cpu",)
        )
        assert refused(fit(CODER, replace(gpu(), engines=(facts,)))).reasons

    def test_one_that_a_worker_describes_is_planned_like_a_shipped_one(self) -> None:
        facts = EngineFacts(
            name="tiny", sources=("tiny",), memory=EngineMemory.NONE, devices=("cpu",)
        )
        spec = msgspec.structs.replace(SMALL, engine="tiny", source="tiny:?slots=9")
        found = fitted(fit(spec, replace(gpu(), engines=(facts,))))
        assert (found.slots, found.need.total) == (9, 0)
