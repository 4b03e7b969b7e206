"""A worker's settings, from ``GENIE_*`` variables."""

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from genie import env

MEMORY_RESERVE_SHARE = 0.1


def share(value: str) -> float:
    """A share from 0 up to, but not including, 1."""
    try:
        parsed = float(value)
    except ValueError as error:
        raise ValueError(f"is {value!r}, not a number") from error
    if not 0 <= parsed < 1:
        raise ValueError(f"is {value}, not between 0 and 1")
    return parsed


def worker_name(value: str) -> str:
    """A name that can be a folder: letters, digits, dot, dash, underscore.

    >>> worker_name("gpu-7.example")
    'gpu-7.example'
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", value):
        raise ValueError(f"is {value!r}; use letters, digits, dot, dash, underscore")
    return value


def default_threads() -> int:
    """All cores but one: the last one is for everything around the engine."""
    return max(1, (os.cpu_count() or 2) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """The settings of a worker: the cloud's address, its name, its share of the host.

    ``join_token`` is needed once; afterwards the saved credentials serve.
    ``slots_max`` caps concurrent requests of one model, whatever the cloud wishes.
    """

    url: str = env.variable(
        "GENIE_URL", env.url("http", "https"), "the cloud's address, http(s)://host"
    )
    join_token: str | None = env.variable(
        "GENIE_JOIN_TOKEN",
        env.text,
        "a join token, gj-…; `genie worker token` makes one",
        default=None,
    )
    home: Path = env.variable(
        "GENIE_HOME", env.path, "folder of this user's genie files", factory=env.home
    )
    name: str = env.variable(
        "GENIE_WORKER_NAME",
        worker_name,
        "this worker's name, default: the host's",
        factory=socket.gethostname,
    )
    state_dir: Path | None = env.variable(
        "GENIE_STATE_DIR",
        env.path,
        "folder of this worker's credentials",
        default=None,
    )
    models_dir: Path | None = env.variable(
        "GENIE_MODELS_DIR",
        env.path,
        "folder of pulled models, shared by workers; models in GENIE_HOME if not set",
        default=None,
    )
    threads: int = env.variable(
        "GENIE_THREADS",
        env.at_least_one,
        "CPU threads of one engine",
        factory=default_threads,
    )
    memory_limit_bytes: int | None = env.variable(
        "GENIE_MEMORY_LIMIT_BYTES",
        env.at_least_one,
        "most bytes all models together may take",
        default=None,
    )
    memory_reserve_share: float = env.variable(
        "GENIE_MEMORY_RESERVE_SHARE",
        share,
        "share of memory models never take",
        default=MEMORY_RESERVE_SHARE,
    )
    slots_max: int | None = env.variable(
        "GENIE_SLOTS",
        env.at_least_one,
        "most concurrent requests of one model",
        default=None,
    )
    warm_spare: bool = env.variable(
        "GENIE_WARM_SPARE",
        env.flag,
        "1: keep a child process with torch imported, so that the next model starts "
        "seconds sooner (about 300 MB)",
        default=True,
    )
    drain_s: float = env.variable(
        "GENIE_DRAIN_S",
        env.number,
        "seconds running requests may finish before an unload or a stop",
        default=60.0,
    )
    log_level: str = env.variable(
        "GENIE_LOG_LEVEL",
        env.log_level,
        "DEBUG, INFO, WARNING or ERROR",
        default="INFO",
    )

    @property
    def state_folder(self) -> Path:
        """The folder of this worker's credentials."""
        return self.state_dir or self.home / "workers" / self.name

    @property
    def models_folder(self) -> Path:
        """The folder of pulled models; workers of one user share it."""
        return self.models_dir or self.home / "models"
