"""`genie top`: the snapshot, one frame of any size, and what each part says."""

import json
import time
from collections.abc import Callable
from itertools import chain, repeat

import httpx2
import msgspec
import pytest
from click.testing import Result
from rich.console import Console

from fixtures.twin_cloud import TwinCloud
from genie.api_types import (
    FiguresAnswer,
    FleetAnswer,
    GpuAnswer,
    JobLine,
    QueueAnswer,
    ReasonAnswer,
    WorkerAnswer,
    WorkerModel,
)
from genie.cli import top
from genie.cli.top import FleetWatcher
from genie.contracts.fleet import ModelState
from genie.contracts.inference import JobState
from genie.errors import Unauthorized

Run = Callable[..., Result]

URL = "http://genie.example.com"
GIB = 1024**3
NOW = 1_700_000_000.0


def gpu(index: int, used: float = 6) -> GpuAnswer:
    return GpuAnswer(
        name="RTX 4090",
        index=index,
        memory_total_bytes=24 * GIB,
        memory_used_bytes=round(used * GIB),
        utilization_percent=87.0,
        temperature_c=61.0,
    )


def worker(number: int, **facts: object) -> WorkerAnswer:
    held = WorkerModel(
        model="qwen3:8b",
        state=ModelState.READY,
        slots=16,
        in_flight=4,
        tokens_per_s=412.0,
    )
    made = WorkerAnswer(
        id=f"01hx3kabcdefghjkmnpqrstv{number:02}",
        name=f"gpu-{number}",
        state="online",
        gpus=(gpu(0),),
        models=(held,),
        last_heartbeat_s=12.0,
    )
    return msgspec.structs.replace(made, **facts)


def job(number: int, state: JobState = JobState.COMPLETED) -> JobLine:
    is_open = state in (JobState.RUNNING, JobState.QUEUED)
    return JobLine(
        id=f"01hx3kabcdefghjkmnpqrstv{number:02}",
        status=state,
        persona="review",
        model="qwen3:8b",
        worker="gpu-1",
        created_at=NOW - 90,
        finished_at=None if is_open else NOW - 80,
    )


def queue(waiting: int, kind: str = "interactive", age: float = 4.2) -> QueueAnswer:
    return QueueAnswer(
        queue="genie",
        model="qwen3:8b",
        work_class=kind,
        waiting=waiting,
        oldest_s=age if waiting else None,
        sla_s=30.0,
    )


FLEET = FleetAnswer(
    org="acme",
    now=NOW,
    figures=FiguresAnswer(tokens_per_s=431.2, running=3, waiting=2, failed_1h=1),
    workers=(worker(1), worker(2, state="lost", gpus=(gpu(0, 23.5), gpu(1)))),
    queues=(queue(2), queue(7, "batch", 45.0)),
    jobs=(job(1, JobState.RUNNING), job(2)),
    routes=(
        ReasonAnswer(
            personas=("review",), model="qwen3:8b", share=0.75, why="smallest that fits"
        ),
        ReasonAnswer(personas=("heavy",), why="no worker can run qwen3:32b"),
    ),
)


def drawn(
    fleet: FleetAnswer, width: int = 80, height: int | None = None, **words: str
) -> list[str]:
    console = Console(width=width, height=height, color_system=None)
    with console.capture() as captured:
        console.print(top.frame(fleet, url=URL, width=width, height=height, **words))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_a_frame_says_what_machines_models_queues_jobs_and_routes_do() -> None:
    text = "\n".join(drawn(FLEET, 120))
    for part in (
        "acme · http://genie.example.com · 2 workers · 3 GPUs",
        "431 tokens/s   3 running   2 waiting",
        "1 failed in 1 h",
        "gpu0 ██░░░░░░░░ 6.0/24.0 GiB",
        "gpu0 ██████████ 23.5/24.0 GiB",
        "gpu1 ██",
        "87% 61°C",
        "█░░░ 4/16",
        "review   qwen3:8b",
        "75%",
        "smallest that fits",
        "nowhere now",
    ):
        assert part in text


def test_what_needs_a_look_comes_first() -> None:
    lines = drawn(FLEET, 120)
    assert lines[4].startswith("gpu-2   lost")
    assert next(line for line in lines if line.startswith("01hx")).endswith(
        " 90 s  90 s"
    )


def test_what_waits_is_counted_by_class_with_the_oldest_of_all() -> None:
    (row,) = [line for line in drawn(FLEET, 120) if line.startswith("genie ")]
    assert row.split() == ["genie", "qwen3:8b", "2", "0", "7", "45", "s", "30", "s"]


CROWD = msgspec.structs.replace(
    FLEET,
    workers=tuple(worker(n) for n in range(1, 31)),
    jobs=tuple(job(n) for n in range(40)),
)


@pytest.mark.parametrize("fleet", [FLEET, CROWD])
@pytest.mark.parametrize(
    ("width", "height"),
    [
        (30, 24),
        (40, 24),
        (60, 24),
        (80, 24),
        (100, 30),
        (120, 40),
        (150, 24),
        (170, 45),
        (220, 60),
    ],
)
def test_a_frame_fits_its_terminal_and_cuts_no_id(
    fleet: FleetAnswer, width: int, height: int
) -> None:
    lines = drawn(fleet, width, height, hint="q leaves")
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert lines[0].endswith("q leaves")
    text = "\n".join(lines)
    assert fleet.jobs[0].id in text
    for heading in ("worker", "model", "interactive", "job", "persona"):
        assert heading in text


def test_a_long_part_says_how_much_more_there_is() -> None:
    assert sum("more" in line for line in drawn(CROWD, 80, 24)) == 3
    assert not any(" more" in line for line in drawn(CROWD, 80))


def test_an_empty_fleet_says_what_to_do() -> None:
    lines = drawn(FleetAnswer(org="acme", now=NOW))
    assert any("`genie worker token`" in line for line in lines)


def test_a_cloud_that_is_away_is_told_in_place_of_old_figures() -> None:
    lines = drawn(FLEET, 80, 24, trouble="as of 9 s ago: cannot reach the cloud")
    assert lines[1] == "as of 9 s ago: cannot reach the cloud"


@pytest.mark.parametrize("args", [("top",), ("top", "--once")])
def test_a_pipe_gets_one_plain_frame(
    run: Run, cloud: TwinCloud, args: tuple[str, ...]
) -> None:
    cloud.replies["GET /v1/fleet"] = msgspec.to_builtins(FLEET)
    done = run(*args)
    assert done.exit_code == 0
    assert "\x1b" not in done.stdout
    assert FLEET.jobs[0].id in done.stdout
    assert len(cloud.requests) == 1


def test_a_terminal_gets_one_frame_with_once(run: Run, cloud: TwinCloud) -> None:
    cloud.replies["GET /v1/fleet"] = msgspec.to_builtins(FLEET)
    assert "acme" in run("top", "--once", terminal=True).stdout


def test_json_is_the_snapshot(run: Run, cloud: TwinCloud) -> None:
    cloud.replies["GET /v1/fleet"] = msgspec.to_builtins(FLEET)
    found = json.loads(run("top", "--json").stdout)
    assert found["figures"]["running"] == 3
    assert found["workers"][0]["name"] == "gpu-1"
    assert found["queues"][0]["class"] == "interactive"


def test_a_cloud_that_comes_back_is_seen_again(cloud: TwinCloud) -> None:
    away = httpx2.ConnectError("refused")
    seen = msgspec.to_builtins(FLEET)
    cloud.replies["GET /v1/fleet"] = chain([away, away], repeat(seen))
    watch = FleetWatcher(cloud.client(), jobs=5, every_s=0.001)
    watch.start(FLEET)
    until(lambda: watch.away is not None or watch.fleet is not FLEET)
    until(lambda: watch.fleet is not FLEET)
    assert watch.away is None
    watch.stop()
    assert cloud.requests[-1].url.params["jobs"] == "5"


def test_a_key_that_is_revoked_ends_the_watch(cloud: TwinCloud) -> None:
    gone = {"error": {"message": "revoked; make a new key", "code": "invalid_api_key"}}
    cloud.replies["GET /v1/fleet"] = httpx2.Response(401, json=gone)
    watch = FleetWatcher(cloud.client(), jobs=5, every_s=0.001)
    watch.start(FLEET)
    until(lambda: watch.fatal is not None)
    assert isinstance(watch.fatal, Unauthorized)
    assert watch.fleet is FLEET


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not done():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_job_that_began_since_the_last_heartbeat_counts() -> None:
    held = msgspec.structs.replace(FLEET.workers[0].models[0], in_flight=0)
    running = tuple(job(n, JobState.RUNNING) for n in range(3))
    fleet = msgspec.structs.replace(
        FLEET, workers=(worker(1, models=(held,)),), jobs=running
    )
    assert any("█░░░ 3/16" in line for line in drawn(fleet))
