"""Models, personas, workers, queues, keys, dead letters and health."""

from datetime import datetime
from typing import Annotated, Any, Literal

from genie.api_types.base import NEVER_NULL, ApiObject, ListAnswer
from genie.contracts.fleet import ModelState
from genie.contracts.inference import JobState


class ModelDetails(ApiObject, frozen=True):
    """What a model is, and how many workers have it in which state."""

    ready: bool = False
    workers: int = 0
    parameters: int = 0
    license: str = ""
    context: int = 0
    states: dict[str, int] = {}
    personas: tuple[str, ...] = ()


class ModelAnswer(ApiObject, frozen=True, tag_field="object", tag="model"):
    """One model of the catalog."""

    id: str
    created: int = 0
    owned_by: str = "genie"
    genie: ModelDetails = ModelDetails()


class ModelList(ListAnswer[ModelAnswer], frozen=True):
    """Models this key may use."""


class PersonaAnswer(
    ApiObject,
    frozen=True,
    rename={"work_class": "class"},
    tag_field="object",
    tag="persona",
):
    """A persona, and the ladder of models that can do its work, smallest first."""

    id: str
    tier: str = ""
    ladder: tuple[str, ...] = ()
    floor: str | None = None
    work_class: str = ""
    max_tokens: int | None = None
    temperature: float | None = None
    sla_s: float = 0.0
    has_system_prompt: bool = False


class PersonaList(ListAnswer[PersonaAnswer], frozen=True):
    """All personas."""


class PlacementAnswer(ApiObject, frozen=True):
    """A model the planner wants on a worker; ``since`` is seconds since 1970."""

    model: str
    quant: str = ""
    slots: int = 0
    context: int = 0
    reason: str = ""
    since: int = 0


class GpuAnswer(ApiObject, frozen=True):
    """One GPU of a worker, as last reported."""

    name: str
    index: int = 0
    uuid: str = ""
    memory_total_bytes: int = 0
    memory_used_bytes: int = 0
    foreign_bytes: int = 0
    utilization_percent: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None


class HostAnswer(ApiObject, frozen=True):
    """A worker's machine, as last reported."""

    cpu_count: int = 0
    memory_total_bytes: int = 0
    memory_available_bytes: int = 0
    disk_free_bytes: int = 0


class WorkerModelFile(ApiObject, frozen=True):
    """One file of a model, with its digest once that is known."""

    name: str
    sha256: str | None = None
    size_bytes: int | None = None


class WorkerModel(ApiObject, frozen=True):
    """One model on one worker, as last reported; ``progress`` from 0 to 1, ``stage``
    while it loads: verifying, reading, testing."""

    model: str
    state: ModelState
    quant: str = ""
    fingerprint: str | None = None
    progress: float | None = None
    stage: str | None = None
    slots: int = 0
    context: int = 0
    in_flight: int = 0
    waiting: int = 0
    tokens_per_s: float = 0.0
    peak_bytes: int = 0
    files: tuple[WorkerModelFile, ...] = ()
    error: str | None = None
    retry_at: datetime | None = None


class WorkerAnswer(ApiObject, frozen=True, tag_field="object", tag="worker"):
    """One worker as the cloud sees it; ``last_heartbeat_s`` is seconds ago."""

    id: str
    name: str
    org: str = ""
    state: str = "unknown"
    queues: tuple[str, ...] = ()
    hostname: str = ""
    version: str = ""
    gpus: tuple[GpuAnswer, ...] = ()
    host: HostAnswer | None = None
    models: tuple[WorkerModel, ...] = ()
    placements: tuple[PlacementAnswer, ...] = ()
    last_heartbeat_s: Annotated[float | None, NEVER_NULL] = None


class WorkerList(ListAnswer[WorkerAnswer], frozen=True):
    """Every worker of this org."""


class QueueAnswer(ApiObject, frozen=True, rename={"work_class": "class"}):
    """What waits for one model, in one class of work; ages in seconds."""

    queue: str
    model: str = ""
    work_class: str = ""
    waiting: int = 0
    consumers: int = 0
    oldest_s: float | None = None
    sla_s: float | None = None


class QueueList(ListAnswer[QueueAnswer], frozen=True):
    """Queues this org may use."""


class FiguresAnswer(ApiObject, frozen=True):
    """How the fleet does: the last minute's rate, jobs now, and the last hour."""

    tokens_per_s: float = 0.0
    running: int = 0
    waiting: int = 0
    first_token_p95_s: float | None = None
    failed_1h: int = 0


class JobLine(ApiObject, frozen=True):
    """A job without any of its text; times are seconds since 1970."""

    id: str
    status: JobState
    persona: str | None = None
    model: str = ""
    worker: str | None = None
    created_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    tokens: int = 0


class ReasonAnswer(ApiObject, frozen=True):
    """Where the work of some personas goes, and why.

    ``personas`` is empty for work that named its model. ``share`` is of the last
    hour's jobs; without one this is where such work would go now, ``model`` None for
    nowhere.
    """

    personas: tuple[str, ...] = ()
    model: str | None = None
    share: float | None = None
    first_token_p95_s: float | None = None
    why: str = ""


class FleetAnswer(ApiObject, frozen=True, tag_field="object", tag="fleet"):
    """The fleet at ``now``; jobs that run come first, then the newest."""

    org: str
    now: float
    figures: FiguresAnswer = FiguresAnswer()
    workers: tuple[WorkerAnswer, ...] = ()
    queues: tuple[QueueAnswer, ...] = ()
    jobs: tuple[JobLine, ...] = ()
    routes: tuple[ReasonAnswer, ...] = ()


class JoinTokenAnswer(ApiObject, frozen=True, tag_field="object", tag="join_token"):
    """A token for one worker, and the command to run there; shown only now."""

    token: str
    queues: tuple[str, ...] = ()
    expires_at: int = 0
    command: str = ""


class KeyAnswer(ApiObject, frozen=True, tag_field="object", tag="key"):
    """An API key, without its secret."""

    id: str
    name: str
    prefix: str = ""
    is_admin: bool = False
    allowed_models: tuple[str, ...] | None = None
    created_at: int = 0
    revoked_at: int | None = None


class NewKeyAnswer(KeyAnswer, frozen=True, tag="key"):
    """An API key with its secret, shown only now."""

    secret: str = ""


class KeyList(ListAnswer[KeyAnswer], frozen=True):
    """Every API key of this org."""


class RevokedKey(ApiObject, frozen=True, tag_field="object", tag="key"):
    """A key that opens nothing any more."""

    id: str
    revoked: bool = True


class DeadLetterSummary(
    ApiObject,
    frozen=True,
    rename={"work_class": "class"},
    tag_field="object",
    tag="dead_letter",
):
    """A message no worker could serve, without its text."""

    id: str
    queue: str
    source: str | None = None
    reason: str | None = None
    why: str | None = None
    died_at: float | None = None
    model: str | None = None
    work_class: str | None = None
    persona: str | None = None
    size_bytes: int = 0


class DeadLetterAnswer(DeadLetterSummary, frozen=True, tag="dead_letter"):
    """A message no worker could serve; ``content`` only when it was asked for."""

    content: Annotated[dict[str, Any] | str | None, NEVER_NULL] = None


class DeadLetterList(ListAnswer[DeadLetterSummary], frozen=True):
    """Dead letters of this org, oldest first."""


class DiscardedDeadLetter(
    ApiObject, frozen=True, tag_field="object", tag="dead_letter"
):
    """A dead letter that was removed."""

    id: str
    discarded: bool = True


class LivenessStatus(ApiObject, frozen=True):
    """The process answers."""

    status: Literal["ok"] = "ok"


class SchemaVersion(ApiObject, frozen=True):
    """The migration this release needs, and the one the database is at.

    ``found`` is null while the database cannot be asked. A later one than needed is
    fine as long as the check of the schema says so.
    """

    needs: str | None = None
    found: str | None = None


class ReadinessAnswer(ApiObject, frozen=True):
    """Whether work can be accepted: each part is ``ok``, or says why not."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str] = {}
    schema: SchemaVersion = SchemaVersion()


class HealthAnswer(ReadinessAnswer, frozen=True):
    """Whether work can be accepted, and by which release."""

    version: str = ""


class VersionInfo(ApiObject, frozen=True):
    """Release, and the protocol workers speak with it."""

    version: str
    protocol: int
