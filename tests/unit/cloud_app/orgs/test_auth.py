"""Keys, join tokens and worker secrets."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from sqlmodel import Session, select

from cloud_app import context, store
from cloud_app.orgs import auth
from cloud_app.store import tables
from cloud_app.store.records import KeyRecord
from fixtures.clouds import Cloud
from genie.errors import BadRequest, DatabaseDown, NotFound, Unauthorized


def test_a_key_is_shown_once_and_lets_its_owner_in(cloud: Cloud) -> None:
    key, secret = auth.create_key(cloud.ctx, "acme", "laptop", is_admin=True)
    assert secret.startswith("sk-genie-acme-")
    assert auth.authenticate(cloud.ctx, secret, remote_addr=None) == key
    assert auth.list_keys(cloud.ctx, cloud.acme) == (key,)
    assert auth.live_key(cloud.ctx, key.prefix) == key


def test_no_secret_is_stored_anywhere_in_the_database(cloud: Cloud) -> None:
    _, secret = auth.create_key(cloud.ctx, "acme", "laptop")
    token = auth.create_join_token(cloud.ctx, "acme")
    worker = cloud.join()
    with cloud.ctx.db.reading() as session:
        rows = [
            *session.exec(select(tables.ApiKeyRow)),
            *session.exec(select(tables.JoinTokenRow)),
            *session.exec(select(tables.WorkerRow)),
            *session.exec(select(tables.AuditRow)),
        ]
    dump = repr([row.model_dump() for row in rows])
    assert secret not in dump
    assert token not in dump
    assert worker.id in dump


@pytest.mark.parametrize(
    "bearer",
    [
        None,
        "",
        "sk-genie-acme-000000000000000000000000",
        "sk-genie-acme-",
        "gj-short",
        "é" * 40,
        "x" * 10_000,
        "sk-genie-acme-\0",
    ],
)
def test_a_key_nobody_made_is_refused_with_the_next_step(
    cloud: Cloud, bearer: str | None
) -> None:
    with pytest.raises(Unauthorized, match=r"GENIE_API_KEY|genie keys create"):
        auth.authenticate(cloud.ctx, bearer)


def test_a_key_with_one_wrong_letter_is_refused(cloud: Cloud) -> None:
    _, secret = auth.create_key(cloud.ctx, "acme", "laptop")
    other = secret[:-1] + ("a" if secret[-1] != "a" else "b")
    with pytest.raises(Unauthorized, match="not known"):
        auth.authenticate(cloud.ctx, other)


def test_a_revoked_key_is_out_at_once(cloud: Cloud) -> None:
    key, secret = auth.create_key(cloud.ctx, "acme", "laptop")
    auth.revoke_key(cloud.ctx, "acme", key.prefix)
    with pytest.raises(Unauthorized, match="was revoked"):
        auth.authenticate(cloud.ctx, secret)
    with pytest.raises(Unauthorized, match="was revoked"):
        auth.live_key(cloud.ctx, key.prefix)
    assert auth.list_keys(cloud.ctx, "acme")[0].revoked_at == cloud.clock.at


def test_an_org_can_revoke_only_its_own_keys(cloud: Cloud) -> None:
    auth.ensure_org(cloud.ctx, "globex")
    key, secret = auth.create_key(cloud.ctx, "acme", "laptop")
    with pytest.raises(NotFound, match="no live key"):
        auth.revoke_key(cloud.ctx, "globex", key.id)
    assert auth.authenticate(cloud.ctx, secret) == key
    assert auth.list_keys(cloud.ctx, "globex") == ()


def test_the_models_a_key_may_use_are_kept(cloud: Cloud) -> None:
    _, secret = auth.create_key(cloud.ctx, "acme", "ci", allowed_models=("echo:small",))
    assert auth.authenticate(cloud.ctx, secret).allowed_models == ("echo:small",)


def test_an_org_is_made_once(cloud: Cloud) -> None:
    again = auth.ensure_org(cloud.ctx, "acme", "Another name")
    assert again == cloud.acme


@pytest.mark.parametrize("slug", ["", "Acme", "a b", "-a", "a" * 40, "a\0"])
def test_an_org_needs_a_slug(cloud: Cloud, slug: str) -> None:
    with pytest.raises(BadRequest, match="not a slug") as caught:
        auth.ensure_org(cloud.ctx, slug)
    assert caught.value.param == "org"


@pytest.mark.parametrize("name", ["", "  ", "a\0b", "x" * 81])
def test_a_key_needs_a_name_people_can_read(cloud: Cloud, name: str) -> None:
    with pytest.raises(BadRequest, match="printable") as caught:
        auth.create_key(cloud.ctx, "acme", name)
    assert caught.value.param == "name"


def test_a_key_of_an_unknown_org_is_refused(cloud: Cloud) -> None:
    with pytest.raises(NotFound, match="there is no org 'initech'"):
        auth.create_key(cloud.ctx, "initech", "laptop")


def test_a_join_token_is_good_once(cloud: Cloud) -> None:
    token = auth.create_join_token(cloud.ctx, "acme", ("genie", "org.acme"))
    with cloud.ctx.db.session() as session:
        grant = auth.redeem(session, token, cloud.clock.at)
    assert (grant.org, grant.queues) == (cloud.acme, ("genie", "org.acme"))
    with (
        pytest.raises(Unauthorized, match="was used before; make a new one"),
        cloud.ctx.db.session() as session,
    ):
        auth.redeem(session, token, cloud.clock.at)


def test_a_join_token_is_good_for_an_hour(cloud: Cloud) -> None:
    token = auth.create_join_token(cloud.ctx, "acme")
    cloud.clock.forward(3600)
    with (
        pytest.raises(Unauthorized, match="has expired; make a new one"),
        cloud.ctx.db.session() as session,
    ):
        auth.redeem(session, token, cloud.clock.at)


def test_a_wrong_join_token_is_refused(cloud: Cloud) -> None:
    token = auth.create_join_token(cloud.ctx, "acme")
    for wrong in ("gj-" + "0" * 40, token[:-1], token[:-1] + "!", ""):
        with (
            pytest.raises(Unauthorized, match="not known here; make a new one"),
            cloud.ctx.db.session() as session,
        ):
            auth.redeem(session, wrong, cloud.clock.at)


def test_a_worker_may_not_serve_another_orgs_queue(cloud: Cloud) -> None:
    with pytest.raises(BadRequest, match=r"may serve genie and org\.acme") as caught:
        auth.create_join_token(cloud.ctx, "acme", ("org.globex",))
    assert caught.value.param == "queues"


def test_a_worker_secret_names_its_worker(cloud: Cloud) -> None:
    worker = cloud.join()
    wrong = auth.worker_secret(worker.id)
    with pytest.raises(Unauthorized, match="secret is wrong"):
        auth.authenticate_worker(cloud.ctx, wrong)
    unknown = auth.worker_secret(store.ids.new_id())
    assert auth.authenticate_worker(cloud.ctx, unknown) is None
    for bearer in (None, "gw-", "gw-nobody-1", "sk-genie-acme-1"):
        with pytest.raises(Unauthorized, match="no worker secret"):
            auth.authenticate_worker(cloud.ctx, bearer)


def test_what_was_changed_is_written_down_without_secrets(cloud: Cloud) -> None:
    key, _ = auth.create_key(cloud.ctx, "acme", "laptop", actor="anna")
    auth.revoke_key(cloud.ctx, "acme", key.id, actor="bert")
    cloud.join()
    with cloud.ctx.db.reading() as session:
        rows = store.orgs.audit(session, cloud.acme)
    assert [(row.actor.partition(":")[0], row.action) for row in reversed(rows)] == [
        ("anna", "key_created"),
        ("bert", "key_revoked"),
        ("cli", "join_token_created"),
        ("worker", "worker_joined"),
    ]


def test_of_many_that_ask_at_once_with_one_key_one_asks_the_database(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, secret = auth.create_key(cloud.ctx, "acme", "laptop")
    by_prefix, asked = store.keys.by_prefix, []

    def look(session: Session, prefix: str) -> tuple[KeyRecord, str] | None:
        asked.append(prefix)
        time.sleep(0.02)  # so that the others come meanwhile
        return by_prefix(session, prefix)

    monkeypatch.setattr(store.keys, "by_prefix", look)
    monkeypatch.setattr(context, "OTHERS_S", 60.0)  # a busy machine takes its time
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(partial(auth.authenticate, cloud.ctx), [secret] * 8))
    assert found == [key] * 8
    assert asked == [key.prefix]


def test_a_live_key_token_or_secret_is_known_and_nothing_else(cloud: Cloud) -> None:
    ctx = cloud.ctx
    record, key = auth.create_key(ctx, "acme", "laptop")
    token, secret = auth.create_join_token(ctx, "acme"), auth.worker_secret("0" * 26)
    assert auth.is_known(ctx, key)
    assert auth.is_known(ctx, token)
    for stranger in ("", "sk-genie-acme-x", "gj-x", "gw-x", f"{key}x", secret):
        assert not auth.is_known(ctx, stranger)
    auth.revoke_key(ctx, "acme", record.id)
    assert not auth.is_known(ctx, key)


def test_of_a_key_that_nobody_can_look_up_it_is_said_that_nobody_can(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_arguments: object) -> None:
        raise DatabaseDown("the database is down")

    monkeypatch.setattr(auth, "authenticate", down)
    with pytest.raises(DatabaseDown):
        auth.is_known(cloud.ctx, "sk-genie-abc")
