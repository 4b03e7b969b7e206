"""GPU figures, with whatever a driver leaves out."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from genie import env
from workers.engine.parent.process import ChildEnvironment
from workers.hardware import (
    MIB,
    GpuEntry,
    GpuQueryFailed,
    GpuReader,
    host_status,
    own_pids,
    status,
)
from workers.models import memory

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
    assert GpuReader(None, lambda: [gone, FULL]).read() == (status(FULL, frozenset()),)


def test_a_driver_lost_between_polls_is_an_empty_tuple_and_may_come_back() -> None:
    answers = iter([True, False, False, True])

    def query() -> list[GpuEntry]:
        if not next(answers):
            raise GpuQueryFailed("driver not loaded")
        return [FULL]

    gpus = GpuReader(None, query)
    assert [len(gpus.read()) for _ in range(4)] == [1, 0, 0, 1]


FOUR: list[GpuEntry] = [
    {**FULL, "index": index, "uuid": f"GPU-{letter}{index}-0"}
    for index, letter in enumerate("aabc")
]


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("2", [2]),
        ("3,1", [3, 1]),
        (" 1 , 2 ", [1, 2]),
        ("1,1,GPU-a1", [1]),
        ("GPU-c3-0", [3]),
        ("GPU-b,0", [2, 0]),
        ("GPU-a,3", []),  # two begin so: CUDA sees neither, nor what follows
        ("1,9,2", [1]),
        ("GPU-", []),
        ("b2", []),
        ("MIG-4f", []),
    ],
)
def test_only_the_gpus_the_operator_left_visible_are_there(
    monkeypatch: pytest.MonkeyPatch, said: str | None, seen: list[int]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if said is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
    gpus = GpuReader(env.visible_gpus(), lambda: FOUR)

    assert [gpu.index for gpu in gpus.read()] == seen


def test_a_gpu_that_fell_off_the_bus_hides_no_other() -> None:
    gone = {"index": 0, "uuid": "GPU-0", "memory.total": "?", "memory.used": "?"}
    gpus = GpuReader(("0", "1"), lambda: [gone, FULL])

    assert [gpu.index for gpu in gpus.read()] == [1]


def test_a_child_is_started_on_the_visible_gpu_by_the_drivers_number(
    tmp_path: Path,
) -> None:
    gpus = GpuReader(("GPU-c3",), lambda: FOUR).read()
    card, _memory = memory.devices(host_status(tmp_path), gpus)
    environment = ChildEnvironment.of(card.name, threads=1).variables()

    assert environment["CUDA_VISIBLE_DEVICES"] == "3"
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_a_host_reports_its_memory_and_the_disk_of_a_folder_not_yet_made(
    tmp_path: Path,
) -> None:
    host = host_status(tmp_path / "not" / "yet")
    assert 0 < host.memory_available_bytes <= host.memory_total_bytes
    assert host.disk_free_bytes > 0
    assert host.cpu_count >= 1


def test_this_process_is_one_of_ours() -> None:
    assert own_pids()
