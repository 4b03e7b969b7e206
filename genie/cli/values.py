"""Formats values for people on a terminal and for scripts in a pipe."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime

MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DisplayValue:
    """One value: its text for people and its text for scripts."""

    person: str
    script: str
    is_number: bool = False


def when(seconds: float | None) -> DisplayValue | None:
    """A moment: local time for people, ISO 8601 in UTC for scripts."""
    if seconds is None:
        return None
    return DisplayValue(person=moment(seconds), script=iso(seconds))


def age(seconds: float | None, now: float | None = None) -> DisplayValue | None:
    """For people how long ago a moment was, for scripts the moment itself.

    >>> age(1_700_000_000.0, now=1_700_000_090.0)
    DisplayValue(person='90 s', script='2023-11-14T22:13:20Z', is_number=True)
    """
    if seconds is None:
        return None
    passed = (time.time() if now is None else now) - seconds
    return DisplayValue(
        person=span(max(0.0, passed)), script=iso(seconds), is_number=True
    )


def took(seconds: float | None) -> DisplayValue | None:
    """A duration: with a unit for people, in seconds for scripts.

    >>> [took(seconds).person for seconds in (0.0131, 2.5, 42.0, 150.0, 9000.0)]
    ['13 ms', '2.5 s', '42 s', '2.5 min', '2.5 h']
    >>> took(150.0).script
    '150'
    """
    if seconds is None:
        return None
    if seconds < 1:
        person = f"{seconds * 1000:.0f} ms"
    elif seconds < 2 * MINUTE_S:
        person = f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    elif seconds < 2 * HOUR_S:
        person = f"{seconds / MINUTE_S:.1f} min"
    else:
        person = f"{seconds / HOUR_S:.1f} h"
    return DisplayValue(person=person, script=f"{round(seconds, 3):g}", is_number=True)


def span(seconds: float) -> str:
    """A duration in its coarsest sensible unit.

    >>> [span(s) for s in (4.2, 119, 120, 7200, 200_000)]
    ['4 s', '119 s', '2 min', '2 h', '2 d']
    """
    if seconds < 2 * MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < 2 * HOUR_S:
        return f"{seconds / MINUTE_S:.0f} min"
    if seconds < 2 * DAY_S:
        return f"{seconds / HOUR_S:.0f} h"
    return f"{seconds / DAY_S:.0f} d"


def short(seconds: float) -> DisplayValue:
    """A duration, right-aligned in tables: `span` for people, seconds for scripts."""
    script = f"{round(seconds, 3):g}"
    return DisplayValue(person=span(seconds), script=script, is_number=True)


def moment(seconds: float) -> str:
    """Seconds since 1970 as local time, to the second."""
    local = datetime.fromtimestamp(seconds, UTC).astimezone()
    return local.strftime("%Y-%m-%d %H:%M:%S")


def iso(seconds: float) -> str:
    """Seconds since 1970 in ISO 8601, UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def figure(text: str) -> DisplayValue | None:
    """A number with its unit, right-aligned in tables; nothing for no text."""
    return DisplayValue(person=text, script=text, is_number=True) if text else None


def size(count: float | None) -> str:
    """Bytes in the unit people use for memory.

    >>> size(24 * 1024**3), size(None)
    ('24.0 GiB', '')
    """
    return "" if count is None else f"{count / 1024**3:.1f} GiB"


def cell(value: object) -> str:
    """A value as people read it.

    >>> [cell(value) for value in (None, True, 0.25, ("a", "b"), 1500.0)]
    ['', 'yes', '0.25', 'a, b', '1500']
    """
    if value is None:
        return ""
    if isinstance(value, DisplayValue):
        return value.person
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    if isinstance(value, (tuple, list)):
        return ", ".join(cell(item) for item in value)
    return str(value)


def plain(value: object) -> str:
    """A value as scripts read it: one line, no tabs."""
    text = value.script if isinstance(value, DisplayValue) else cell(value)
    return " ".join(text.split())


def is_number(value: object) -> bool:
    """True for numbers, which are right-aligned in tables."""
    if isinstance(value, DisplayValue):
        return value.is_number
    return isinstance(value, (int, float)) and not isinstance(value, bool)
