"""Workers and their last heartbeat."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import or_, update
from sqlmodel import Session, col, select

from cloud_app.store.records import OrgRecord, WorkerRecord
from cloud_app.store.statements import insert_new, record, update_rows
from cloud_app.store.tables import ModelFactRow, OrgRow, PlacementRow, WorkerRow
from genie import logs
from genie.contracts import codec
from genie.contracts.fleet import EngineFacts, Heartbeat, ModelStatus, Registration
from genie.errors import CodecError

log = logs.logger("store.workers")

_IS_THERE = col(WorkerRow.removed_at).is_(None)
_WITH_ORG = select(WorkerRow, OrgRow).where(WorkerRow.org_id == OrgRow.id, _IS_THERE)


def _record(row: WorkerRow, org: OrgRecord) -> WorkerRecord:
    facts = tuple(filter(None, map(_readable, row.engine_facts or ())))
    return record(WorkerRecord, row, org=org, engine_facts=facts)


def _readable(document: dict[str, Any]) -> EngineFacts | None:
    # A worker of a later release may say what this one has no word for: its engine is
    # then known by its name alone, and the rest of the fleet is planned on.
    try:
        return codec.convert(EngineFacts, document)
    except CodecError as error:
        log.warning("engine_facts_unreadable", error=str(error))
        return None


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
        WorkerRow(
            id=worker_id,
            org_id=org.id,
            queues=queues,
            secret_digest=secret_digest,
            registered_at=now,
            **_said(said, now),
        )
    )


def update_registration(
    session: Session, worker_id: str, said: Registration, now: datetime
) -> None:
    """Write what a known worker says of itself when it registers again."""
    update_rows(session, WorkerRow, WorkerRow.id == worker_id, **_said(said, now))


def _said(said: Registration, now: datetime) -> dict[str, Any]:
    """Columns of a registration: also a first status, so that planning can start."""
    return {
        "name": said.name,
        "hostname": said.hostname,
        "boot_id": said.boot_id,
        "version": said.version,
        "engines": said.engines,
        "engine_facts": [codec.builtins(facts) for facts in said.engine_facts],
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
    found = session.exec(_WITH_ORG.where(WorkerRow.id == worker_id)).first()
    if found is None:
        return None
    row, org = found
    return _record(row, record(OrgRecord, org)), row.secret_digest


def of_org(session: Session, org: OrgRecord) -> tuple[WorkerRecord, ...]:
    """Every worker of an org that was not removed, by name."""
    rows = session.exec(
        select(WorkerRow)
        .where(WorkerRow.org_id == org.id)
        .where(_IS_THERE)
        .order_by(col(WorkerRow.name), col(WorkerRow.id))
    )
    return tuple(_record(row, org) for row in rows)


def seen_since(session: Session, moment: datetime) -> tuple[WorkerRecord, ...]:
    """Every worker of every org that was heard of since ``moment``, by id."""
    is_recent = col(WorkerRow.seen_at) >= moment
    found = session.exec(_WITH_ORG.where(is_recent).order_by(col(WorkerRow.id)))
    return tuple(_record(row, record(OrgRecord, org)) for row, org in found)


def save_heartbeat(
    session: Session, worker_id: str, beat: Heartbeat, now: datetime
) -> bool:
    """Store a heartbeat unless a newer one of the same boot is there."""
    is_newer = or_(
        col(WorkerRow.boot_id) != beat.boot_id, col(WorkerRow.seq) < beat.seq
    )
    which = (WorkerRow.id == worker_id, _IS_THERE, is_newer)
    values = {"status": beat, "boot_id": beat.boot_id, "seq": beat.seq, "seen_at": now}
    return update_rows(session, WorkerRow, *which, **values) == 1


def seq(session: Session, worker_id: str) -> int | None:
    """Number of the stored heartbeat; None when the worker was removed."""
    return session.exec(
        select(WorkerRow.seq).where(WorkerRow.id == worker_id).where(_IS_THERE)
    ).first()


def note_liveness(session: Session, worker_id: str, was: str, now_is: str) -> bool:
    """Note that a worker's liveness changed; False when another brain noted it."""
    which = (WorkerRow.id == worker_id, WorkerRow.noted == was)
    return update_rows(session, WorkerRow, *which, noted=now_is) == 1


def retire(
    session: Session, org: OrgRecord, name: str, *, seen_before: datetime, now: datetime
) -> tuple[str, ...]:
    """Forget silent workers of this name: a new one takes it; the ids forgotten."""
    statement = (
        update(WorkerRow)
        .where(col(WorkerRow.org_id) == org.id, col(WorkerRow.name) == name)
        .where(_IS_THERE, col(WorkerRow.seen_at) < seen_before)
        .values(removed_at=now)
        .returning(col(WorkerRow.id))
    )
    return tuple(session.connection().execute(statement).scalars())


def quarantine(
    session: Session, org: OrgRecord, worker_id: str, at: datetime | None
) -> bool:
    """Take a worker out of planning, or with ``at`` None back into it."""
    which = (WorkerRow.id == worker_id, WorkerRow.org_id == org.id)
    return update_rows(session, WorkerRow, *which, quarantined_at=at) == 1


def remove(session: Session, org: OrgRecord, worker_id: str, now: datetime) -> bool:
    """Forget a worker; its secret is worthless from then on."""
    which = (WorkerRow.id == worker_id, WorkerRow.org_id == org.id, _IS_THERE)
    return update_rows(session, WorkerRow, *which, removed_at=now) == 1


def holding(session: Session, model: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Ids and queues of the workers that should hold ``model``."""
    rows = session.exec(
        select(WorkerRow.id, WorkerRow.queues)
        .where(PlacementRow.model == model)
        .where(PlacementRow.worker_id == WorkerRow.id)
    )
    return tuple((worker_id, tuple(queues)) for worker_id, queues in rows)


FingerprintFact = tuple[str, str, str]
"""Model, quant and fingerprint."""


def insert_facts(
    session: Session, found: Mapping[FingerprintFact, ModelStatus], now: datetime
) -> int:
    """Keep the file digests behind fingerprints; how many of them were new."""
    rows = [
        {
            "model": model,
            "quant": quant,
            "fingerprint": fingerprint,
            "files": [codec.builtins(file) for file in status.files],
            "first_seen_at": now,
        }
        for (model, quant, fingerprint), status in found.items()
    ]
    return insert_new(session.connection(), ModelFactRow, rows)
