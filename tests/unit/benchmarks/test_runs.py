"""Whole runs: every policy serves everyone, and knowing more helps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.simulator import arrivals, runs, step_times
from benchmarks.simulator.arrivals import SHAPES
from benchmarks.simulator.policies import BASELINES, Credits
from benchmarks.simulator.runs import Result
from benchmarks.simulator.worker import Room

POLICIES = {**BASELINES, "credits": Credits}
ROOM = Room(slots=8, budget=2048)
GPUS = step_times.load(None)


def played(name: str, load: float = 0.7, seed: int = 0) -> Result:
    asked = arrivals.drawn(SHAPES["conversation"], 400, seed=5)
    fleet = [gpu for gpu in GPUS.values() for _ in range(2)]
    most = sum(2 * runs.capacity(gpu, ROOM, asked) for gpu in GPUS.values())
    heard = arrivals.at_rate(asked, load * most)
    return runs.run(fleet, ROOM, heard, POLICIES[name], seed)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_serves_every_request(name: str) -> None:
    result = played(name)
    assert result.ended == 400
    assert 0 < result.ttft_p50_s <= result.ttft_p99_s <= result.e2e_p99_s


def test_the_same_seed_gives_the_same_run() -> None:
    assert played("credits", seed=3) == played("credits", seed=3)


def test_workers_that_ask_beat_routers_that_guess() -> None:
    ours = played("credits").ttft_p99_s
    assert 5 * ours < played("round robin").ttft_p99_s
    assert 5 * ours < played("stale least-loaded").ttft_p99_s


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_equal_machines_share_evenly_when_they_ask(load: float) -> None:
    fleet = [GPUS["a100"]] * 6
    asked = arrivals.drawn(SHAPES["conversation"], 1500, seed=5)
    rate = load * 6 * runs.capacity(fleet[0], ROOM, asked)
    result = runs.run(fleet, ROOM, arrivals.at_rate(asked, rate), Credits)
    assert result.least > 0.75


def test_a_faster_gpu_ends_more_requests() -> None:
    asked = arrivals.drawn(SHAPES["conversation"], 200, seed=5)
    ends = [runs.capacity(GPUS[gpu], ROOM, asked) for gpu in step_times.GPUS]
    assert ends == sorted(ends)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_a_value_that_enough_do_not_exceed(
    values: list[float], share: float
) -> None:
    ordered = sorted(values)
    found = runs.quantile(ordered, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
