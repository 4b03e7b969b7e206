"""Turns cron lines in a time zone into moments in UTC: when a schedule runs.

A local time that a clock change skips runs at the first valid instant after it; one
that comes twice runs once, the first time. Lines whose hour starts with a star mean an
interval, not a time of day: they follow real time through every clock change.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from genie.errors import BadRequest

SHORTHANDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}

ON_TIME = timedelta(seconds=60)
"""A run this late is still on time; the catch-up policy decides about later ones."""

BURST = 100
"""The most runs decided in one call; the next call decides the rest."""

Delay = Callable[[datetime], timedelta]
"""How much later than scheduled a run starts."""

_FIELDS = 5
_SECOND = timedelta(seconds=1)


class CatchUpPolicy(StrEnum):
    """What to do with runs that nobody could start in time."""

    NONE = "none"
    LAST = "last"
    ALL = "all"


class OverlapPolicy(StrEnum):
    """What to do with a run while the previous one still runs."""

    SKIP = "skip"
    QUEUE = "queue"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class Cron:
    """One cron line in one time zone; make it with `parse`."""

    line: str
    zone: ZoneInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class DueRuns:
    """Runs to start now, runs missed for good, and when to look again.

    ``next_at`` is the first undecided moment; None when the line never runs
    again.
    """

    fire: tuple[datetime, ...]
    missed: tuple[datetime, ...]
    next_at: datetime | None


def on_the_dot(_run: datetime) -> timedelta:
    """No delay."""
    return timedelta(0)


def parse(expression: str, zone: str) -> Cron:
    """A cron line of five fields, or ``@hourly`` … ``@yearly``, in an IANA time zone.

    Raises `BadRequest` naming ``cron`` or ``timezone``.
    """
    line = SHORTHANDS.get(expression.strip().lower(), expression.strip())
    if len(line.split()) != _FIELDS:
        raise BadRequest(
            "cron: write five fields, minute hour day month weekday, like "
            "`30 7 * * 1-5`, or one of " + " ".join(SHORTHANDS),
            param="cron",
        )
    try:
        CronSim(line, datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise BadRequest(
            f"cron: {error}; the fields are minute hour day month weekday",
            param="cron",
        ) from error
    return Cron(" ".join(line.split()), _zone(zone))


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadRequest(
            f"timezone: there is no {name[:60]!r}; use an IANA name like Europe/Berlin",
            param="timezone",
        ) from error


def after(cron: Cron, moment: datetime) -> Iterator[datetime]:
    """All runs after ``moment``, in UTC, in order."""
    last = moment.astimezone(UTC)
    for run in _runs(cron, last):
        if run > last:
            yield run
            last = run


def _runs(cron: Cron, moment: datetime) -> Iterator[datetime]:
    local = moment.astimezone(cron.zone)
    if cron.line.split()[1].startswith("*"):
        for run in CronSim(cron.line, local):
            yield run.astimezone(UTC)
        return
    # from a day before: in a repeated hour the wall shows what is over already
    wall = local.replace(tzinfo=None) - timedelta(days=1)
    for naive in CronSim(cron.line, wall):
        yield instant(naive, cron.zone)


def instant(wall: datetime, zone: ZoneInfo) -> datetime:
    """The first moment at which a wall clock shows ``wall`` or a later time.

    >>> instant(datetime(2026, 3, 29, 2, 30), ZoneInfo("Europe/Berlin")).isoformat()
    '2026-03-29T01:00:00+00:00'
    """
    found = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if found.astimezone(zone).replace(tzinfo=None) == wall:
        return found
    early = found - timedelta(days=2)  # no gap is longer than a day
    while found - early > _SECOND:
        middle = early + (found - early) // 2
        if middle.astimezone(zone).replace(tzinfo=None) < wall:
            early = middle
        else:
            found = middle
    return found.replace(microsecond=0)


def due(
    cron: Cron,
    next_at: datetime,
    now: datetime,
    catch_up: CatchUpPolicy,
    delay: Delay = on_the_dot,
) -> DueRuns:
    """Decide on all runs from ``next_at`` up to ``now``, at most `BURST`.

    A run is due ``delay`` after its moment.
    """
    if next_at + delay(next_at) > now:
        return DueRuns(fire=(), missed=(), next_at=next_at)
    slots, rest, is_all = [next_at], None, True
    for run in after(cron, next_at):
        is_later = run + delay(run) > now
        if is_later or len(slots) == BURST:
            rest, is_all = run, is_later
            break
        slots.append(run)
    fire = tuple(_chosen(slots, now, catch_up, delay, is_all=is_all))
    missed = tuple(slot for slot in slots if slot not in fire)
    return DueRuns(fire=fire, missed=missed, next_at=rest)


def _chosen(
    slots: list[datetime],
    now: datetime,
    catch_up: CatchUpPolicy,
    delay: Delay,
    *,
    is_all: bool,
) -> list[datetime]:
    if catch_up is CatchUpPolicy.ALL:
        return slots
    if catch_up is CatchUpPolicy.LAST:
        return slots[-1:] if is_all else []
    return [slot for slot in slots if now - slot - delay(slot) <= ON_TIME]


def jitter(schedule_id: str, fire_at: datetime, most_s: float) -> timedelta:
    """The delay of this run after ``fire_at``: 0 up to ``most_s`` seconds.

    Every process computes the same delay; each run has another one.
    """
    if most_s <= 0:
        return timedelta(0)
    seed = f"{schedule_id} {fire_at.astimezone(UTC).isoformat()}".encode()
    share = int.from_bytes(hashlib.sha256(seed).digest()[:8], "big") / 2**64
    return timedelta(seconds=round(share * most_s, 3))


def explain(cron: Cron) -> str:
    """The cron line in words.

    >>> explain(parse("30 7 * * 1-5", "Europe/Berlin"))
    'At 07:30 on Monday through Friday (Europe/Berlin)'
    """
    words: str = CronSim(cron.line, datetime(2000, 1, 1, tzinfo=UTC)).explain()
    return f"{words} ({cron.zone.key})"


def upcoming(cron: Cron, moment: datetime, count: int = 3) -> tuple[str, ...]:
    """The next runs as people write them, in the line's own time zone.

    >>> upcoming(parse("@daily", "UTC"), datetime(2026, 5, 4, tzinfo=UTC), 1)
    ('Tue 2026-05-05 00:00 UTC',)
    """
    runs = islice(after(cron, moment), count)
    return tuple(f"{run.astimezone(cron.zone):%a %Y-%m-%d %H:%M %Z}" for run in runs)
