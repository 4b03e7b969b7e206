"""The whole fleet at one moment, as the cloud's owner sees it."""

from genie.api_types import ApiObject, QueueAnswer, WorkerAnswer
from genie.contracts.inference import JobState


class FiguresAnswer(ApiObject, frozen=True):
    """How the fleet does: the rate of the last minute, jobs now, the last hour."""

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
    model: str | None = None
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


class FleetAnswer(ApiObject, frozen=True):
    """The fleet at ``now``; jobs that run come first, then the newest."""

    org: str
    now: float
    figures: FiguresAnswer = FiguresAnswer()
    workers: tuple[WorkerAnswer, ...] = ()
    queues: tuple[QueueAnswer, ...] = ()
    jobs: tuple[JobLine, ...] = ()
    routes: tuple[ReasonAnswer, ...] = ()
