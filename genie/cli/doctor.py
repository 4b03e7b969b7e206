"""``genie doctor``: checks this machine and says what to do next."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import click

from genie import __version__, env
from genie.cli.output import CommandSession, as_json, quiet, show_json, show_table
from genie.cli.values import size
from genie.env import ClientSettings
from genie.errors import GenieError, SettingsError
from genie.sdk.credentials import resolve

if TYPE_CHECKING:
    from genie.sdk.client import Client

ROOM_BYTES = 20 * 1024**3
"""With less free disk, pulling a larger model will fail."""

BROKER_TIMEOUT_S = 3.0


class Verdict(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check; ``next_step`` says what to do about a warn or a fail."""

    name: str
    verdict: Verdict
    detail: str
    next_step: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorSettings:
    """Settings of a cloud machine; checked where they are set."""

    broker_url: str | None = env.variable(
        "GENIE_BROKER_URL",
        env.url("amqp", "amqps", "memory"),
        "amqp://user:password@host:5672/vhost",
        default=None,
    )
    database_url: str | None = env.variable(
        "GENIE_DATABASE_URL",
        env.url("postgresql", "postgresql+psycopg", "sqlite"),
        "postgresql+psycopg://user:password@host/name, or sqlite:////path/genie.db",
        default=None,
    )


@click.command()
@as_json
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check this machine and the cloud, and say what to do next.

    The exit code is 1 when a check fails.
    """
    quiet()
    session: CommandSession = ctx.obj
    found = tuple(checks(session))
    if as_json:
        show_json(found)
    else:
        rows = [
            (one.verdict.value, one.name, one.detail, one.next_step) for one in found
        ]
        show_table(session, ("", "check", "found", "next step"), rows)
    if any(one.verdict is Verdict.FAIL for one in found):
        ctx.exit(1)


def checks(session: CommandSession) -> Iterator[Check]:
    """The checks that apply to this machine, from the inside out."""
    yield python()
    settings, problem = _settings()
    if problem is not None:
        yield fail("settings", problem.message)
    else:
        yield ok("settings", "readable")
        yield from cloud(session)
    if settings.broker_url is not None:
        yield broker(settings.broker_url)
    if settings.database_url is not None:
        yield database(settings.database_url)
    yield gpus()
    yield disk()
    yield model_cache()


def python() -> Check:
    """Reports the interpreter and the release."""
    found = ".".join(str(part) for part in sys.version_info[:3])
    detail = f"{found}, genie-fleet {__version__}"
    return ok("python", detail)


def cloud(session: CommandSession) -> Iterator[Check]:
    """Checks whether the cloud answers and is well, and whether our key works."""
    try:
        client = session.connect()
        health = client.health()
    except GenieError as error:
        yield fail("cloud", error.message)
        return
    release = f", release {health.version}" if health.version else ""
    yield ok("cloud", f"{client.url}{release}")
    for name, state in health.checks.items():
        found = f"{state}; fix this where the cloud runs"
        yield (
            ok(f"cloud {name}", state)
            if state == "ok"
            else fail(f"cloud {name}", found)
        )
    yield key(client)


def key(client: "Client") -> Check:
    """Checks whether the API key works, and which models are ready."""
    try:
        models = client.models()
    except GenieError as error:
        return fail("key", error.message)
    ready = [model.id for model in models if model.genie.ready]
    if ready:
        detail = f"valid; ready: {', '.join(ready)}"
        return ok("key", detail)
    return warn(
        "key",
        f"valid; none of {len(models)} models is ready",
        "add a machine with `genie worker join`, or wait for the first load",
    )


def broker(url: str) -> Check:
    """Checks the login at the broker; never shows the password."""
    if url.startswith("memory:"):
        return ok("broker", "in this process")
    try:
        where = login(url)
    except ModuleNotFoundError:
        return _absent("broker", "pika", "cloud")
    except OSError as error:
        return fail("broker", f"{error}; start RabbitMQ, or fix GENIE_BROKER_URL")
    return ok("broker", where)


def login(url: str) -> str:
    """Log in at an AMQP broker; returns its address, raises OSError with a reason."""
    import logging

    import pika
    from pika.exceptions import AMQPError

    logging.getLogger("pika").setLevel(logging.CRITICAL)  # our one line says it
    parameters = pika.URLParameters(url)
    parameters.socket_timeout = BROKER_TIMEOUT_S
    parameters.stack_timeout = 2 * BROKER_TIMEOUT_S
    parameters.blocked_connection_timeout = BROKER_TIMEOUT_S
    where = f"{parameters.host}:{parameters.port}{parameters.virtual_host}"
    try:
        pika.BlockingConnection(parameters).close()
    except (AMQPError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise OSError(f"{where}: {reason}") from error
    return where


def database(url: str) -> Check:
    """Checks whether the database answers and has this release's schema."""
    try:
        from cloud_app.store import Database, schema
    except ModuleNotFoundError as error:
        return _absent("database", error.name or "sqlmodel", "cloud")
    try:
        found = Database(url)
        with ExitStack() as stack:
            stack.callback(found.dispose)
            found.ping()
            schema.check(found)
            detail = f"{found.dialect}, schema{schema.fitness(found)}"
    except GenieError as error:
        return fail("database", error.message)
    return ok("database", detail)


def gpus() -> Check:
    """Reports the GPUs that a worker on this machine would use."""
    try:
        from workers import hardware

        found = hardware.GpuReader(env.visible_gpus()).read()
    except ModuleNotFoundError as error:
        return _absent("gpus", error.name or "gpustat", "worker")
    if found:
        listed = ", ".join(f"{g.name} {size(g.memory_total_bytes)}" for g in found)
        return ok("gpus", listed)
    return warn(
        "gpus",
        "none; a worker here serves small models from CPU memory",
        "for more, install NVIDIA's driver or join a machine with a GPU",
    )


def disk() -> Check:
    """Checks whether there is room for models."""
    folder = env.models()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    detail = f"{size(free)} free under {folder}"
    if free >= ROOM_BYTES:
        return ok("disk", detail)
    return warn(
        "disk",
        detail,
        "free some, or set GENIE_MODELS_DIR to a folder on a larger disk",
    )


def model_cache() -> Check:
    """Reports the models on this machine's disk."""
    try:
        from workers.files.files import ModelStore
    except ModuleNotFoundError as error:
        return _absent("models", error.name or "filelock", "worker")
    stored = ModelStore(env.models()).ls()
    detail = ", ".join(f"{one.id} {size(one.size_bytes)}" for one in stored)
    return ok("models", detail or "none pulled yet")


def ok(name: str, detail: str) -> Check:
    """A check that found what is needed."""
    return Check(name=name, verdict=Verdict.OK, detail=detail)


def warn(name: str, detail: str, step: str) -> Check:
    """A check that found less than one may want, and the next step."""
    return Check(name=name, verdict=Verdict.WARN, detail=detail, next_step=step)


def fail(name: str, message: str) -> Check:
    """A failed check; after its last semicolon the message says the next step."""
    detail, _, step = " ".join(message.split()).rpartition("; ")
    verdict = Verdict.FAIL
    if not detail:
        return Check(name=name, verdict=verdict, detail=step)
    return Check(name=name, verdict=verdict, detail=detail, next_step=step)


def _settings() -> tuple[DoctorSettings, SettingsError | None]:
    found = DoctorSettings()
    try:
        found = env.read(DoctorSettings)
        resolve(env.read(ClientSettings))
    except SettingsError as error:
        return found, error
    return found, None


def _absent(name: str, package: str, extra: str) -> Check:
    step = f"install Genie Fleet with its extra [{extra}]"
    return warn(name, f"not checked: {package} is not installed", step)
