"""``celery -A cloud_app worker`` is the brain, ``celery -A cloud_app beat`` its clock.

Importing this reads no settings; the process that starts does, and says all that is
wrong with them at once.
"""

import time
from collections.abc import Callable
from functools import cache, partial

import celery
from celery import bootsteps, signals
from celery.beat import Service
from celery.worker import WorkController, state
from celery.worker.consumer import Consumer

from cloud_app import context, store, tasks
from cloud_app.bus import OutcomeConsumer
from cloud_app.context import Context
from cloud_app.jobs import lifecycle
from cloud_app.settings import CloudSettings
from genie import env, gc_tuning, logs
from genie.errors import DatabaseDown, GenieError, SettingsError
from genie.messaging import broker
from genie.messaging.queues import brain_queue
from genie.messaging.tasks import broker_settings, make_celery

log = logs.logger("celery")

RETRY_S = 2.0

ReadSettings = Callable[[], CloudSettings]


def make_app(read: ReadSettings) -> celery.Celery:
    """The brain's Celery app; ``read`` gives its settings once the process starts."""
    app = make_celery("cloud_app", brain_queue())
    app.conf.beat_scheduler = "celery.beat:Scheduler"  # intervals: nothing to keep
    app.add_defaults(partial(_settled, read))
    app.steps["worker"].add(_step(read))
    tasks.register(app)
    return app


def _settled(read: ReadSettings) -> dict[str, object]:
    """Celery settings that depend on ours; asked for when the process starts."""
    settings = read()
    return {
        **broker_settings(settings.broker_url),
        "beat_schedule": tasks.beat_schedule(settings),
    }


class Brain(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """The state of a brain process: its context and the consumer of outcomes.

    It waits for a database that is away, and refuses one with another schema.
    """

    # after Beat: `worker -B` forks it, and a fork with our connections open hangs
    requires = ("celery.worker.components:Pool", "celery.worker.components:Beat")
    read: ReadSettings

    def __init__(self, parent: WorkController, **kwargs: object) -> None:
        super().__init__(parent, **kwargs)
        self._ctx: Context | None = None
        self._outcomes: OutcomeConsumer | None = None

    def start(self, parent: WorkController) -> None:
        """Build the context, check the schema, consume outcomes.

        Ends the process with one line that says what to mend, not with a traceback.
        """
        try:
            self._begin()
        except GenieError as error:
            log.critical("brain_cannot_start", reason=error.message)
            raise SystemExit(1) from error

    def _begin(self) -> None:
        ctx = self._ctx = context.build(type(self).read())
        broker.check_login(ctx.settings.broker_url, setting="GENIE_BROKER_URL")
        _wait_for_schema(ctx.db)
        context.install(ctx)
        self._outcomes = OutcomeConsumer(
            ctx.settings.broker_url,
            partial(lifecycle.apply, ctx),
            partial(lifecycle.record_batch, ctx),
        )
        self._outcomes.start()
        log.info("brain_started")

    def stop(self, parent: WorkController) -> None:
        """Stop consuming, then close connections; what is not acked comes again."""
        if self._outcomes is not None:
            self._outcomes.stop()
            self._outcomes = None
        if self._ctx is not None:
            self._ctx.close()
            self._ctx = None

    def terminate(self, parent: WorkController) -> None:
        """The same on a cold shutdown."""
        self.stop(parent)


def _step(read: ReadSettings) -> type[Brain]:
    """A bootstep class of one app: Celery makes the instance."""
    return type("Brain", (Brain,), {"read": staticmethod(read), "__module__": __name__})


def _wait_for_schema(db: store.Database) -> None:
    """Until the schema was seen to be right; raises `SettingsError` when it is not."""
    while True:
        try:
            store.schema.check(db)
        except DatabaseDown as error:
            log.warning("database_down_at_boot", error=error.message)
        else:
            return
        state.maybe_shutdown()
        time.sleep(RETRY_S)


@cache
def _from_environment() -> CloudSettings:
    try:
        settings = env.read(CloudSettings)
    except SettingsError as error:
        raise SystemExit(f"genie: {error.message}") from None
    logs.configure(level=settings.log_level)
    return settings


app = make_app(_from_environment)


@signals.worker_ready.connect  # type: ignore[untyped-decorator]  # celery has no types
@signals.beat_init.connect  # type: ignore[untyped-decorator]  # the same
def _ready(sender: Consumer | Service, **_: object) -> None:
    if sender.app is app:
        gc_tuning.freeze_loaded_objects()
