"""Parses the options of a catalog source (pure)."""

import math
from dataclasses import dataclass
from urllib.parse import parse_qsl

from genie.errors import CatalogError

SLOTS_MAX = 65_536
"""The most places a source can give an engine without weights."""


def kind_of(source: str) -> str:
    """The word before the colon: ``hf``, ``path``, ``pypi``, or an engine's own.

    >>> kind_of("hf:tiny/tiny@main"), kind_of("echo:?slots=8")
    ('hf', 'echo')
    """
    return source.partition(":")[0]


def options_of(source: str) -> dict[str, str]:
    """The options after the question mark, as written; the last of a name counts.

    >>> options_of("echo:?ms_per_token=10&slots=8")
    {'ms_per_token': '10', 'slots': '8'}
    """
    _, _, query = source.partition("?")
    return dict(parse_qsl(query, keep_blank_values=True))


def slots_of(source: str) -> int | None:
    """The concurrent requests that a source allows; None when it does not say.

    Raises CatalogError for anything but a whole number from 1 to `SLOTS_MAX`.

    >>> slots_of("echo:?slots=1024"), slots_of("echo:")
    (1024, None)
    """
    said = options_of(source).get("slots")
    if said is None:
        return None
    try:
        slots = int(said)
    except ValueError:
        slots = 0
    if not 1 <= slots <= SLOTS_MAX:
        raise _wrong(source, "slots", said, f"a whole number from 1 to {SLOTS_MAX}")
    return slots


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoOptions:
    """The options of a source such as ``echo:?ms_per_token=10&slots=8``.

    ``slots`` is how many requests are answered at once; ``load_s`` is how long loading
    takes; ``fail`` makes loading fail with that reason; a prompt that contains
    ``crash_on`` kills the engine; ``once`` ends an answer with the prompt's last word.
    """

    ms_per_token: float = 0.0
    slots: int | None = None
    load_s: float = 0.0
    fail: str | None = None
    crash_on: str | None = None
    once: bool = False

    @classmethod
    def read(cls, source: str) -> "EchoOptions":
        """The options of a source; raises CatalogError naming a wrong one."""
        said = options_of(source)
        unknown = sorted(set(said) - set(cls.__dataclass_fields__))
        if unknown:
            known = ", ".join(cls.__dataclass_fields__)
            raise CatalogError(f"echo has no option {unknown[0]!r}; it knows {known}")
        return cls(
            ms_per_token=_number(source, said, "ms_per_token"),
            slots=slots_of(source),
            load_s=_number(source, said, "load_s"),
            fail=said.get("fail"),
            crash_on=said.get("crash_on") or None,
            once=_flag(source, said, "once"),
        )


def _number(source: str, said: dict[str, str], name: str) -> float:
    try:
        value = float(said.get(name, "0"))
    except ValueError:
        value = -1.0
    if not (math.isfinite(value) and value >= 0):
        raise _wrong(source, name, said[name], "a number, 0 or more")
    return value


def _flag(source: str, said: dict[str, str], name: str) -> bool:
    value = said.get(name, "0")
    if value not in ("0", "1"):
        raise _wrong(source, name, value, "0 or 1")
    return value == "1"


def _wrong(source: str, name: str, said: str, wanted: str) -> CatalogError:
    return CatalogError(f"{name} of {source!r} is {said!r}; write {wanted}")
