"""What traffic is made of, recorded and drawn."""

import json
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.simulator import arrivals
from benchmarks.simulator.arrivals import SHAPES, Arrival


@pytest.mark.parametrize("name", SHAPES)
def test_drawn_traffic_has_the_shape_of_its_trace(name: str) -> None:
    shape = SHAPES[name]
    found = arrivals.drawn(shape, 60_000, seed=3)
    assert len(found) / found[-1].at == pytest.approx(shape.rate, rel=0.25)
    assert statistics.median(one.prompt for one in found) == pytest.approx(
        shape.prompt[1], rel=0.05
    )
    assert statistics.fmean(one.answer for one in found) == pytest.approx(
        shape.answer[0], rel=0.1
    )


def test_the_same_seed_draws_the_same_traffic() -> None:
    one, other, third = (arrivals.load("code", None, 50, seed) for seed in (1, 1, 2))
    assert one == other != third


def test_an_azure_file_starts_at_second_zero(tmp_path: Path) -> None:
    (tmp_path / "azure2023").mkdir()
    (tmp_path / "azure2023" / "AzureLLMInferenceTrace_code.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:03.5000000,4808,10\n"
        "2023-11-16 18:17:05.0000000,110,0\n"
    )
    first, second = arrivals.load("code", tmp_path, 10, seed=0)
    assert first == Arrival(at=0.0, prompt=4808, answer=10)
    assert second == Arrival(at=1.5, prompt=110, answer=1)


def test_mooncake_keeps_the_blocks_that_can_be_reused(tmp_path: Path) -> None:
    (tmp_path / "mooncake").mkdir()
    row = {"timestamp": 0, "input_length": 7, "output_length": 5, "hash_ids": [4, 2]}
    rows = [row, row | {"timestamp": 250}]
    (tmp_path / "mooncake" / "conversation_trace.jsonl").write_text(
        "\n".join(json.dumps(row) for row in rows)
    )
    _, second = arrivals.load("mooncake", tmp_path, 10, seed=0)
    assert second == Arrival(at=0.25, prompt=7, answer=5, blocks=(4, 2))


rates = st.floats(0.5, 200)


@given(rates, st.integers(0, 9))
def test_a_trace_laid_over_itself_has_the_rate_asked_for(
    rate: float, seed: int
) -> None:
    trace = arrivals.drawn(SHAPES["conversation"], 300, seed=1)
    found = arrivals.layered(trace, rate, 100, seed)
    times = [one.at for one in found]
    assert times == sorted(times)
    assert len(found) / (times[-1] - times[0]) == pytest.approx(rate)
    known = {(one.prompt, one.answer) for one in trace}
    assert all((one.prompt, one.answer) in known for one in found)


def test_what_a_worker_would_refuse_is_left_out() -> None:
    small, large = Arrival(at=0, prompt=5, answer=5), Arrival(at=1, prompt=6, answer=5)
    assert arrivals.fitting([small, large], context=10) == [small]
