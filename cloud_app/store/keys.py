"""API keys and join tokens. Only digests are stored; secrets never come in here."""

from datetime import datetime
from typing import Any

from sqlalchemy import or_
from sqlmodel import Session, col, select

from cloud_app.store import ids
from cloud_app.store.records import JoinTokenRecord, KeyRecord, OrgRecord
from cloud_app.store.statements import columns_of, record, update_rows
from cloud_app.store.tables import ApiKeyRow, JoinTokenRow, OrgRow


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
    key = KeyRecord(
        id=ids.new_id(),
        org=org,
        name=name,
        prefix=prefix,
        is_admin=is_admin,
        allowed_models=allowed_models,
        created_at=now,
        revoked_at=None,
    )
    values = columns_of(ApiKeyRow, key)
    session.add(ApiKeyRow(org_id=org.id, digest=digest, **values))
    return key


def by_prefix(session: Session, prefix: str) -> tuple[KeyRecord, str] | None:
    """The key with this lookup prefix and its digest, revoked ones too."""
    return _key(session, col(ApiKeyRow.prefix) == prefix)


def by_id(session: Session, key_id: str) -> KeyRecord | None:
    """The key of this id, revoked or not."""
    found = _key(session, col(ApiKeyRow.id) == key_id)
    return found and found[0]


def _key(session: Session, wanted: Any) -> tuple[KeyRecord, str] | None:
    is_owner = ApiKeyRow.org_id == OrgRow.id
    found = session.exec(select(ApiKeyRow, OrgRow).where(wanted, is_owner)).first()
    if found is None:
        return None
    row, org = found
    return record(KeyRecord, row, org=record(OrgRecord, org)), row.digest


def of_org(session: Session, org: OrgRecord) -> tuple[KeyRecord, ...]:
    """Every key of an org, oldest first, revoked ones too."""
    is_owned = ApiKeyRow.org_id == org.id
    rows = session.exec(select(ApiKeyRow).where(is_owned).order_by(col(ApiKeyRow.id)))
    return tuple(record(KeyRecord, row, org=org) for row in rows)


def revoke(session: Session, org: OrgRecord, key: str, now: datetime) -> bool:
    """Revoke an org's key by id or prefix; False when there is no live one."""
    is_named = or_(col(ApiKeyRow.id) == key, col(ApiKeyRow.prefix) == key)
    is_live = col(ApiKeyRow.revoked_at).is_(None)
    which = (ApiKeyRow.org_id == org.id, is_named, is_live)
    return update_rows(session, ApiKeyRow, *which, revoked_at=now) > 0


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
        JoinTokenRow(
            id=ids.new_id(),
            org_id=org.id,
            prefix=prefix,
            digest=digest,
            queues=queues,
            created_at=now,
            expires_at=expires_at,
        )
    )


def token_by_prefix(
    session: Session, prefix: str
) -> tuple[JoinTokenRecord, str] | None:
    """The join token with this lookup prefix and its digest, used ones too."""
    found = session.exec(
        select(JoinTokenRow, OrgRow)
        .where(JoinTokenRow.prefix == prefix)
        .where(JoinTokenRow.org_id == OrgRow.id)
    ).first()
    if found is None:
        return None
    row, org = found
    return record(JoinTokenRecord, row, org=record(OrgRecord, org)), row.digest


def use_token(session: Session, token_id: str, now: datetime) -> bool:
    """Use a join token; False when somebody else just did."""
    which = (JoinTokenRow.id == token_id, col(JoinTokenRow.used_at).is_(None))
    return update_rows(session, JoinTokenRow, *which, used_at=now) == 1
