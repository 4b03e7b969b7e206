"""The worker's process: ``celery -A workers worker``.

Celery boots, takes control tasks, reconnects and shuts down; the inference data plane
is the `WorkerHost` that a bootstep starts. Settings are read and the worker registers
when the process starts, not when this module is imported.
"""

import sys
import threading
import time
from collections.abc import Sequence

from celery import Celery, bootsteps, signals
from celery.worker import WorkController
from celery.worker.consumer import Consumer

from genie import env, gc_tuning, logs
from genie.contracts.fleet import RegistrationReply
from genie.errors import CloudUnreachable, GenieError
from genie.messaging import broker
from genie.messaging.queues import control_queue
from genie.messaging.tasks import broker_settings, make_celery, use_queues
from workers import join, tasks
from workers.cloud import CloudClient
from workers.host import WorkerHost
from workers.settings import WorkerSettings

log = logs.logger("celery")

CONCURRENCY = 2
"""Control tasks take microseconds; the second thread is for when one does not."""

BOOT_RETRY_FIRST_S, BOOT_RETRY_MOST_S = 1.0, 30.0
MOVED = 75
"""Exit code: the cloud gave this worker another identity; start it again."""


class WorkerProcess:
    """The state of a worker process between Celery's hooks."""

    def __init__(self) -> None:
        self.host: WorkerHost | None = None
        self.asked_to_stop = 0

    def make(self, app: Celery) -> None:
        """Read settings, register, point ``app`` at this worker's broker and queue."""
        settings = env.read(WorkerSettings)
        logs.configure(level=settings.log_level)
        boot_id = join.new_boot_id()
        registered = register(settings, boot_id)
        broker.check_login(
            registered.broker_url, setting="the cloud's GENIE_WORKER_BROKER_URL"
        )
        app.conf.update(broker_settings(registered.broker_url))
        use_queues(app, control_queue(registered.worker_id))
        self.host = WorkerHost(settings, registered, boot_id=boot_id, on_moved=_move)

    def stop_sign(self) -> None:
        """The first signal closes the credits, the second gives the work back."""
        self.asked_to_stop += 1
        if self.host is None:
            return
        if self.asked_to_stop == 1:
            self.host.close()
        else:
            # Not in the signal's own frame: it may hold a lock this needs.
            threading.Thread(target=self.host.serving.abandon, name="abandon").start()


def register(settings: WorkerSettings, boot_id: str) -> RegistrationReply:
    """Register, waiting as long as it takes for a cloud that is away."""
    cloud, delay_s = CloudClient(settings.url), BOOT_RETRY_FIRST_S
    try:
        while True:
            try:
                return join.resume(settings, cloud, boot_id)
            except CloudUnreachable as error:
                log.warning("cloud_away", reason=error.message, retry_in_s=delay_s)
            time.sleep(delay_s)
            delay_s = min(delay_s * 2, BOOT_RETRY_MOST_S)
    finally:
        cloud.close()


def _move() -> None:
    from celery.worker import state

    state.should_stop = MOVED


boot = WorkerProcess()
app = make_celery("workers")
app.conf.worker_concurrency = CONCURRENCY
tasks.register(app, lambda: boot.host)


class HostStep(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
    """Runs the `WorkerHost` beside Celery's own consumer."""

    requires = frozenset({"celery.worker.components:Pool"})

    def __init__(self, worker: WorkController, **options: object) -> None:
        super().__init__(worker, **options)
        # Chatter between workers: nobody reads it, and it costs queues and messages.
        worker.options.update(
            without_gossip=True, without_mingle=True, without_heartbeat=True
        )

    def start(self, worker: WorkController) -> None:
        """Start the host; returns at once."""
        if boot.host is not None:
            boot.host.start()

    def stop(self, worker: WorkController) -> None:
        """Let running requests finish, bounded, then stop the engines."""
        if boot.host is not None:
            boot.host.stop()

    def terminate(self, worker: WorkController) -> None:
        """Give running requests back, then stop the engines."""
        if boot.host is not None:
            boot.host.serving.abandon()
            boot.host.stop(0.0)


app.steps["worker"].add(HostStep)


@signals.celeryd_init.connect  # type: ignore[untyped-decorator]  # celery has no types
def _prepare(instance: WorkController, **_: object) -> None:
    # Other Celery apps of this process (the cloud's) send this signal too.
    if instance.app is not app:
        return
    try:
        boot.make(app)
    except GenieError as error:
        raise SystemExit(f"genie worker: {error.message}") from error


@signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]  # the same
def _stopping(**_: object) -> None:
    boot.stop_sign()


@signals.worker_ready.connect  # type: ignore[untyped-decorator]  # the same
def _settle(sender: Consumer, **_: object) -> None:
    if sender.app is app:
        gc_tuning.freeze_loaded_objects()


def main(argv: Sequence[str] = ()) -> int:
    """Run this worker until it is stopped; ``argv`` are extra `celery worker` options.

    Settings come from ``GENIE_*`` variables; returns the process's exit status.
    Raises the error of ours that kept it from starting.
    """
    arguments = ["worker", "--loglevel", "WARNING", *argv]
    try:
        app.worker_main(arguments)
    except SystemExit as end:
        if isinstance(end.__cause__, GenieError):
            raise end.__cause__ from None
        if isinstance(end.code, str):
            sys.stderr.write(end.code + "\n")
            return 1
        return end.code or 0
    return 0
