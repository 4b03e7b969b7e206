"""Which model every worker should hold."""

from collections.abc import Iterable

from sqlalchemy import text
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from cloud_app.store.records import PlacementRecord
from cloud_app.store.statements import (
    columns_of,
    delete_rows,
    insert_once,
    record,
    update_rows,
)
from cloud_app.store.tables import PlacementRow

_PLANNING_LOCK = 0x706C616E  # any number, the same in every release: "plan"


def lock(session: Session) -> None:
    """Be the only one that plans until this transaction ends."""
    if session.get_bind().dialect.name == "postgresql":
        statement = text("SELECT pg_advisory_xact_lock(:key)")
        session.connection().execute(statement, {"key": _PLANNING_LOCK})
    # SQLite's transaction already is the only writer


def everything(session: Session) -> tuple[PlacementRecord, ...]:
    """Every placement of the fleet, by worker and model."""
    return tuple(record(PlacementRecord, row) for row in session.exec(_ordered()))


def of_worker(session: Session, worker_id: str) -> tuple[PlacementRecord, ...]:
    """What one worker should hold, by model."""
    rows = session.exec(_ordered().where(PlacementRow.worker_id == worker_id))
    return tuple(record(PlacementRecord, row) for row in rows)


def write(session: Session, wanted: PlacementRecord) -> None:
    """Add one placement, or change it to what is wanted."""
    values = columns_of(PlacementRow, wanted)
    if insert_once(session, PlacementRow, **values):
        return
    is_it = (
        PlacementRow.worker_id == wanted.worker_id,
        PlacementRow.model == wanted.model,
    )
    update_rows(session, PlacementRow, *is_it, **values)


def drop(session: Session, worker_id: str, models: Iterable[str]) -> int:
    """Take models away from a worker; how many it had."""
    is_one = col(PlacementRow.model).in_(tuple(models))
    return delete_rows(
        session, PlacementRow, PlacementRow.worker_id == worker_id, is_one
    )


def release(session: Session, worker_ids: Iterable[str]) -> int:
    """Take everything away from these workers; how many placements that were."""
    is_theirs = col(PlacementRow.worker_id).in_(tuple(worker_ids))
    return delete_rows(session, PlacementRow, is_theirs)


def _ordered() -> SelectOfScalar[PlacementRow]:
    return select(PlacementRow).order_by(
        col(PlacementRow.worker_id), col(PlacementRow.model)
    )
