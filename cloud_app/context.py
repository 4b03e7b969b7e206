"""What a cloud process works with: settings, database, catalog, broker, clock."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from cloud_app import store
from cloud_app.bus import Bus, ReplyRouter
from cloud_app.settings import CloudSettings
from genie import catalog as catalogs
from genie.errors import GenieError


def utc_now() -> datetime:
    """The time, aware, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One per process, passed as an argument; it holds connections, never state."""

    settings: CloudSettings
    db: store.Database
    catalog: catalogs.Catalog
    bus: Bus
    replies: ReplyRouter
    now: Callable[[], datetime] = utc_now

    def close(self) -> None:
        """Close broker and database connections."""
        self.replies.close()
        self.bus.close()
        self.db.dispose()


def build(settings: CloudSettings) -> Context:
    """A context on real servers; opens nothing yet, raises on a bad catalog."""
    return Context(
        settings=settings,
        db=store.Database(settings.database_url),
        catalog=catalogs.load(settings.catalog_path),
        bus=Bus(settings.broker_url),
        replies=ReplyRouter(settings.broker_url),
    )


_installed: list[Context] = []


def install(ctx: Context) -> None:
    """Make ``ctx`` the one that this process's Celery tasks use."""
    _installed[:] = [ctx]


def current() -> Context:
    """The installed context; Celery tasks have no other way to be given one."""
    if not _installed:
        raise GenieError(
            "no context is installed; start this process with "
            "`celery -A cloud_app worker` or `genie up`"
        )
    return _installed[0]
