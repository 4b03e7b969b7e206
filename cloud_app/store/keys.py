"""API keys and join tokens. Only digests are stored; secrets never come in here."""

from datetime import datetime

from sqlalchemy import update
from sqlmodel import Session, col, select

from cloud_app.store import ids, orgs, tables
from cloud_app.store.records import JoinTokenRecord, KeyRecord, OrgRecord
from cloud_app.store.statements import changed


def _record(row: tables.ApiKeyRow, org: OrgRecord) -> KeyRecord:
    allowed = row.allowed_models
    return KeyRecord(
        id=row.id,
        org=org,
        name=row.name,
        prefix=row.prefix,
        is_admin=row.is_admin,
        allowed_models=None if allowed is None else tuple(allowed),
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )


def insert(
    session: Session,
    org: OrgRecord,
    *,
    name: str,
    prefix: str,
    digest: str,
    is_admin: bool,
    allowed_models: tuple[str, ...] | None,
    now: datetime,
) -> KeyRecord:
    """Add a key of an org."""
    row = tables.ApiKeyRow(
        id=ids.new_id(),
        org_id=org.id,
        name=name,
        prefix=prefix,
        digest=digest,
        is_admin=is_admin,
        allowed_models=None if allowed_models is None else list(allowed_models),
        created_at=now,
        revoked_at=None,
    )
    session.add(row)
    return _record(row, org)


def by_prefix(session: Session, prefix: str) -> tuple[KeyRecord, str] | None:
    """The key with this lookup prefix and its digest, revoked ones too."""
    found = session.exec(
        select(tables.ApiKeyRow, tables.OrgRow)
        .where(tables.ApiKeyRow.prefix == prefix)
        .where(tables.ApiKeyRow.org_id == tables.OrgRow.id)
    ).first()
    if found is None:
        return None
    row, org = found
    return _record(row, orgs.record(org)), row.digest


def by_id(session: Session, key_id: str) -> KeyRecord | None:
    """The key of this id, revoked or not."""
    found = session.exec(
        select(tables.ApiKeyRow, tables.OrgRow)
        .where(tables.ApiKeyRow.id == key_id)
        .where(tables.ApiKeyRow.org_id == tables.OrgRow.id)
    ).first()
    return None if found is None else _record(found[0], orgs.record(found[1]))


def of_org(session: Session, org: OrgRecord) -> tuple[KeyRecord, ...]:
    """Every key of an org, oldest first, revoked ones too."""
    rows = session.exec(
        select(tables.ApiKeyRow)
        .where(tables.ApiKeyRow.org_id == org.id)
        .order_by(col(tables.ApiKeyRow.id))
    )
    return tuple(_record(row, org) for row in rows)


def revoke(session: Session, org: OrgRecord, key: str, now: datetime) -> bool:
    """Revoke an org's key by id or prefix; False when there is no live one."""
    key_columns = (col(tables.ApiKeyRow.id), col(tables.ApiKeyRow.prefix))
    statement = (
        update(tables.ApiKeyRow)
        .where(col(tables.ApiKeyRow.org_id) == org.id)
        .where((key_columns[0] == key) | (key_columns[1] == key))
        .where(col(tables.ApiKeyRow.revoked_at).is_(None))
        .values(revoked_at=now)
    )
    return changed(session, statement) > 0


def insert_token(
    session: Session,
    org: OrgRecord,
    *,
    prefix: str,
    digest: str,
    queues: tuple[str, ...],
    now: datetime,
    expires_at: datetime,
) -> None:
    """Add a join token of an org."""
    session.add(
        tables.JoinTokenRow(
            id=ids.new_id(),
            org_id=org.id,
            prefix=prefix,
            digest=digest,
            queues=list(queues),
            created_at=now,
            expires_at=expires_at,
            used_at=None,
        )
    )


def token_by_prefix(
    session: Session, prefix: str
) -> tuple[JoinTokenRecord, str] | None:
    """The join token with this lookup prefix and its digest, used ones too."""
    found = session.exec(
        select(tables.JoinTokenRow, tables.OrgRow)
        .where(tables.JoinTokenRow.prefix == prefix)
        .where(tables.JoinTokenRow.org_id == tables.OrgRow.id)
    ).first()
    if found is None:
        return None
    row, org = found
    token = JoinTokenRecord(
        id=row.id,
        org=orgs.record(org),
        queues=tuple(row.queues),
        expires_at=row.expires_at,
        used_at=row.used_at,
    )
    return token, row.digest


def use_token(session: Session, token_id: str, now: datetime) -> bool:
    """Use a join token; False when somebody else just did."""
    statement = (
        update(tables.JoinTokenRow)
        .where(col(tables.JoinTokenRow.id) == token_id)
        .where(col(tables.JoinTokenRow.used_at).is_(None))
        .values(used_at=now)
    )
    return changed(session, statement) == 1
