"""Where each persona's work goes, and why: last hour's work, then what would happen."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cloud_app.context import Context
from cloud_app.jobs import admission, failures
from cloud_app.store import reports
from cloud_app.store.records import KeyRecord
from cloud_app.web.pages.figures import WorkShare


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingReason:
    """Where the work of some personas goes; ``share`` and time are of the last hour.

    ``personas`` is empty for work that named its model; ``model`` is None when there
    is nowhere to go now. Without a ``share`` nothing was asked, and this is what
    would happen.
    """

    personas: tuple[str, ...]
    model: str | None
    why: str
    share: float | None = None
    first_token_p95_s: float | None = None


def routing_reasons(
    ctx: Context, key: KeyRecord, shares: Sequence[WorkShare]
) -> tuple[RoutingReason, ...]:
    """Last hour's work first, then where the other personas would go now."""
    newest = [share.newest_job_id for share in shares]
    why = reports.reasons(ctx.db, key.org, newest)
    asked = {share.persona for share in shares}
    idle = [name for name in ctx.catalog.personas if name not in asked]
    return (
        *(_asked(share, why) for share in shares),
        *_merged(_unasked(ctx, key, name) for name in idle),
    )


def _asked(share: WorkShare, why: Mapping[str, tuple[str, ...]]) -> RoutingReason:
    return RoutingReason(
        personas=(share.persona,) if share.persona else (),
        model=share.model,
        share=share.share,
        first_token_p95_s=share.first_token_p95_s,
        why=_sentence(why.get(share.newest_job_id)),
    )


def _unasked(ctx: Context, key: KeyRecord, persona: str) -> RoutingReason:
    target = admission.resolve(ctx.catalog, None, persona)
    decision = failures.explain(admission.decide(ctx, key, target))
    reasons = [decision["message"]] if "refused" in decision else decision["reasons"]
    model = decision.get("model")
    return RoutingReason(
        personas=(persona,), model=str(model) if model else None, why=_sentence(reasons)
    )


def _merged(found: Iterable[RoutingReason]) -> Iterator[RoutingReason]:
    """Personas that would go to the same model for the same reason, as one."""
    groups: dict[tuple[str | None, str], list[RoutingReason]] = {}
    for reason in found:
        groups.setdefault((reason.model, reason.why), []).append(reason)
    for group in groups.values():
        personas = tuple(name for reason in group for name in reason.personas)
        yield replace(group[0], personas=personas)


def _sentence(reasons: object) -> str:
    """Reasons, as they come from a job's record or a decision, in one line."""
    listed = reasons if isinstance(reasons, list | tuple) else ()
    return "; ".join(str(reason) for reason in listed)
