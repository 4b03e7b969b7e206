"""The catalog: open-weights models, personas and their ladders, from a TOML file."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from genie import engines, sources
from genie.contracts.base import Count, Seconds
from genie.contracts.codec import field as field_of
from genie.contracts.inference import WorkClass
from genie.contracts.model import Capability, ModelFile, ModelSpec, Quant
from genie.errors import CatalogError
from genie.memory import DTYPE_BYTES

SHIPPED = Path(__file__).with_name("catalog.toml")
"""The default catalog that comes with the product."""

ECHO = Path(__file__).with_name("catalog-echo.toml")
"""The same personas on the echo engine: no weights, for tests and benchmarks."""

CUDA_ONLY = ("int8", "nf4")
"""Weight formats that only GPUs compute with."""

TIERS = ("lite", "standard", "pro", "coder", "heavy")
"""Tier aliases a request may name as its model."""


class CatalogEntry(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Base of what people write in a catalog: a field nobody knows is a mistake."""


class Sla(CatalogEntry, frozen=True, kw_only=True):
    """The wait that 95 of 100 interactive requests of a persona stay below."""

    queue_wait_p95_s: Seconds = 30.0


class Persona(CatalogEntry, frozen=True, kw_only=True):
    """A kind of work and the ladder of models that can do it, smallest first.

    ``floor`` is the smallest rung expected to solve the task: rungs below it serve only
    when no machine of the queue can run the floor or anything above, and the answer
    says so.
    """

    name: str
    tier: str
    ladder: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    floor: str | None = None
    system_prompt: str | None = None
    needs: tuple[Capability, ...] = (Capability.CHAT,)
    max_tokens: Count = 512
    temperature: float = 0.0
    work_class: WorkClass = WorkClass.INTERACTIVE
    sla: Sla = Sla()
    standing: bool = False
    """True: the model is kept ready even when nobody asks."""

    replicas: Annotated[int, msgspec.Meta(ge=1)] = 1
    """How many workers keep it ready; with two, one may die unnoticed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Models by id and personas by name; every ladder rung is a model of it."""

    models: dict[str, ModelSpec]
    personas: dict[str, Persona]

    def tier(self, name: str) -> Persona | None:
        """The ladder a tier alias stands for, without that persona's own prompt."""
        talkers = (p for p in self.personas.values() if Capability.CHAT in p.needs)
        found = (p for p in talkers if p.tier == name)
        persona = next(found, None)
        return persona and msgspec.structs.replace(persona, system_prompt=None)

    def suggestions(self, name: str) -> tuple[str, ...]:
        """Names near to ``name`` that do exist, at most three."""
        return _near(name, (*self.models, *self.personas, *TIERS))

    def persona_suggestions(self, name: str) -> tuple[str, ...]:
        """Personas with a name near to ``name``, else the first three."""
        return _near(name, self.personas) or tuple(self.personas)[:3]


def _near(name: str, known: Iterable[str]) -> tuple[str, ...]:
    unique = tuple(dict.fromkeys(known))
    return tuple(get_close_matches(name, unique, n=3, cutoff=0.4))


class _QuantEntry(CatalogEntry, frozen=True, kw_only=True):
    name: str
    dtype: str
    devices: tuple[str, ...] = ("cuda", "cpu")
    weight_bytes: Count | None = None


class _ModelEntry(CatalogEntry, frozen=True, kw_only=True):
    id: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]*(:[a-z0-9._-]+)?$")]
    family: str
    parameters: Count
    license: str
    source: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_-]*:")]
    context_max: Annotated[int, msgspec.Meta(ge=1)]
    layers: Annotated[int, msgspec.Meta(ge=1)]
    kv_heads: Annotated[int, msgspec.Meta(ge=1)]
    head_dim: Annotated[int, msgspec.Meta(ge=1)]
    quants: Annotated[tuple[_QuantEntry, ...], msgspec.Meta(min_length=1)]
    capabilities: tuple[Capability, ...] = (Capability.CHAT,)
    files: dict[str, str] = {}
    engine: str = "transformers"
    enabled: bool = True
    pooling: Literal["mean", "cls"] = "mean"
    tool_format: str | None = None


class _CatalogFile(CatalogEntry, frozen=True, kw_only=True):
    models: tuple[_ModelEntry, ...]
    personas: tuple[Persona, ...]


def load(path: Path = SHIPPED) -> Catalog:
    """Read a catalog file; raises `CatalogError` with file, line and field."""
    try:
        source = path.read_text(encoding="utf-8")
        raw = tomllib.loads(source)
    except OSError as error:
        raise CatalogError(
            f"{path}: {error.strerror}; set GENIE_CATALOG to a catalog file"
        ) from error
    except UnicodeDecodeError as error:
        raise CatalogError(f"{path}: byte {error.start} is not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise CatalogError(f"{path}: {error}") from error
    try:
        parsed = msgspec.convert(raw, _CatalogFile)
    except msgspec.ValidationError as error:
        name = field_of(error) or ""
        raise CatalogError(
            f"{path}:{_line(source, name)}: field {name}: {error}", param=name
        ) from error
    return _checked(path, source, parsed)


def _checked(path: Path, source: str, parsed: _CatalogFile) -> Catalog:
    models = {entry.id: _spec(entry) for entry in parsed.models}
    problem = (
        _repeated("models", "id", [entry.id for entry in parsed.models])
        or _repeated("personas", "name", [p.name for p in parsed.personas])
        or _wrong_model(parsed.models)
        or _wrong_persona(parsed.personas, models)
    )
    if problem is not None:
        name, why = problem
        at = _line(source, name)
        raise CatalogError(f"{path}:{at}: field {name}: {why}", param=name)
    return Catalog(models=models, personas={p.name: p for p in parsed.personas})


def _repeated(table: str, key: str, names: list[str]) -> tuple[str, str] | None:
    for number, name in enumerate(names):
        if name in names[:number]:
            return f"{table}[{number}].{key}", f"{name} is there twice"
    return None


def _wrong_model(models: tuple[_ModelEntry, ...]) -> tuple[str, str] | None:
    """The first source or quant that cannot be what it says, and why."""
    for number, model in enumerate(models):
        why = _unread_source(model)
        if why is not None:
            return f"models[{number}].source", f"{model.id}: {why}"
        for quant in model.quants:
            if quant.dtype in CUDA_ONLY and set(quant.devices) != {"cuda"}:
                why = f'{quant.dtype} runs on GPUs only; say devices = ["cuda"]'
                return f"models[{number}].quants", f"{model.id}: {why}"
    return None


def _unread_source(model: _ModelEntry) -> str | None:
    kinds = engines.assumed(model.engine).sources
    kind = sources.kind_of(model.source)
    if kind not in kinds:
        known = " or ".join(f"{one}:" for one in kinds)
        return f"the engine {model.engine} reads no {kind}: source; write {known}"
    try:
        if model.engine == "echo":
            sources.EchoOptions.read(model.source)
        elif kind == model.engine:
            sources.slots_of(model.source)
    except CatalogError as error:
        return error.message
    return None


def _wrong_persona(
    personas: tuple[Persona, ...], models: dict[str, ModelSpec]
) -> tuple[str, str] | None:
    """The first field that contradicts another one, and why."""
    for number, persona in enumerate(personas):
        at = f"personas[{number}]"
        unknown = [model for model in persona.ladder if model not in models]
        if unknown:
            why = f"names {unknown[0]}, which is not a model of this file"
            return f"{at}.ladder", f"persona {persona.name} {why}"
        if persona.floor is not None and persona.floor not in persona.ladder:
            return f"{at}.floor", f"{persona.floor} is no rung of the ladder"
        if persona.tier not in TIERS:
            return f"{at}.tier", f"{persona.tier} is not one of {', '.join(TIERS)}"
    return None


def _spec(entry: _ModelEntry) -> ModelSpec:
    fields = msgspec.structs.asdict(entry)
    fields["quants"] = tuple(_quant(entry, quant) for quant in entry.quants)
    fields["files"] = tuple(ModelFile(name=n, sha256=d) for n, d in entry.files.items())
    return ModelSpec(**fields)


def _quant(entry: _ModelEntry, quant: _QuantEntry) -> Quant:
    fields = msgspec.structs.asdict(quant)
    if quant.weight_bytes is None:
        fields["weight_bytes"] = entry.parameters * DTYPE_BYTES.get(quant.dtype, 2)
    return Quant(**fields)


def _line(source: str, name: str) -> int:
    """Line of the n-th table a dotted field name speaks of, or of its key in there."""
    lines = source.splitlines()
    table, _, rest = name.partition("[")
    starts = [n for n, line in enumerate(lines) if line.strip() == f"[[{table}]]"]
    index = int(rest.partition("]")[0]) if rest else 0
    start = starts[index] if index < len(starts) else 0
    key = rest.partition("].")[2] if rest else table
    return _find(lines, key.partition(".")[0].partition("[")[0], start)


def _find(lines: list[str], key: str, start: int) -> int:
    for offset, line in enumerate(lines[start:]):
        if offset and line.strip().startswith("[["):
            break
        if key and line.strip().partition("=")[0].strip().partition(".")[0] == key:
            return start + offset + 1
    return start + 1
