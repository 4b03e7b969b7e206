"""When the cloud's own tasks run."""

from cloud_app import beat
from fixtures.clouds import Cloud
from genie import topology


def test_every_task_runs_and_no_backlog_is_replayed(cloud: Cloud) -> None:
    entries = beat.entries(cloud.ctx.settings)
    assert {entry["task"]: entry["schedule"] for entry in entries.values()} == {
        topology.TASK_GATHER: 10.0,
        topology.TASK_PLACE: 10.0,
        topology.TASK_RELAY: 5.0,
        topology.TASK_SWEEP: 30.0,
        topology.TASK_BURY: 10.0,
        topology.TASK_DRIVE: 1.0,
        topology.TASK_FIRE: 5.0,
        topology.TASK_TELL: 2.0,
        topology.TASK_TIDY: 3600.0,
    }
    for entry in entries.values():
        assert entry["options"]["expires"] == entry["schedule"]
