import pytest
from flask import Flask
from flask.testing import FlaskClient

from cloud_app.context import Context
from cloud_app.orgs import auth
from fixtures import web
from fixtures.web import Clock


def test_workers_show_their_state_machines_models_and_placements(
    client: FlaskClient, ctx: Context
) -> None:
    web.join(ctx, "borealis", gpus=(web.gpu(0, 3, 24),))
    listed = client.get("/v1/workers").get_json()["data"]

    atlas, borealis = sorted(listed, key=lambda worker: worker["name"])
    assert (atlas["state"], atlas["org"]) == ("online", web.ORG)
    assert atlas["models"][0]["model"] == "echo:small"
    assert atlas["host"]["cpu_count"] == 8
    assert atlas["placements"] == []
    assert borealis["gpus"][0]["memory_total_bytes"] == 24 * web.GIB
    assert borealis["last_heartbeat_s"] == 0.0


def test_a_silent_worker_becomes_late_then_offline_then_lost(
    client: FlaskClient, ctx: Context
) -> None:
    clock = ctx.now
    assert isinstance(clock, Clock)
    seen = []
    for seconds in (0, 46, 45, 210):
        clock.pass_s(seconds)
        seen.append(client.get("/v1/workers").get_json()["data"][0]["state"])

    assert seen == ["online", "late", "offline", "lost"]


def test_queues_show_what_waits_by_model_and_class(client: FlaskClient) -> None:
    queues = client.get("/v1/queues").get_json()["data"]

    found = {(q["queue"], q["model"], q["class"]) for q in queues}
    assert ("genie", "echo:small", "interactive") in found
    assert all(q["waiting"] == 0 and q["sla_s"] == 30.0 for q in queues)


def test_a_join_token_comes_with_the_command_that_uses_it(
    client: FlaskClient, ctx: Context
) -> None:
    response = client.post("/v1/join-tokens", json={"queues": ["org.acme"]})

    made = response.get_json()
    assert response.status_code == 201
    assert made["command"].endswith(f"--token {made['token']}")
    assert made["expires_at"] == int(ctx.now().timestamp()) + 3600
    with ctx.db.session() as session:
        grant = auth.redeem(session, made["token"], ctx.now())
    assert grant.queues == ("org.acme",)


def test_a_join_token_for_another_orgs_queue_is_refused(client: FlaskClient) -> None:
    response = client.post("/v1/join-tokens", json={"queues": ["org.rival"]})

    assert response.status_code == 400
    assert response.get_json()["error"]["param"] == "queues"


def test_a_key_is_made_shown_once_listed_and_revoked(
    app: Flask, client: FlaskClient
) -> None:
    made = client.post("/v1/keys", json={"name": "ci"}).get_json()
    headers = {"Authorization": f"Bearer {made['secret']}"}
    user = app.test_client()

    assert user.get("/v1/models", headers=headers).status_code == 200
    listed = client.get("/v1/keys").get_json()["data"]
    assert "secret" not in listed[-1]
    assert listed[-1]["name"] == "ci"
    assert client.delete(f"/v1/keys/{made['id']}").get_json()["revoked"]
    assert user.get("/v1/models", headers=headers).status_code == 401
    assert client.delete(f"/v1/keys/{made['id']}").status_code == 404


@pytest.mark.parametrize("path", ["/v1/workers", "/v1/queues", "/v1/keys"])
def test_only_admin_keys_may_look(app: Flask, ctx: Context, path: str) -> None:
    _, secret = web.key(ctx, is_admin=False)
    headers = {"Authorization": f"Bearer {secret}"}
    response = app.test_client().get(path, headers=headers)

    assert response.status_code == 403
    assert response.get_json()["error"]["type"] == "permission_error"
