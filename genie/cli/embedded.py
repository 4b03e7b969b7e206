"""A whole fleet in one process: SQLite, an in-memory queue, one worker.

The only place where cloud and worker meet; everything else keeps them
apart. It runs the same parts as production, on other transports.
"""

import json
import os
import secrets
import socket
import threading
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import celery
from celery import beat
from celery.worker import state as celery_state
from filelock import FileLock, Timeout

import cloud_app.app
import cloud_app.tasks
import workers.tasks
from cloud_app import context, server, store
from cloud_app.bus import OutcomeConsumer
from cloud_app.jobs import lifecycle
from cloud_app.orgs import auth
from cloud_app.settings import CloudSettings
from genie import catalog, env
from genie.cli.up import DEFAULT_PORT, listen
from genie.errors import SettingsError, Unauthorized
from genie.messaging import broker, queues
from genie.messaging.link import BrokerMessage, LinkEvents, subscribe
from genie.messaging.tasks import make_celery, use_queues
from genie.sdk import credentials
from genie.sdk.client import Client
from genie.sdk.credentials import Credentials
from workers import join
from workers.cloud import CloudClient
from workers.host import WorkerHost
from workers.settings import WorkerSettings

ORG = "local"
BROKER_URL = "memory://"
PLACE_EVERY_S = 1.0
"""Planning one machine takes a millisecond, so it happens more often."""

STOP_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedFleetOptions:
    """The fleet's folder, address and catalog."""

    home: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    catalog_path: Path = field(default=catalog.SHIPPED)

    @property
    def folder(self) -> Path:
        """The fleet's own files: database, secret, lock."""
        return self.home / "fleet"

    @property
    def url(self) -> str:
        """The fleet's address on this machine."""
        is_any = self.host in ("", "0.0.0.0")  # noqa: S104  # compared, never bound
        return f"http://{'127.0.0.1' if is_any else self.host}:{self.port}"

    @property
    def settings(self) -> CloudSettings:
        """The cloud's settings for this machine."""
        return CloudSettings(
            database_url=f"sqlite:///{self.folder / 'genie.db'}",
            broker_url=BROKER_URL,
            secret_key=_secret(self.folder / "secret"),
            public_url=self.url,
            catalog_path=self.catalog_path,
            place_every_s=PLACE_EVERY_S,
            files_url=str(self.folder / "files"),
        )


class EmbeddedFleet:
    """Web, brain, beat and one worker as threads; engines are child processes.

    Use it as a context manager: on leaving, every thread and child process ends.
    """

    def __init__(self, options: EmbeddedFleetOptions) -> None:
        self._options = options
        self._stack = ExitStack()
        self.url = options.url
        self.api_key = ""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def client(self) -> Client:
        """An SDK client with this fleet's admin key."""
        return Client(url=self.url, api_key=self.api_key)

    def _start(self, stack: ExitStack) -> None:
        options = self._options
        listening = stack.enter_context(listen(options.host, options.port))
        _lock(stack, options.folder)
        ctx = context.build(options.settings)
        stack.callback(ctx.close)
        store.schema.upgrade(ctx.db)
        lifecycle.reopen(ctx)
        context.install(ctx)
        self.api_key = _key(ctx, options)
        app = make_celery("genie", broker_url=BROKER_URL)
        app.set_default()  # otherwise pool threads would see an empty app
        _serve_web(stack, ctx, listening)
        _start_brain(stack, ctx)
        control = _start_worker(stack, ctx, app, options)
        cloud_app.tasks.register(app)
        _hear_control(stack, app, control)
        use_queues(app, queues.brain_queue())
        app.conf.beat_schedule = cloud_app.tasks.beat_schedule(ctx.settings)
        _start_celery(stack, app)


def _lock(stack: ExitStack, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise SettingsError(
            f"a fleet already runs from {folder}; use it with `genie ask`, stop it, or "
            "set GENIE_HOME to another folder"
        ) from error
    stack.callback(lock.release)


def _secret(file: Path) -> str:
    """The session secret of this fleet: made once, readable by its owner only."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return file.read_text(encoding="utf-8")
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        out.write(secrets.token_urlsafe(32))
    return file.read_text(encoding="utf-8")


def _key(ctx: context.Context, options: EmbeddedFleetOptions) -> str:
    """The admin key saved at an earlier start, or a new one, saved for the CLI."""
    auth.ensure_org(ctx, ORG, "This machine")
    saved = credentials.load(options.home)
    key = saved.api_key if saved else None
    if key is None or not _is_valid(ctx, key):
        _record, key = auth.create_key(ctx, ORG, "genie up", is_admin=True)
    credentials.save(options.home, Credentials(url=options.url, api_key=key))
    return key


def _is_valid(ctx: context.Context, key: str) -> bool:
    try:
        auth.authenticate(ctx, key, remote_addr=None)
    except Unauthorized:
        return False
    return True


def _serve_web(
    stack: ExitStack, ctx: context.Context, listening: socket.socket
) -> None:
    serving = server.serve(cloud_app.app.create_app(ctx), ctx, [listening])
    thread = threading.Thread(target=serving.run, name="genie-web", daemon=True)
    thread.start()
    stack.callback(thread.join, STOP_S)
    stack.callback(serving.stop, 0.0)


def _start_brain(stack: ExitStack, ctx: context.Context) -> None:
    outcomes = OutcomeConsumer(
        BROKER_URL, partial(lifecycle.apply, ctx), partial(lifecycle.record_batch, ctx)
    )
    outcomes.start()
    stack.callback(outcomes.stop)


def _start_worker(
    stack: ExitStack,
    ctx: context.Context,
    app: celery.Celery,
    options: EmbeddedFleetOptions,
) -> str:
    """Join over HTTP like any other worker; returns the worker's id."""
    settings = WorkerSettings(
        url=options.url,
        join_token=auth.create_join_token(ctx, ORG),
        home=options.home,
        models_dir=env.models(options.home),
        state_dir=options.folder / "worker",
    )
    boot_id = join.new_boot_id()
    with closing(CloudClient(options.url)) as cloud:
        registered = join.enrol(settings, cloud, boot_id)
    host = WorkerHost(settings, registered, boot_id=boot_id)
    host.start()
    stack.callback(host.stop, STOP_S)
    workers.tasks.register(app, lambda: host)
    return registered.worker_id


def _hear_control(stack: ExitStack, app: celery.Celery, worker_id: str) -> None:
    """Run what the cloud asks of the worker; elsewhere its own Celery does that."""
    queue = queues.control_queue(worker_id)

    def hear(message: BrokerMessage) -> None:
        _arguments, kwargs, _embed = json.loads(message.body)
        app.tasks[message.headers()["task"]](**kwargs)

    def up() -> None:
        subscribe(link, queue, hear)

    link = broker.connect(BROKER_URL, "genie-control", LinkEvents(up=up))
    link.start()
    stack.callback(link.close)


def _start_celery(stack: ExitStack, app: celery.Celery) -> None:
    brain = app.WorkController(
        hostname="genie@embedded",
        pool="threads",
        concurrency=2,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    celery_state.should_stop = None
    thread = threading.Thread(target=brain.start, name="genie-brain", daemon=True)
    thread.start()
    stack.callback(thread.join, STOP_S)
    stack.callback(setattr, celery_state, "should_stop", 0)
    ticking = beat.EmbeddedService(
        app, thread=True, scheduler_cls="celery.beat:Scheduler"
    )
    ticking.start()
    stack.callback(ticking.stop)
