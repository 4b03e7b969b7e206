"""What a person sees who starts a process wrongly: what to mend, never a traceback."""

import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
WEB = ("genie", "web")
BRAIN = ("celery", "-A", "cloud_app", "worker")
BEAT = ("celery", "-A", "cloud_app", "beat", "--pidfile=")
WORKER = ("celery", "-A", "workers", "worker")
CLOUD = (WEB, BRAIN, BEAT)
EXIT = {WEB: 2, BRAIN: 1, BEAT: 1}
"""`genie` says of invalid settings what it says of wrong usage."""

SETTINGS = {
    "GENIE_BROKER_URL": "memory://",
    "GENIE_SECRET_KEY": "a long random text",
}


def started(
    command: Sequence[str], folder: Path, environ: dict[str, str]
) -> tuple[int, str]:
    """Exit status and everything printed by a process that cannot start."""
    base = {"PATH": str(BIN), "HOME": str(folder), "LANG": "C.UTF-8"}
    ran = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=folder,
        env={**base, **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ran.returncode, ran.stdout + ran.stderr


@pytest.mark.parametrize("command", CLOUD)
def test_every_missing_and_wrong_variable_is_named_at_once(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    wrong = {
        "GENIE_BROKER_URL": "redis://somewhere",
        "GENIE_HEARTBEAT_S": "soon",
        "GENIE_WEB_THREADS": "0",
        "GENIE_LOG_LEVEL": "loud",
    }
    status, said = started(command, tmp_path, wrong)
    assert status == EXIT[command]
    for name in (*wrong, "GENIE_DATABASE_URL", "GENIE_SECRET_KEY"):
        assert name in said
    assert "Traceback" not in said


def test_a_worker_names_every_missing_and_wrong_variable_at_once(
    tmp_path: Path,
) -> None:
    wrong = {
        "GENIE_WORKER_NAME": "a/b",
        "GENIE_THREADS": "0",
        "GENIE_MEMORY_RESERVE_SHARE": "2",
        "GENIE_LOG_LEVEL": "loud",
    }
    status, said = started(WORKER, tmp_path, wrong)
    assert status == 1
    for name in (*wrong, "GENIE_URL"):
        assert name in said
    assert "Traceback" not in said


@pytest.mark.parametrize("command", [WEB, BRAIN])
def test_an_old_schema_stops_the_boot_with_the_command_to_run(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    environ = {**SETTINGS, "GENIE_DATABASE_URL": f"sqlite:///{tmp_path}/old.db"}
    status, said = started(command, tmp_path, environ)
    assert status == EXIT[command]
    assert "run `genie db upgrade`" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("command", [WEB, BRAIN])
def test_a_typo_in_the_catalog_is_named_by_file_line_and_field(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text('[[models]]\nid = "a"\nfamliy = "b"\n')
    environ = {
        **SETTINGS,
        "GENIE_DATABASE_URL": f"sqlite:///{tmp_path}/new.db",
        "GENIE_CATALOG": str(catalog),
    }
    status, said = started(command, tmp_path, environ)
    assert status == EXIT[command]
    assert f"{catalog}:3: " in said
    assert "famliy" in said
    assert "Traceback" not in said


def test_a_brain_whose_login_is_refused_says_so_and_ends(
    tmp_path: Path, rabbitmq_url: str
) -> None:
    address = rabbitmq_url.partition("@")[2]
    environ = {
        **SETTINGS,
        "GENIE_BROKER_URL": f"amqp://guest:not-the-password@{address}",
        "GENIE_DATABASE_URL": f"sqlite:///{tmp_path}/new.db",
    }
    status, said = started(BRAIN, tmp_path, environ)
    assert status == 1
    assert "refuses this login" in said
    assert "not-the-password" not in said
    assert "Traceback" not in said


def test_an_address_that_is_taken_is_named_with_the_next_one(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/genie.db"
    environ = {**SETTINGS, "GENIE_DATABASE_URL": database}
    assert started(("genie", "db", "upgrade"), tmp_path, environ)[0] == 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = ("genie", "web", "--port", str(port))
        status, said = started(command, tmp_path, environ)
    assert status == 2
    assert f"choose another port with --port {port + 1}" in said
    assert "Traceback" not in said
