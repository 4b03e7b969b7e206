"""Dead letters: what nobody could serve, and what an admin does about it.

A job whose message died has failed, with the broker's reason: no job waits for ever on
a message that is not there. The letter stays for `GENIE_RETAIN_H`, to be replayed.
"""

from dataclasses import dataclass
from datetime import timedelta

from msgspec.structs import replace

from cloud_app import store
from cloud_app.bus import DeadLetter
from cloud_app.context import Context
from cloud_app.jobs import lifecycle, submit
from cloud_app.store.records import JobRecord, KeyRecord, OrgRecord
from genie import logs, topology
from genie.contracts.inference import Fault, InferenceTask, JobState
from genie.errors import CodecError, Conflict, NotFound

log = logs.logger("dead_letters")

CODE = "dead_lettered"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuryReport:
    """What one round did: jobs that failed, letters past their retention."""

    failed: int
    discarded: int


def find(ctx: Context, org: OrgRecord) -> tuple[DeadLetter, ...]:
    """An org's dead letters, oldest first, at most `LOOK_MOST` a queue."""
    found: list[DeadLetter] = []

    def decide(letter: DeadLetter) -> bool:
        if _is_of(org, letter):
            found.append(letter)
        return False

    ctx.bus.dead.visit(_queues(org), decide)
    return tuple(found)


def get(
    ctx: Context, key: KeyRecord, letter_id: str, *, shows_text: bool
) -> DeadLetter:
    """One letter; that its text was shown is written down. Raises `NotFound`."""
    letter = _one(ctx, key.org, letter_id)
    if shows_text:
        _note(ctx, key, "dead_letter_read", letter)
    return letter


def replay(ctx: Context, key: KeyRecord, letter_id: str) -> JobRecord:
    """Put a letter's job back into its queue, with as much time as it had at first.

    Raises `NotFound`, and `Conflict` when its job did not end by this letter.
    """
    letter = _one(ctx, key.org, letter_id)
    task = _task(letter)
    job = lifecycle.get(ctx, key.org, task.job_id)
    fault = job.outcome.fault
    if job.state is not JobState.FAILED or fault is None or fault.code != CODE:
        raise Conflict(
            f"job {job.id} is {job.state.value} and not waiting for this letter; "
            "discard it"
        )
    task = _again(ctx, task, job)
    with ctx.db.session() as session:
        if not store.transitions.reopen(session, job, task):
            raise Conflict(f"job {job.id} is being replayed already")
    _note(ctx, key, "dead_letter_replayed", letter)
    _remove(ctx, key.org, letter.id)
    submit.launch(ctx, task)
    return lifecycle.get(ctx, key.org, job.id)


def discard(ctx: Context, key: KeyRecord, letter_id: str) -> None:
    """Remove a letter for good; its job stays failed. Raises `NotFound`."""
    letter = _one(ctx, key.org, letter_id)
    _remove(ctx, key.org, letter.id)
    _note(ctx, key, "dead_letter_discarded", letter)


def bury(ctx: Context) -> BuryReport:
    """Fail the jobs whose messages died, and drop letters past their retention."""
    died: list[DeadLetter] = []
    oldest = ctx.now() - timedelta(hours=ctx.settings.retain_h)

    def decide(letter: DeadLetter) -> bool:
        if letter.died_at is not None and letter.died_at < oldest:
            return True
        died.append(letter)
        return False

    with ctx.db.reading() as session:
        slugs = store.orgs.slugs(session)
    queues = (topology.SHARED, topology.OUTCOMES, *map(topology.org_queue, slugs))
    discarded = ctx.bus.dead.visit(queues, decide)
    return BuryReport(failed=_fail(ctx, died), discarded=discarded)


def _fail(ctx: Context, died: list[DeadLetter]) -> int:
    reasons = {one.id: one for one in died if store.ids.is_id(one.id)}
    if not reasons:
        return 0
    with ctx.db.reading() as session:
        is_open = store.jobs.still_open(session, tuple(reasons))
    for job_id in is_open:
        lifecycle.refuse(ctx, job_id, _fault(reasons[job_id]))
        log.error("job_dead_lettered", job_id=job_id, reason=reasons[job_id].reason)
    return len(is_open)


def _fault(letter: DeadLetter) -> Fault:
    message = (
        f"its message was set aside: {letter.why}; ask again, or let an admin look at "
        "it with `genie dead-letters`"
    )
    return Fault(code=CODE, message=message)


def _one(ctx: Context, org: OrgRecord, letter_id: str) -> DeadLetter:
    bare = store.ids.bare(letter_id)
    for letter in find(ctx, org):
        if letter.id == bare:
            return letter
    raise NotFound(
        f"there is no dead letter {letter_id} in this org; `genie dead-letters` "
        "lists what there is",
        param="id",
    )


def _remove(ctx: Context, org: OrgRecord, letter_id: str) -> None:
    def decide(letter: DeadLetter) -> bool:
        return _is_of(org, letter) and letter.id == letter_id

    ctx.bus.dead.visit(_queues(org), decide)


def _queues(org: OrgRecord) -> tuple[str, ...]:
    return (topology.SHARED, topology.org_queue(org.slug))


def _is_of(org: OrgRecord, letter: DeadLetter) -> bool:
    """In the shared queue a letter says whose it is; one that does not is nobody's."""
    if letter.queue == topology.SHARED:
        return letter.org == org.slug
    return letter.org in (None, org.slug)


def _task(letter: DeadLetter) -> InferenceTask:
    try:
        return letter.task()
    except CodecError as error:
        raise Conflict(
            f"letter {letter.id} is no task of this release; discard it", param="id"
        ) from error


def _again(ctx: Context, task: InferenceTask, job: JobRecord) -> InferenceTask:
    # Whoever waited has gone: the answer is in the job's record.
    return replace(
        task,
        deadline_at=ctx.now() + (job.deadline_at - job.created_at),
        publication=task.publication + 1,
        reply_to=None,
        chunks=False,
        crashes=0,
    )


def _note(ctx: Context, key: KeyRecord, action: str, letter: DeadLetter) -> None:
    with ctx.db.session() as session:
        store.orgs.note(
            session,
            key.org,
            at=ctx.now(),
            actor=key.prefix,
            action=action,
            subject=letter.id,
            queue=letter.queue,
            reason=letter.reason,
        )
