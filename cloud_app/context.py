"""The parts of a cloud process: settings, database, catalog, broker, clock."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Lock

from cloud_app import store
from cloud_app.brain.views import FleetView
from cloud_app.bus import Bus, ReplyRouter
from cloud_app.settings import CloudSettings
from cloud_app.store.records import KeyRecord
from cloud_app.store.workers import FingerprintFact
from genie import catalog
from genie.catalog import Catalog
from genie.errors import GenieError

KEY_FOR = timedelta(seconds=0.5)
"""How long a live key is known without asking the database. A revoked one is out at
once in the process that revoked it, and in this time everywhere else."""

KEYS_KEPT = 10_000
OTHERS_S = 0.1
"""How long another request with the same key is waited for, which asks already."""

LENGTH_WEIGHT = 0.1
"""How much the newest answer counts in the mean length of answers."""


def utc_now() -> datetime:
    """The time, aware, in UTC."""
    return datetime.now(UTC)


KeyAndDigest = tuple[KeyRecord, str]


class KeyCache:
    """API keys and their digests by prefix, as they were looked up a moment ago."""

    def __init__(self) -> None:
        self.generation = 0
        """Grows with every `clear`: what was read before that is not kept after it."""
        self._known: dict[str, tuple[KeyRecord, str, datetime]] = {}
        self._asking = tuple(Lock() for _ in range(64))  # a prefix always has the same

    def get(self, prefix: str, now: datetime) -> KeyAndDigest | None:
        """A key looked up less than `KEY_FOR` ago."""
        known = self._known.get(prefix)
        if known is None or not timedelta(0) <= now - known[2] < KEY_FOR:
            return None
        return known[0], known[1]

    def put(
        self, prefix: str, found: KeyAndDigest | None, now: datetime, generation: int
    ) -> None:
        """Keep what was found, if nothing was cleared since it was read."""
        if len(self._known) >= KEYS_KEPT:
            self._known.clear()
        self._known.pop(prefix, None)
        is_live = found is not None and found[0].revoked_at is None
        if found is not None and is_live and generation == self.generation:
            self._known[prefix] = (*found, now)

    def clear(self) -> None:
        """Forget every key: one of them has changed."""
        self.generation += 1
        self._known.clear()

    @contextmanager
    def alone(self, prefix: str) -> Iterator[None]:
        """Of many that need one key at once, let one ask first, for `OTHERS_S`."""
        asking = self._asking[hash(prefix) % len(self._asking)]
        is_first = asking.acquire(timeout=OTHERS_S)
        try:
            yield
        finally:
            if is_first:
                asking.release()


class FleetCache:
    """The fleet as it was read last, and the model facts that are stored already."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.view: FleetView | None = None
        self.facts: set[FingerprintFact] = set()


class AnswerLengths:
    """A smoothed mean of completion tokens for each model, as this process saw them."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}
        self._lock = Lock()

    def note(self, model: str, tokens: int) -> None:
        """Count one more answer."""
        if tokens <= 0:
            return
        with self._lock:
            old = self._means.get(model, float(tokens))
            self._means[model] = old + LENGTH_WEIGHT * (tokens - old)

    def mean(self, model: str) -> float | None:
        """Tokens of an answer; None before the first."""
        return self._means.get(model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One per process, passed as an argument: connections, and what they last gave."""

    settings: CloudSettings
    db: store.Database
    catalog: Catalog
    bus: Bus
    replies: ReplyRouter
    now: Callable[[], datetime] = utc_now
    keys: KeyCache = field(default_factory=KeyCache)
    fleet: FleetCache = field(default_factory=FleetCache)
    answer_lengths: AnswerLengths = field(default_factory=AnswerLengths)

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
        catalog=catalog.load(settings.catalog_path),
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
