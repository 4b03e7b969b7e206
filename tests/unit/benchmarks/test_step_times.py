"""How long a pass takes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.simulator import step_times
from benchmarks.simulator.step_times import StepTimes

HEADER = "gpu,model,tp,num_tokens,layer_ms_median_sum\n"


@given(st.integers(1, 8192), st.integers(1, 8192), st.sampled_from(step_times.GPUS))
def test_more_tokens_never_take_less_time(one: int, other: int, gpu: str) -> None:
    times = step_times.load(None)[gpu]
    few, many = sorted((one, other))
    assert times.seconds(few) <= times.seconds(many)


def test_a_faster_gpu_is_faster_at_every_size() -> None:
    gpus = step_times.load(None)
    for tokens in (1, 8, 100, 2048):
        times = [gpus[name].seconds(tokens) for name in ("a40", "a100", "h100")]
        assert times == sorted(times, reverse=True)


def test_a_prompt_over_the_budget_takes_several_passes() -> None:
    times = StepTimes([(1, 1.0), (100, 2.0)])
    assert times.prefill_s(250, 100) == pytest.approx(2 * 2.0 + times.seconds(50))
    assert times.prefill_s(0, 100) == 0.0


def test_measured_times_are_of_one_layer_of_the_one_model(tmp_path: Path) -> None:
    (tmp_path / "vidur").mkdir()
    rows = "".join(
        f"{gpu},{model},{tp},{tokens},{ms}\n"
        for gpu in step_times.GPUS
        for model, tp, tokens, ms in (
            (step_times.MODEL, 1, 2, 2.0),
            (step_times.MODEL, 1, 1, 1.0),
            (step_times.MODEL, 8, 1, 99.0),
            ("another", 1, 1, 99.0),
        )
    )
    (tmp_path / "vidur" / "linear_layer_times.csv").write_text(HEADER + rows)
    times = step_times.load(tmp_path)["h100"]
    assert times.seconds(1) == pytest.approx(step_times.LAYERS * 1.0 / 1000)
    assert times.seconds(2) == pytest.approx(step_times.LAYERS * 2.0 / 1000)
