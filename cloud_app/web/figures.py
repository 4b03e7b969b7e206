"""The five figures of the Fleet page and their last hour: arithmetic on job times."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

from cloud_app.store.reports import JobTimes
from genie.api_types import FiguresAnswer
from genie.contracts.inference import JobState

HOUR = timedelta(hours=1)
STEPS = 30
NOW_S = 60.0
"""Tokens a second are those of the last minute."""

WIDTH, HEIGHT = 182.0, 28.0

FAILURES = frozenset({JobState.FAILED, JobState.TIMEOUT})


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureTile:
    """One figure now, and its last hour as points of an SVG line."""

    id: str
    name: str
    value: str
    line: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkShare:
    """How much of the last hour's work went from one persona to one model."""

    persona: str | None
    model: str
    share: float
    first_token_p95_s: float | None
    newest_job_id: str


def figures_now(
    jobs: Sequence[JobTimes], counts: Mapping[JobState, int], now: datetime
) -> FiguresAnswer:
    """The five figures; ``counts`` are of all jobs."""
    minute = now - timedelta(seconds=NOW_S)
    return FiguresAnswer(
        tokens_per_s=round(tokens_between(jobs, minute, now) / NOW_S, 1),
        running=counts.get(JobState.RUNNING, 0),
        waiting=counts.get(JobState.QUEUED, 0),
        first_token_p95_s=percentile_95(_first_tokens(jobs, now - HOUR, now)),
        failed_1h=sum(counts.get(state, 0) for state in FAILURES),
    )


def tiles(
    jobs: Sequence[JobTimes], counts: Mapping[JobState, int], now: datetime
) -> tuple[FigureTile, ...]:
    """The five figures, in the order they are shown, and the hour before them."""
    said, spans = figures_now(jobs, counts, now), _spans(now)
    running = [float(running_at(jobs, end)) for _, end in spans]
    waiting = [float(waiting_at(jobs, end)) for _, end in spans]
    failed = [float(sum(is_failure(j, a, b) for j in jobs)) for a, b in spans]
    step_s = HOUR.total_seconds() / STEPS
    rates = [tokens_between(jobs, a, b) / step_s for a, b in spans]
    p95 = seconds(said.first_token_p95_s)
    return (
        _tile("tokens", "Tokens / s", rounded(said.tokens_per_s), rates),
        _tile("running", "Jobs running", str(said.running), running),
        _tile("waiting", "Waiting", str(said.waiting), waiting),
        _tile("ttft", "TTFT p95", p95, _first_token_line(jobs, spans)),
        _tile("failed", "Failed · 1 h", str(said.failed_1h), failed),
    )


def shares(jobs: Sequence[JobTimes], now: datetime) -> tuple[WorkShare, ...]:
    """Where the last hour's work went, the largest share first."""
    recent = [job for job in jobs if job.created_at >= now - HOUR]
    groups: dict[tuple[str | None, str], list[JobTimes]] = {}
    for job in recent:
        groups.setdefault((job.persona, job.model), []).append(job)
    found = [_share(group, len(recent)) for group in groups.values()]
    return tuple(sorted(found, key=lambda s: (-s.share, s.persona or "", s.model)))


def _share(group: Sequence[JobTimes], total: int) -> WorkShare:
    times = [job.first_token_s for job in group if job.first_token_s is not None]
    newest = max(group, key=lambda job: job.created_at)
    return WorkShare(
        persona=newest.persona,
        model=newest.model,
        share=len(group) / total,
        first_token_p95_s=percentile_95(times),
        newest_job_id=newest.id,
    )


def running_at(jobs: Iterable[JobTimes], at: datetime) -> int:
    """Jobs a worker was busy with at a moment."""
    return sum(_covers(job.started_at, job.finished_at, at) for job in jobs)


def waiting_at(jobs: Iterable[JobTimes], at: datetime) -> int:
    """Jobs that were accepted and not yet started at a moment."""
    return sum(
        _covers(job.created_at, job.started_at or job.finished_at, at) for job in jobs
    )


def is_failure(job: JobTimes, start: datetime, end: datetime) -> bool:
    """True when a job failed or ran out of time in this span."""
    at = job.finished_at
    return job.state in FAILURES and at is not None and start < at <= end


def tokens_between(jobs: Iterable[JobTimes], start: datetime, end: datetime) -> float:
    """Tokens made in a span; a job's tokens count evenly over the time it made them."""
    return sum(_tokens(job, start, end) for job in jobs)


def _tokens(job: JobTimes, start: datetime, end: datetime) -> float:
    last = job.finished_at
    first = job.first_token_at or job.started_at or last
    if last is None or first is None:
        return 0.0
    length = (last - first).total_seconds()
    if length <= 0:
        return job.tokens if start < last <= end else 0.0
    overlap = (min(last, end) - max(first, start)).total_seconds()
    return job.tokens * max(0.0, overlap) / length


def percentile_95(values: Sequence[float]) -> float | None:
    """The value that 95 of 100 do not exceed; None without values.

    >>> percentile_95([float(n) for n in range(1, 101)])
    95.0
    """
    if not values:
        return None
    return sorted(values)[ceil(0.95 * len(values)) - 1]


def seconds(value: float | None) -> str:
    """A duration as people read it.

    >>> [seconds(s) for s in (None, 0.034, 4.2, 74.2, 150.0, 9000.0)]
    ['–', '0.03 s', '4.2 s', '74 s', '2.5 min', '2.5 h']
    """
    if value is None:
        return "–"
    if value < 10:
        return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"
    if value < 120:
        return f"{value:.0f} s"
    if value < 7200:
        return f"{value / 60:.1f} min"
    return f"{value / 3600:.1f} h"


def rounded(value: float) -> str:
    """A rate with as many digits as it deserves.

    >>> [rounded(v) for v in (0.0, 3.14159, 920.4)]
    ['0', '3.1', '920']
    """
    return f"{value:.1f}" if 0 < value < 10 else f"{value:.0f}"


def polyline(values: Sequence[float], *, width: float, height: float) -> str:
    """Points of an SVG line through ``values``; a flat line lies at the bottom.

    >>> polyline([0, 1], width=10, height=4)
    '0.0,3.0 10.0,1.0'
    """
    low, high = min(values), max(values)
    span, step = (high - low) or 1.0, width / max(1, len(values) - 1)
    room = height - 2.0
    points = (
        (at * step, height - 1.0 - (value - low) / span * room)
        for at, value in enumerate(values)
    )
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _tile(id: str, name: str, value: str, values: Sequence[float]) -> FigureTile:
    top = rounded(max(values))
    return FigureTile(
        id=id,
        name=name,
        value=value,
        line=polyline(values, width=WIDTH, height=HEIGHT),
        label=f"{name} over the last hour, at most {top}",
    )


def _spans(now: datetime) -> list[tuple[datetime, datetime]]:
    step = HOUR / STEPS
    return [(now - step * (n + 1), now - step * n) for n in reversed(range(STEPS))]


def _first_token_line(
    jobs: Sequence[JobTimes], spans: Sequence[tuple[datetime, datetime]]
) -> list[float]:
    """Spans in which nothing was answered keep the figure of the one before."""
    line, last = [], 0.0
    for start, end in spans:
        last = percentile_95(_first_tokens(jobs, start, end)) or last
        line.append(last)
    return line


def _first_tokens(
    jobs: Iterable[JobTimes], start: datetime, end: datetime
) -> list[float]:
    return [
        job.first_token_s
        for job in jobs
        if job.first_token_s is not None
        and job.first_token_at is not None
        and start < job.first_token_at <= end
    ]


def _covers(start: datetime | None, end: datetime | None, at: datetime) -> bool:
    return start is not None and start <= at and (end is None or end > at)
