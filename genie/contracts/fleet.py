"""What a worker and the cloud tell each other over HTTP."""

from datetime import datetime
from enum import StrEnum

from genie.contracts.base import Contract, Count, Seconds
from genie.contracts.model import ModelFile, ModelSpec


class ModelState(StrEnum):
    """A model on one worker, as that worker sees it."""

    ABSENT = "absent"
    FETCHING = "fetching"
    ON_DISK = "on_disk"
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    FAILED = "failed"


class LoadStage(StrEnum):
    """What a loading model's process is at: its files, its weights, its self-test."""

    VERIFYING = "verifying"
    READING = "reading"
    TESTING = "testing"


class DirectiveKind(StrEnum):
    """What the cloud can ask of a worker."""

    PREFETCH = "prefetch"
    LOAD = "load"
    UNLOAD = "unload"
    DRAIN = "drain"
    RESUME = "resume"


class GpuStatus(Contract, frozen=True, kw_only=True):
    """One GPU now. ``foreign_bytes`` is memory held by processes not ours."""

    index: Count
    uuid: str
    name: str
    memory_total_bytes: Count
    memory_used_bytes: Count
    foreign_bytes: Count = 0
    utilization_percent: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None


class HostStatus(Contract, frozen=True, kw_only=True):
    """The machine now; a host without a GPU serves from this memory."""

    cpu_count: Count
    memory_total_bytes: Count
    memory_available_bytes: Count
    disk_free_bytes: Count


class ModelStatus(Contract, frozen=True, kw_only=True):
    """One model on one worker now. ``tokens_per_s`` is measured, 0 until known."""

    model: str
    quant: str
    state: ModelState
    fingerprint: str | None = None
    progress: float | None = None
    stage: LoadStage | None = None
    slots: Count = 0
    context: Count = 0
    in_flight: Count = 0
    waiting: Count = 0
    tokens_per_s: float = 0.0
    peak_bytes: Count = 0
    files: tuple[ModelFile, ...] = ()
    error: str | None = None
    retry_at: datetime | None = None


class Directive(Contract, frozen=True, kw_only=True):
    """One open instruction; idempotent, sent until the worker's state shows it done."""

    id: str
    kind: DirectiveKind
    model: str | None = None
    quant: str | None = None
    fingerprint: str | None = None
    deadline_at: datetime | None = None


class DirectiveStatus(Contract, frozen=True, kw_only=True):
    """How far a worker is with a directive: accepted, running, done or failed."""

    id: str
    state: str
    progress: float | None = None
    error: str | None = None


class DesiredModel(Contract, frozen=True, kw_only=True):
    """One model this worker should hold, with everything needed to load it."""

    spec: ModelSpec
    quant: str
    slots: Count
    context: Count
    reason: str
    fingerprint: str | None = None


class EngineMemory(StrEnum):
    """How the memory of an engine's models is counted."""

    WEIGHTS = "weights"
    """Weights, keys of every slot and overhead, by arithmetic."""

    NONE = "none"
    """Not at all: it has no weights, and as many slots as a model's source says."""


class EngineFacts(Contract, frozen=True, kw_only=True):
    """One engine of a worker: all that planning has to know of it.

    ``sources`` are the kinds of catalog source it loads (the word before the colon),
    ``dtypes`` what it computes in (empty: whatever a quant says), ``devices`` the kinds
    it runs on. Without ``has_child`` it runs in a thread of the worker.
    """

    name: str
    version: str = ""
    sources: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cuda", "cpu")
    memory: EngineMemory = EngineMemory.WEIGHTS
    has_child: bool = True


class Registration(Contract, frozen=True, kw_only=True):
    """What a worker says of itself when it joins.

    ``engines`` are names; ``engine_facts`` what their registry says of them. A cloud of
    the release before refuses the latter, so to it a worker only names them.
    """

    hostname: str
    name: str
    boot_id: str
    version: str
    host: HostStatus
    gpus: tuple[GpuStatus, ...] = ()
    engines: tuple[str, ...] = ()
    engine_facts: tuple[EngineFacts, ...] = ()
    labels: dict[str, str] = {}
    protocol: int = 1
    """`PROTOCOL`; what is left out is the first one, whatever the reader speaks."""


class RegistrationReply(Contract, frozen=True, kw_only=True):
    """The cloud's answer: who the worker is and where its work comes from."""

    worker_id: str
    worker_secret: str
    name: str
    org: str
    broker_url: str
    queues: tuple[str, ...]
    heartbeat_s: Seconds = 30.0


class Heartbeat(Contract, frozen=True, kw_only=True):
    """A worker's status; ``seq`` grows by one within a ``boot_id``."""

    seq: Count
    boot_id: str
    host: HostStatus
    gpus: tuple[GpuStatus, ...] = ()
    models: tuple[ModelStatus, ...] = ()
    directives: tuple[DirectiveStatus, ...] = ()
    draining: bool = False
    protocol: int = 1
    """`PROTOCOL`; what is left out is the first one, whatever the reader speaks."""


class HeartbeatReply(Contract, frozen=True, kw_only=True):
    """The full desired set, always: a lost answer harms nothing."""

    ack_seq: Count
    server_time: datetime
    next_in_s: Seconds
    directives: tuple[Directive, ...] = ()
    desired: tuple[DesiredModel, ...] = ()
    register: bool = False
