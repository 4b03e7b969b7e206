"""The engines of this machine: what packages have registered as ``genie.engines``.

``docs/engines.md`` tells how to write one. Importing what an entry point names must
stay light: the worker does it to describe itself, and has no use for torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, distributions, version
from typing import TYPE_CHECKING

from genie import logs
from genie.contracts.fleet import EngineFacts
from genie.contracts.model import ModelFile
from workers.engine.errors import load_failed
from workers.engine.protocol import Load, OnLoadProgress

if TYPE_CHECKING:
    from workers.engine.child.backend import Backend, EngineLimits

log = logs.logger("engines")

GROUP = "genie.engines"
"""The entry point group that engines register in."""

WHOLE_PROMPTS = 1_000_000
"""Tokens of one step when any prompt is read at once."""

VerifiedFiles = Callable[[], tuple[ModelFile, ...]]
"""The model's files, once each was held against its digest; raises LoadFailed."""


LoadModel = Callable[
    [Load, "EngineLimits", VerifiedFiles, OnLoadProgress], "tuple[Backend, str]"
]
"""Loads a model where it will run: a backend and the model's fingerprint; raises
LoadFailed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredEngine:
    """One engine: what it tells the planner, and how it loads a model.

    ``warm_up`` imports what every load needs, in a child that waits for a model.
    ``step_tokens`` bounds the prompt tokens of one step, by kind of device.
    """

    facts: EngineFacts
    load: LoadModel
    warm_up: Callable[[], None] | None = None
    step_tokens: Mapping[str, int] = field(default_factory=dict)

    def budget(self, device_kind: str) -> int:
        """Tokens of one step on a ``cpu`` or on ``cuda``."""
        return self.step_tokens.get(device_kind, WHOLE_PROMPTS)


@cache
def registered() -> dict[str, RegisteredEngine]:
    """Every engine of this installation by name; one that cannot be read is left out.

    Looked up once in a process: packages do not come and go while it runs.
    """
    found = (_read(point) for point in entry_points())
    return {engine.facts.name: engine for engine in found if engine is not None}


def entry_points() -> tuple[EntryPoint, ...]:
    """Every entry point of the group, of each name the first.

    Not `importlib.metadata.entry_points`, which looks only at the first of several
    records of one package: an old build's, left in a source tree, would hide ours.
    """
    found: dict[str, EntryPoint] = {}
    for distribution in distributions():
        for point in distribution.entry_points.select(group=GROUP):
            found.setdefault(point.name, point)
    return tuple(found.values())


def engine_named(name: str) -> RegisteredEngine:
    """The engine a catalog names; raises LoadFailed that says which there are."""
    engine = registered().get(name)
    if engine is not None:
        return engine
    known = ", ".join(sorted(registered())) or "none; install genie-fleet again"
    raise load_failed(
        "unknown_engine",
        f"no engine {name!r} is installed here, there is {known}; install its package "
        "on this machine or mend the catalog's engine",
    )


def facts() -> tuple[EngineFacts, ...]:
    """What this machine's engines say of themselves, by name."""
    return tuple(engine.facts for _, engine in sorted(registered().items()))


def release_of(package: str) -> str:
    """The installed version of a package as ``major.minor``; empty without it."""
    try:
        return ".".join(version(package).split(".")[:2])
    except PackageNotFoundError:
        return ""


def _read(point: EntryPoint) -> RegisteredEngine | None:
    # The border to other people's packages: one that is broken must not take the
    # worker's other engines away.
    try:
        engine = point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  # one that exits at import too
        log.error("engine_unreadable", engine=point.name, reason=str(error)[:200])
        return None
    if isinstance(engine, RegisteredEngine) and engine.facts.name == point.name:
        return engine
    log.error("engine_unreadable", engine=point.name, reason=f"{point.value} is none")
    return None
