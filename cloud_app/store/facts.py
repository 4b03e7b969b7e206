"""What workers measured of the models they loaded."""

from collections.abc import Mapping
from datetime import datetime

from sqlmodel import Session, col, select

from cloud_app import tables
from cloud_app.store.statements import insert_new
from genie import codec
from genie.contracts.fleet import ModelStatus

Fact = tuple[str, str, str]
"""Model, quant and fingerprint."""


def insert(session: Session, found: Mapping[Fact, ModelStatus], now: datetime) -> int:
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
    return insert_new(session, tables.ModelFact, rows)


def fingerprints(session: Session, model: str) -> tuple[Fact, ...]:
    """Every fingerprint the fleet has seen of a model, oldest first."""
    rows = session.exec(
        select(tables.ModelFact)
        .where(tables.ModelFact.model == model)
        .order_by(col(tables.ModelFact.first_seen_at))
    )
    return tuple((row.model, row.quant, row.fingerprint) for row in rows)
