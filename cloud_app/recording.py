"""What workers say of jobs, recorded many at a time.

Only the plain case goes together: an open job that starts, completes, or does both.
Everything else (redeliveries, faults, second outcomes, jobs nobody knows) is left to
`jobs.apply`, which knows what to do about it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cloud_app import poison, store
from cloud_app.context import Context
from cloud_app.store.outcomes import End, Standing
from genie.contracts.inference import JobState, Outcome, Recorded, Started


@dataclass(slots=True)
class Plain:
    """What is recorded together, and the places of the events it stands for."""

    starts: list[Started] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    places: set[int] = field(default_factory=set)


def together(ctx: Context, events: Sequence[Recorded]) -> Sequence[int]:
    """Record in one transaction what can be; the places of the others, in order.

    Those are to be given to `jobs.apply`, one by one. Raises `DatabaseDown`, with
    nothing recorded then.
    """
    if len(events) == 1:
        return () if _is_ended(ctx, events[0]) else (0,)
    said: dict[str, list[int]] = defaultdict(list)
    for place, event in enumerate(events):
        said[event.job_id].append(place)
    storable = [store.outcomes.storable(event) for event in events]
    ids = [job_id for job_id in said if store.ids.is_id(job_id)]
    with ctx.db.connection() as connection:
        standings = store.outcomes.lock(connection, ids)
        plain = sort(storable, said, standings)
        store.outcomes.start(connection, plain.starts, ctx.now())
        store.outcomes.complete(connection, plain.ends, ctx.now())
    return [place for place in range(len(events)) if place not in plain.places]


def _is_ended(ctx: Context, event: Recorded) -> bool:
    """True when this is how an open job has completed, and that is recorded now."""
    if not isinstance(event, Outcome) or event.state is not JobState.COMPLETED:
        return False
    if not store.ids.is_id(event.job_id):
        return False
    outcome = store.outcomes.storable(event)
    with ctx.db.single() as connection:
        return store.outcomes.complete_one(connection, outcome, ctx.now())


def sort(
    events: Sequence[Recorded],
    said: Mapping[str, Sequence[int]],
    standings: Mapping[str, Standing],
) -> Plain:
    """The plain ones among what was ``said`` of each job (pure)."""
    plain = Plain()
    for job_id, places in said.items():
        standing = standings.get(job_id)
        if standing is None:
            continue
        if _add(plain, standing, [events[place] for place in places]):
            plain.places.update(places)
    return plain


def _add(plain: Plain, standing: Standing, events: Sequence[Recorded]) -> bool:
    start, end = _pair(events)
    if start is None and end is None:
        return False
    is_new = start is not None and start.attempt_id != standing.attempt_id
    attempts = standing.attempts + is_new
    if attempts > poison.MOST:
        return False
    if end is not None:
        attempt_id = start.attempt_id if start else standing.attempt_id
        plain.ends.append(
            End(outcome=end, attempts=max(1, attempts), attempt_id=attempt_id)
        )
    elif start is not None and is_new:
        plain.starts.append(start)
    return True


def _pair(events: Iterable[Recorded]) -> tuple[Started | None, Outcome | None]:
    """A start, an end, or a start and its end; nothing for anything else."""
    match tuple(events):
        case (Started(redelivered=False) as start,):
            return start, None
        case (Outcome(state=JobState.COMPLETED) as end,):
            return None, end
        case (
            Started(redelivered=False) as start,
            Outcome(state=JobState.COMPLETED) as end,
        ) if start.attempt_id == end.attempt_id:
            return start, end
    return None, None
