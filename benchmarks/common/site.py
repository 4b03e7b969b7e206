"""A whole fleet on private nodes, and programs to compare it with.

The nodes and processes are those of the tests: whoever runs a file of this folder has
``tests`` on the path, see the first lines of each.
"""

import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cloud_app.context import utc_now
from cloud_app.store import ids
from fixtures.fleet import BIN, Fleet
from fixtures.nodes import PostgresNode, RabbitNode
from fixtures.process import ServerProcess
from genie import topology
from genie.contracts.inference import (
    InferenceTask,
    Message,
    Sampling,
    WorkClass,
)

ROOT = Path(__file__).parents[2]
WORKERS = ("atlas", "borealis", "cygnus", "draco")
WORKER = WORKERS[0]
MODEL = "echo:small"
SLOTS = 4
"""As many as the planner gives a model whose source does not say."""

DEADLINE_S = 120.0

CATALOG = """
[[models]]
id = "{model}"
family = "echo"
parameters = 1_000_000
license = "Apache-2.0"
source = "echo:?ms_per_token={ms_per_token}&slots={slots}"
context_max = 2048
layers = 2
kv_heads = 1
head_dim = 16
engine = "echo"
quants = [{{ name = "none", dtype = "float32" }}]

[[personas]]
name = "chat"
tier = "lite"
ladder = ["{model}"]
standing = true
replicas = {workers}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A broker, a database and the fleet on them, one worker ready."""

    rabbit: RabbitNode
    broker_url: str
    database_url: str
    fleet: Fleet

    @property
    def bare_url(self) -> str:
        """The default virtual host of the same broker, for what is compared."""
        return self.rabbit.url


@contextmanager
def site(
    *,
    ms_per_token: float = 0.0,
    heartbeat_s: float = 30.0,
    workers: int = 1,
    slots: int = SLOTS,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Site]:
    """A fleet in its production shape; each worker has ``slots`` of an echo model."""
    with (
        tempfile.TemporaryDirectory(prefix="genie-bench-") as folder,
        RabbitNode() as rabbit,
        PostgresNode() as postgres,
    ):
        catalog = Path(folder) / "catalog.toml"
        catalog.write_text(
            CATALOG.format(
                model=MODEL, ms_per_token=ms_per_token, workers=workers, slots=slots
            )
        )
        broker_url, database_url = rabbit.vhost("bench"), postgres.create_database()
        given = {
            "GENIE_CATALOG": str(catalog),
            "GENIE_LOG_LEVEL": "WARNING",
            "PYTHONPATH": str(ROOT),  # this tree, wherever genie is installed from
            **(environ or {}),
        }
        with Fleet(
            broker_url=broker_url,
            database_url=database_url,
            environ=given,
            heartbeat_s=heartbeat_s,
        ) as fleet:
            for name in WORKERS[:workers]:
                fleet.start_worker(name)
            fleet.wait_ready(MODEL, workers=workers)
            yield Site(
                rabbit=rabbit,
                broker_url=broker_url,
                database_url=database_url,
                fleet=fleet,
            )


@contextmanager
def program(command: str, *arguments: str, **environ: str) -> Iterator[ServerProcess]:
    """An installed command (``python``, ``celery``) run until the block ends."""
    with tempfile.TemporaryDirectory(prefix="genie-bench-") as folder:
        process = ServerProcess(
            [str(BIN / command), *arguments],
            folder=Path(folder),
            environ={"PATH": str(BIN), "PYTHONPATH": str(ROOT), **environ},
        )
        try:
            yield process
        finally:
            process.end(signal.SIGKILL, timeout_s=10)


def task(text: str, *, reply_to: str | None = None, tokens: int = 1) -> InferenceTask:
    """A request as the web would publish it, decided for the echo model."""
    now = utc_now()
    return InferenceTask(
        job_id=ids.new_id(now),
        org="acme",
        queue=topology.SHARED,
        model=MODEL,
        work_class=WorkClass.INTERACTIVE,
        created_at=now,
        deadline_at=now + timedelta(seconds=DEADLINE_S),
        sampling=Sampling(max_tokens=tokens),
        messages=(Message(role="user", content=text),),
        persona="chat",
        reply_to=reply_to,
        chunks=False,
    )
