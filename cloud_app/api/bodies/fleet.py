"""Models, personas, workers, queues, keys, dead letters and health."""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from cloud_app.api.bodies.work import JobStatus


class Held(TypedDict):
    """What a model is, and how many workers have it."""

    ready: bool
    workers: int
    parameters: int
    license: str
    context: int
    states: dict[str, int]
    personas: list[str]


class Model(TypedDict):
    """One model of the catalog."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    genie: Held


class ModelList(TypedDict):
    """Models this key may use."""

    object: Literal["list"]
    data: list[Model]


Persona = TypedDict(
    "Persona",
    {
        "id": str,
        "object": Literal["persona"],
        "tier": str,
        "ladder": list[str],
        "floor": str | None,
        "class": str,
        "max_tokens": int | None,
        "temperature": float | None,
        "sla_s": float,
        "has_system_prompt": bool,
    },
)
"""A persona, and the ladder of models that can do its work, smallest first."""


class PersonaList(TypedDict):
    """All personas."""

    object: Literal["list"]
    data: list[Persona]


class RouteQuestion(TypedDict):
    """What a route was wanted for."""

    model: str | None
    persona: str | None


class Route(TypedDict):
    """Where a request would go now: chosen or refused, with the reasons."""

    object: Literal["route"]
    asked: RouteQuestion
    route: dict[str, Any]


class Placement(TypedDict):
    """A model the planner wants on a worker."""

    model: str
    quant: str
    slots: int
    context: int
    reason: str
    since: int


class Worker(TypedDict):
    """One worker as the cloud sees it; what it reported of itself as it came."""

    id: str
    object: Literal["worker"]
    name: str
    org: str
    state: str
    queues: list[str]
    hostname: str
    version: str
    gpus: list[dict[str, Any]]
    host: dict[str, Any] | None
    models: list[dict[str, Any]]
    placements: list[Placement]
    last_heartbeat_s: float


class WorkerList(TypedDict):
    """Every worker of this org."""

    object: Literal["list"]
    data: list[Worker]


Queue = TypedDict(
    "Queue",
    {
        "queue": str,
        "model": str,
        "class": str,
        "waiting": int,
        "consumers": int,
        "oldest_s": float | None,
        "sla_s": float | None,
    },
)
"""What waits for one model, in one class of work; ages in seconds."""


class QueueList(TypedDict):
    """Queues this org may use."""

    object: Literal["list"]
    data: list[Queue]


class Figures(TypedDict):
    """How the fleet does: the last minute's rate, jobs now, and the last hour."""

    tokens_per_s: float
    running: int
    waiting: int
    first_token_p95_s: float | None
    failed_1h: int


class JobLine(TypedDict):
    """A job without any of its text."""

    id: str
    status: JobStatus
    persona: str | None
    model: str
    worker: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    tokens: int


class ReasonNow(TypedDict):
    """Where the work of some personas goes; without a share, where it would go."""

    personas: list[str]
    model: str | None
    share: float | None
    first_token_p95_s: float | None
    why: str


class FleetNow(TypedDict):
    """The fleet at one moment; jobs that run come first, then the newest."""

    object: Literal["fleet"]
    org: str
    now: float
    figures: Figures
    workers: list[Worker]
    queues: list[Queue]
    jobs: list[JobLine]
    routes: list[ReasonNow]


class JoinToken(TypedDict):
    """A token for one worker, and the command to run there; shown only now."""

    object: Literal["join_token"]
    token: str
    queues: list[str]
    expires_at: int
    command: str


class Key(TypedDict):
    """An API key, without its secret."""

    id: str
    object: Literal["key"]
    name: str
    prefix: str
    is_admin: bool
    allowed_models: list[str] | None
    created_at: int
    revoked_at: int | None


class NewKey(Key):
    """An API key with its secret, shown only now."""

    secret: str


class KeyList(TypedDict):
    """Every API key of this org."""

    object: Literal["list"]
    data: list[Key]


class RevokedKey(TypedDict):
    """A key that opens nothing any more."""

    object: Literal["key"]
    id: str
    revoked: bool


_LetterClass = TypedDict("_LetterClass", {"class": str | None})


class Letter(_LetterClass):
    """A message no worker could serve; ``content`` only when it was asked for."""

    id: str
    object: Literal["dead_letter"]
    queue: str
    source: str | None
    reason: str | None
    why: str | None
    died_at: float | None
    model: str | None
    persona: str | None
    size_bytes: int
    content: NotRequired[dict[str, Any] | str]


class DeadLetterList(TypedDict):
    """Dead letters of this org, oldest first."""

    object: Literal["list"]
    data: list[Letter]


class DiscardedDeadLetter(TypedDict):
    """A dead letter that was removed."""

    object: Literal["dead_letter"]
    id: str
    discarded: bool


class LivenessStatus(TypedDict):
    """The process answers."""

    status: Literal["ok"]


class SchemaVersion(TypedDict):
    """The migration this release needs, and the one the database is at.

    ``found`` is null while the database cannot be asked. A later one than needed is
    fine as long as the check of the schema says so.
    """

    needs: str
    found: str | None


class Health(TypedDict):
    """Whether work can be accepted: each part is ``ok``, or says why not."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str]
    schema: SchemaVersion
    version: NotRequired[str]


class VersionInfo(TypedDict):
    """Release, and the protocol workers speak with it."""

    version: str
    protocol: int
