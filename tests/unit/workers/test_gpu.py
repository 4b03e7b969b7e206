"""GPU figures, with whatever a driver leaves out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from workers.gpu import MIB, GpuQueryFailed, Gpus, host_status, own_pids, status


@dataclass(frozen=True)
class Card:
    """One GPU as gpustat gives it."""

    entry: Mapping[str, object]


FULL: dict[str, object] = {
    "index": 1,
    "uuid": "GPU-1",
    "name": "H100",
    "memory.total": 81_559,
    "memory.used": 3_000,
    "utilization.gpu": 7,
    "temperature.gpu": 40,
    "power.draw": 120,
    "processes": [
        {"pid": 10, "gpu_memory_usage": 1_000},
        {"pid": 11, "gpu_memory_usage": 500},
        {"pid": 12, "gpu_memory_usage": None},
    ],
}


def test_a_gpu_is_reported_in_bytes_with_what_others_hold() -> None:
    gpu = status(FULL, frozenset({10}))
    assert gpu is not None
    assert gpu.memory_total_bytes == 81_559 * MIB
    assert gpu.foreign_bytes == 500 * MIB
    assert (gpu.index, gpu.utilization_percent, gpu.power_w) == (1, 7.0, 120.0)


@pytest.mark.parametrize(
    "missing", ["utilization.gpu", "temperature.gpu", "power.draw", "processes", "name"]
)
def test_a_missing_field_costs_only_itself(missing: str) -> None:
    assert status({**FULL, missing: None}, frozenset()) is not None


@pytest.mark.parametrize("entry", [{"index": 0, "name": "lost"}, {}])
def test_a_gpu_that_fell_off_the_bus_is_left_out(entry: Mapping[str, object]) -> None:
    gone = {**entry, "memory.total": "?", "memory.used": "?"}
    assert Gpus(query=lambda: [Card(gone), Card(FULL)]).read() == (
        status(FULL, frozenset()),
    )


def test_a_driver_lost_between_polls_is_an_empty_tuple_and_may_come_back() -> None:
    answers = iter([True, False, False, True])

    def query() -> Iterable[Card]:
        if not next(answers):
            raise GpuQueryFailed("driver not loaded")
        return [Card(FULL)]

    gpus = Gpus(query=query)
    assert [len(gpus.read()) for _ in range(4)] == [1, 0, 0, 1]


def test_a_host_reports_its_memory_and_the_disk_of_a_folder_not_yet_made(
    tmp_path: Path,
) -> None:
    host = host_status(tmp_path / "not" / "yet")
    assert 0 < host.memory_available_bytes <= host.memory_total_bytes
    assert host.disk_free_bytes > 0
    assert host.cpu_count >= 1


def test_this_process_is_one_of_ours() -> None:
    assert own_pids()
