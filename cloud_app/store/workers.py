"""Workers and their last heartbeat."""

from datetime import datetime
from typing import Any

from sqlalchemy import or_, update
from sqlmodel import Session, col, select

from cloud_app import tables
from cloud_app.store import orgs
from cloud_app.store.records import OrgRecord, WorkerRecord
from cloud_app.store.statements import changed
from genie.contracts.fleet import Heartbeat, Registration

Worker = tables.Worker


def _record(row: Worker, org: OrgRecord) -> WorkerRecord:
    return WorkerRecord(
        id=row.id,
        name=row.name,
        org=org,
        queues=tuple(row.queues),
        hostname=row.hostname,
        boot_id=row.boot_id,
        version=row.version,
        engines=tuple(row.engines),
        labels=row.labels,
        registered_at=row.registered_at,
        seen_at=row.seen_at,
        seq=row.seq,
        status=row.status,
        noted=row.noted,
        quarantined_at=row.quarantined_at,
        removed_at=row.removed_at,
    )


def insert(
    session: Session,
    worker_id: str,
    org: OrgRecord,
    said: Registration,
    *,
    queues: tuple[str, ...],
    secret_digest: str,
    now: datetime,
) -> None:
    """Add a worker as it registered."""
    session.add(
        Worker(
            id=worker_id,
            org_id=org.id,
            queues=list(queues),
            secret_digest=secret_digest,
            registered_at=now,
            quarantined_at=None,
            removed_at=None,
            **_said(said, now),
        )
    )


def update_registration(
    session: Session, worker_id: str, said: Registration, now: datetime
) -> None:
    """Write what a known worker says of itself when it registers again."""
    statement = update(Worker).where(col(Worker.id) == worker_id)
    changed(session, statement.values(**_said(said, now)))


def _said(said: Registration, now: datetime) -> dict[str, Any]:
    """Columns of a registration: also a first status, so that planning can start."""
    return {
        "name": said.name,
        "hostname": said.hostname,
        "boot_id": said.boot_id,
        "version": said.version,
        "engines": list(said.engines),
        "labels": said.labels,
        "seen_at": now,
        "seq": -1,
        "noted": "online",
        "status": Heartbeat(
            seq=0, boot_id=said.boot_id, host=said.host, gpus=said.gpus
        ),
    }


def by_id(session: Session, worker_id: str) -> tuple[WorkerRecord, str] | None:
    """A worker that was not removed, and the digest of its secret."""
    found = session.exec(
        select(Worker, tables.Org)
        .where(Worker.id == worker_id)
        .where(col(Worker.removed_at).is_(None))
        .where(Worker.org_id == tables.Org.id)
    ).first()
    if found is None:
        return None
    row, org = found
    return _record(row, orgs.record(org)), row.secret_digest


def of_org(session: Session, org: OrgRecord) -> tuple[WorkerRecord, ...]:
    """Every worker of an org that was not removed, by name."""
    rows = session.exec(
        select(Worker)
        .where(Worker.org_id == org.id)
        .where(col(Worker.removed_at).is_(None))
        .order_by(col(Worker.name), col(Worker.id))
    )
    return tuple(_record(row, org) for row in rows)


def seen_since(session: Session, moment: datetime) -> tuple[WorkerRecord, ...]:
    """Every worker of every org that was heard of since ``moment``, by id."""
    found = session.exec(
        select(Worker, tables.Org)
        .where(Worker.org_id == tables.Org.id)
        .where(col(Worker.removed_at).is_(None))
        .where(col(Worker.seen_at) >= moment)
        .order_by(col(Worker.id))
    )
    return tuple(_record(row, orgs.record(org)) for row, org in found)


def save_heartbeat(
    session: Session, worker_id: str, beat: Heartbeat, now: datetime
) -> bool:
    """Store a heartbeat unless a newer one of the same boot is there."""
    statement = (
        update(Worker)
        .where(col(Worker.id) == worker_id)
        .where(col(Worker.removed_at).is_(None))
        .where(or_(col(Worker.boot_id) != beat.boot_id, col(Worker.seq) < beat.seq))
        .values(status=beat, boot_id=beat.boot_id, seq=beat.seq, seen_at=now)
    )
    return changed(session, statement) == 1


def seq(session: Session, worker_id: str) -> int | None:
    """Number of the stored heartbeat; None when the worker was removed."""
    return session.exec(
        select(Worker.seq)
        .where(Worker.id == worker_id)
        .where(col(Worker.removed_at).is_(None))
    ).first()


def note_liveness(session: Session, worker_id: str, was: str, now_is: str) -> bool:
    """Note that a worker's liveness changed; False when another brain noted it."""
    statement = (
        update(Worker)
        .where(col(Worker.id) == worker_id)
        .where(col(Worker.noted) == was)
        .values(noted=now_is)
    )
    return changed(session, statement) == 1


def retire(
    session: Session, org: OrgRecord, name: str, *, seen_before: datetime, now: datetime
) -> tuple[str, ...]:
    """Forget silent workers of this name: a new one takes it; the ids forgotten."""
    statement = (
        update(Worker)
        .where(col(Worker.org_id) == org.id)
        .where(col(Worker.name) == name)
        .where(col(Worker.removed_at).is_(None))
        .where(col(Worker.seen_at) < seen_before)
        .values(removed_at=now)
        .returning(col(Worker.id))
    )
    return tuple(session.connection().execute(statement).scalars())


def quarantine(
    session: Session, org: OrgRecord, worker_id: str, at: datetime | None
) -> bool:
    """Take a worker out of planning, or with ``at`` None back into it."""
    statement = (
        update(Worker)
        .where(col(Worker.id) == worker_id)
        .where(col(Worker.org_id) == org.id)
        .values(quarantined_at=at)
    )
    return changed(session, statement) == 1


def remove(session: Session, org: OrgRecord, worker_id: str, now: datetime) -> bool:
    """Forget a worker; its secret is worthless from then on."""
    statement = (
        update(Worker)
        .where(col(Worker.id) == worker_id)
        .where(col(Worker.org_id) == org.id)
        .where(col(Worker.removed_at).is_(None))
        .values(removed_at=now)
    )
    return changed(session, statement) == 1


def holding(session: Session, model: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Ids and queues of the workers that should hold ``model``."""
    rows = session.exec(
        select(Worker.id, Worker.queues)
        .where(tables.Placement.model == model)
        .where(tables.Placement.worker_id == Worker.id)
    )
    return tuple((worker_id, tuple(queues)) for worker_id, queues in rows)
