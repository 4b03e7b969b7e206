"""Fills ``{{date}}`` and other variables of a schedule's request when it runs."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from genie.errors import BadRequest

_FIELD = re.compile(r"(\\?)\{\{(.*?)\}\}", re.DOTALL)

VariableWriter = Callable[[datetime, datetime, str], str]
"""A value from when a run was due, when it starts (both local), and the name."""

VARIABLES: Mapping[str, VariableWriter] = {
    "date": lambda due, _now, _name: f"{due:%Y-%m-%d}",
    "time": lambda due, _now, _name: f"{due:%H:%M}",
    "weekday": lambda due, _now, _name: f"{due:%A}",
    "week": lambda due, _now, _name: f"{due:%G-W%V}",
    "month": lambda due, _now, _name: f"{due:%Y-%m}",
    "year": lambda due, _now, _name: f"{due:%Y}",
    "yesterday": lambda due, _now, _name: f"{due - timedelta(days=1):%Y-%m-%d}",
    "tomorrow": lambda due, _now, _name: f"{due + timedelta(days=1):%Y-%m-%d}",
    "fire_at": lambda due, _now, _name: due.isoformat(timespec="seconds"),
    "now": lambda _due, now, _name: now.isoformat(timespec="seconds"),
    "schedule": lambda _due, _now, name: name,
}
"""All variables; moments are in the schedule's time zone."""


def fill(text: str, due: datetime, now: datetime, name: str) -> str:
    r"""``text`` with every ``{{variable}}`` replaced; ``\{{`` stands for itself.

    Raises `BadRequest` naming a variable that does not exist.

    >>> fill("News of {{date}}", datetime(2026, 5, 4), datetime(2026, 5, 4), "news")
    'News of 2026-05-04'
    """

    def one(found: re.Match[str]) -> str:
        if found[1]:
            return found[0][1:]
        write = VARIABLES.get(found[2].strip())
        if write is None:
            raise _unknown(found[2].strip())
        return write(due, now, name)

    return _FIELD.sub(one, text)


def fill_all(value: object, due: datetime, now: datetime, name: str) -> object:
    """Fills every text inside a JSON value; field names stay as they are."""
    if isinstance(value, str):
        return fill(value, due, now, name)
    if isinstance(value, list):
        return [fill_all(one, due, now, name) for one in value]
    if isinstance(value, dict):
        return {key: fill_all(one, due, now, name) for key, one in value.items()}
    return value


def _unknown(name: str) -> BadRequest:
    return BadRequest(
        f"there is no variable {name[:40]!r}; there are: {' '.join(VARIABLES)}. "
        r"Write \{{ for literal braces",
        param="request",
    )
