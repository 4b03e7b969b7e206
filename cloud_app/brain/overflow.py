"""Decides whether a job may leave its own machines. In this release: never."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class OverflowConditions:
    """Everything an overflow decision may depend on: 32 states."""

    org_opted_in: bool
    job_allows: bool
    sla_breached: bool
    worker_ready: bool
    same_fingerprint: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NoOverflow:
    """The job stays on local machines, and why."""

    reasons: tuple[str, ...]


NOT_ENABLED = "overflow is not enabled"

_CONDITIONS = {
    "org_opted_in": "the org has not opted in",
    "job_allows": "the job's locality does not allow it",
    "sla_breached": "the wait is within the SLA",
    "worker_ready": "no overflow worker is ready",
    "same_fingerprint": "no overflow worker holds the same fingerprint",
}


def decide(situation: OverflowConditions) -> NoOverflow:
    """Refuse, and name every unmet condition beside the main reason.

    >>> here = OverflowConditions(
    ...     org_opted_in=True,
    ...     job_allows=True,
    ...     sla_breached=True,
    ...     worker_ready=True,
    ...     same_fingerprint=True,
    ... )
    >>> decide(here).reasons
    ('overflow is not enabled',)
    """
    unmet = [why for name, why in _CONDITIONS.items() if not getattr(situation, name)]
    return NoOverflow(reasons=(NOT_ENABLED, *unmet))
