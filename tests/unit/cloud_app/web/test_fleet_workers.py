from typing import Any

import msgspec
import pytest
from flask.testing import FlaskClient

from cloud_app.context import Context
from cloud_app.orgs import auth
from fixtures import web
from genie.contracts import codec
from genie.contracts.fleet import (
    Heartbeat,
    HeartbeatReply,
    Registration,
    RegistrationReply,
)

REGISTER = "/fleet/v1/register"
HEARTBEAT = "/fleet/v1/heartbeat"


def said(**changed: object) -> Registration:
    made = Registration(
        hostname="h", name="borealis", boot_id="b1", version="0.1.0", host=web.host()
    )
    return msgspec.structs.replace(made, **changed)


def post(client: FlaskClient, path: str, credential: str | None, body: bytes) -> Any:
    headers = {"Authorization": f"Bearer {credential}"} if credential else {}
    return client.post(path, data=body, headers=headers)


def registered(client: FlaskClient, ctx: Context) -> RegistrationReply:
    token = auth.create_join_token(ctx, web.ORG)
    response = post(client, REGISTER, token, codec.encode(said()))
    assert response.status_code == 200
    return codec.decode(RegistrationReply, response.data)


def test_a_worker_joins_with_a_token_and_beats_with_its_secret(
    visitor: FlaskClient, ctx: Context
) -> None:
    worker = registered(visitor, ctx)
    beat = Heartbeat(seq=3, boot_id="b1", host=web.host())
    response = post(visitor, HEARTBEAT, worker.worker_secret, codec.encode(beat))

    reply = codec.decode(HeartbeatReply, response.data)
    assert worker.org == web.ORG
    assert reply.ack_seq == 3
    assert not reply.register
    assert reply.next_in_s == 30.0


def test_a_stale_heartbeat_is_answered_with_the_number_that_is_kept(
    visitor: FlaskClient, ctx: Context
) -> None:
    secret = registered(visitor, ctx).worker_secret
    acks = []
    for seq in (5, 2):
        beat = Heartbeat(seq=seq, boot_id="b1", host=web.host())
        response = post(visitor, HEARTBEAT, secret, codec.encode(beat))
        acks.append(codec.decode(HeartbeatReply, response.data).ack_seq)

    assert acks == [5, 5]


def test_a_heartbeat_of_an_unknown_worker_asks_it_to_register(
    visitor: FlaskClient,
) -> None:
    beat = Heartbeat(seq=1, boot_id="b1", host=web.host())
    secret = auth.worker_secret("0" * 26)
    response = post(visitor, HEARTBEAT, secret, codec.encode(beat))

    assert response.status_code == 200
    assert codec.decode(HeartbeatReply, response.data).register


@pytest.mark.parametrize("path", [REGISTER, HEARTBEAT])
@pytest.mark.parametrize("credential", [None, "gj-nobody", "sk-genie-acme-x"])
def test_a_wrong_credential_is_401_with_the_next_step(
    visitor: FlaskClient, path: str, credential: str | None
) -> None:
    bodies = {
        REGISTER: codec.encode(said()),
        HEARTBEAT: codec.encode(Heartbeat(seq=1, boot_id="b", host=web.host())),
    }
    response = post(visitor, path, credential, bodies[path])

    assert response.status_code == 401
    assert "join" in response.get_json()["error"]["message"]


def test_a_wrong_secret_of_a_known_worker_is_401(
    visitor: FlaskClient, ctx: Context
) -> None:
    worker = registered(visitor, ctx)
    beat = codec.encode(Heartbeat(seq=1, boot_id="b1", host=web.host()))
    response = post(visitor, HEARTBEAT, f"{worker.worker_secret[:-1]}!", beat)

    assert response.status_code == 401


@pytest.mark.parametrize("path", [REGISTER, HEARTBEAT])
def test_who_may_not_speak_is_refused_before_what_is_said_is_read(
    visitor: FlaskClient, path: str
) -> None:
    assert post(visitor, path, "gj-nobody", b"no message").status_code == 401


def test_a_used_join_token_is_refused_whatever_is_said_with_it(
    visitor: FlaskClient, ctx: Context
) -> None:
    token = auth.create_join_token(ctx, web.ORG)
    assert post(visitor, REGISTER, token, codec.encode(said())).status_code == 200

    response = post(visitor, REGISTER, token, b"no message")

    assert response.status_code == 401
    assert "was used before" in response.get_json()["error"]["message"]


def test_a_join_token_is_good_once(visitor: FlaskClient, ctx: Context) -> None:
    token = auth.create_join_token(ctx, web.ORG)
    body = codec.encode(said())

    assert post(visitor, REGISTER, token, body).status_code == 200
    assert post(visitor, REGISTER, token, body).status_code == 401


def test_a_worker_of_a_later_release_joins_and_beats(
    visitor: FlaskClient, ctx: Context
) -> None:
    token = auth.create_join_token(ctx, web.ORG)
    body = codec.encode(said())[:-1] + b',"gpu":1}'
    response = post(visitor, REGISTER, token, body)
    worker = codec.decode(RegistrationReply, response.data)
    beat = codec.encode(Heartbeat(seq=1, boot_id="b1", host=web.host()))
    response = post(
        visitor, HEARTBEAT, worker.worker_secret, beat[:-1] + b',"fan_rpm":[900]}'
    )

    assert response.status_code == 200
    assert codec.decode(HeartbeatReply, response.data).ack_seq == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b'{"hostname": "h"}', "name"),
        (codec.encode(said())[:-1] + b',"labels": 1}', "labels"),
        (codec.encode(said(protocol=99)), "protocol"),
    ],
)
def test_a_registration_that_breaks_its_contract_is_400_by_field(
    visitor: FlaskClient, ctx: Context, body: bytes, param: str | None
) -> None:
    token = auth.create_join_token(ctx, web.ORG)
    response = post(visitor, REGISTER, token, body)

    assert response.status_code == 400
    assert response.get_json()["error"]["param"] == param
    assert post(visitor, REGISTER, token, codec.encode(said())).status_code == 200
