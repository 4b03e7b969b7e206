"""What all engines share: figures that bids and heartbeats are made of."""

from collections.abc import Callable
from typing import Any

import pytest

from genie.contracts.inference import Sampling
from workers.engine.child.backend import ThroughputMeter
from workers.engine.protocol import waiting_bound

Make = Callable[..., Any]


def test_a_meter_follows_the_speed_it_sees() -> None:
    meter = ThroughputMeter()
    meter.note(decoded=10, prefilled=0, seconds=1.0)
    assert (meter.decode_rate, meter.prefill_rate) == (10.0, 0.0)
    for _ in range(50):
        meter.note(decoded=40, prefilled=100, seconds=1.0)
    assert meter.decode_rate == pytest.approx(40, rel=0.01)
    assert meter.prefill_rate == 100.0


def test_a_step_that_took_no_time_says_nothing() -> None:
    meter = ThroughputMeter()
    meter.note(decoded=10, prefilled=10, seconds=0.0)
    assert (meter.decode_rate, meter.prefill_rate) == (0.0, 0.0)


@pytest.mark.parametrize(("slots", "bound"), [(1, 16), (4, 16), (16, 64)])
def test_how_many_may_wait_grows_with_the_slots(slots: int, bound: int) -> None:
    assert waiting_bound(slots) == bound


def test_statistics_tell_what_runs_and_what_waits(
    bench: Make, request_for: Make
) -> None:
    engine = bench("llama", slots=2, context=64, budget=8)
    for name in "abc":
        sampling = Sampling(max_tokens=9, ignore_eos=True)
        engine.backend.submit(request_for(name, prompt="x" * 16, sampling=sampling))
    engine.step()
    stats = engine.backend.stats()
    assert (stats.active, stats.free_slots, stats.waiting) == (2, 0, 1)
    assert stats.kv_used == 8 / (2 * 64)
    assert stats.peak_bytes > 0
    engine.run()
    assert engine.backend.stats().free_slots == 2
    assert engine.backend.stats().kv_used == 0


def test_a_request_over_the_bound_is_told_the_bound(
    bench: Make, request_for: Make
) -> None:
    engine = bench("llama", slots=1)
    for index in range(66):
        engine.backend.submit(request_for(f"r{index}", prompt="x"))
    engine.run()
    fault = engine.finish("r65").fault
    assert fault is not None
    assert (fault.code, fault.retryable) == ("engine_busy", True)
    assert "64 requests already wait" in fault.message
    assert engine.finish("r64").fault is None
