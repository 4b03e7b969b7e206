"""The cloud's settings, read once per process from ``GENIE_*`` variables."""

from dataclasses import dataclass
from pathlib import Path

from genie import catalog, env


def catalog_path(value: str) -> Path:
    """A catalog file, or the word ``echo`` for the weightless one."""
    return catalog.ECHO if value == "echo" else env.path(value)


def _files() -> str:
    return str(env.home() / "files")


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudSettings:
    """The settings of web, brain and beat; the same for all three."""

    database_url: str = env.variable(
        "GENIE_DATABASE_URL",
        env.url("postgresql+psycopg", "sqlite"),
        "postgresql+psycopg://user:password@host/name, or sqlite:///file.db",
    )
    broker_url: str = env.variable(
        "GENIE_BROKER_URL",
        env.url("amqp", "amqps", "memory"),
        "amqp://user:password@host:5672/vhost",
    )
    secret_key: str = env.variable(
        "GENIE_SECRET_KEY",
        env.text,
        "signs admin sessions; any long random text, the same on every web process",
    )
    worker_broker_url: str | None = env.variable(
        "GENIE_WORKER_BROKER_URL",
        env.url("amqp", "amqps", "memory"),
        "the broker's address as workers reach it; GENIE_BROKER_URL if not set",
        default=None,
    )
    public_url: str | None = env.variable(
        "GENIE_PUBLIC_URL",
        env.url("http", "https"),
        "the cloud's address as people and workers reach it",
        default=None,
    )
    catalog_path: Path = env.variable(
        "GENIE_CATALOG",
        catalog_path,
        "a catalog file, or echo; the shipped catalog if not set",
        default=catalog.SHIPPED,
    )
    heartbeat_s: float = env.variable(
        "GENIE_HEARTBEAT_S", env.number, "seconds between heartbeats", default=30.0
    )
    place_every_s: float = env.variable(
        "GENIE_PLACE_EVERY_S", env.number, "seconds between plans", default=10.0
    )
    web_threads: int = env.variable(
        "GENIE_WEB_THREADS",
        env.at_least_one,
        "requests served at once, each in a thread; threads start as they are needed",
        default=1024,
    )
    max_body_bytes: int = env.variable(
        "GENIE_MAX_BODY_BYTES",
        env.at_least_one,
        "largest request body",
        default=1_048_576,
    )
    sync_timeout_s: float = env.variable(
        "GENIE_SYNC_TIMEOUT_S",
        env.number,
        "seconds an interactive request may take in all",
        default=600.0,
    )
    async_timeout_s: float = env.variable(
        "GENIE_ASYNC_TIMEOUT_S",
        env.number,
        "seconds an async job may take in all",
        default=86_400.0,
    )
    retain_h: float = env.variable(
        "GENIE_RETAIN_H",
        env.number,
        "hours that answers are kept after a job ended",
        default=24.0,
    )
    files_url: str = env.variable(
        "GENIE_FILES_URL",
        env.text,
        "where files lie: a folder, or a URL fsspec knows; web and brain share it",
        factory=_files,
    )
    files_retain_h: float = env.variable(
        "GENIE_FILES_RETAIN_H",
        env.number,
        "hours that uploaded files and batch results are kept",
        default=720.0,
    )
    max_file_bytes: int = env.variable(
        "GENIE_MAX_FILE_BYTES",
        env.at_least_one,
        "largest uploaded file",
        default=1_073_741_824,
    )
    batch_max_lines: int = env.variable(
        "GENIE_BATCH_MAX_LINES",
        env.at_least_one,
        "most requests in one batch",
        default=1_000_000,
    )
    batch_in_flight: int = env.variable(
        "GENIE_BATCH_IN_FLIGHT",
        env.at_least_one,
        "most requests of one batch queued at once",
        default=1_000,
    )
    webhook_ca_file: Path | None = env.variable(
        "GENIE_WEBHOOK_CA_FILE",
        env.path,
        "PEM file of authorities that receivers of webhooks may be certified by, "
        "besides this machine's own",
        default=None,
    )
    webhook_allow_private: bool = env.variable(
        "GENIE_WEBHOOK_ALLOW_PRIVATE",
        env.flag,
        "1 lets webhooks go to private, loopback and link-local addresses",
        default=False,
    )
    log_level: str = env.variable(
        "GENIE_LOG_LEVEL",
        env.log_level,
        "DEBUG, INFO, WARNING or ERROR",
        default="INFO",
    )

    @property
    def takes_machines(self) -> bool:
        """False for a fleet in one process: its queue is in that process's memory."""
        return not (self.worker_broker_url or self.broker_url).startswith("memory:")


ALONE = (
    "this fleet runs in one process and no other machine can reach its queue; run the "
    "production processes (see the README) to add machines"
)
"""Why a fleet without a broker of its own makes no join tokens over HTTP."""
