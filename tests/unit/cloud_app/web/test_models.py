from flask import Flask
from flask.testing import FlaskClient
from openai.types import Model

from cloud_app.context import Context
from cloud_app.orgs import auth
from fixtures import web


def test_models_are_listed_in_openais_shape_with_where_they_are_ready(
    client: FlaskClient,
) -> None:
    listed = client.get("/v1/models").get_json()

    models = {m["id"]: m for m in listed["data"]}
    assert listed["object"] == "list"
    assert all(Model.model_validate(m) for m in models.values())
    small = models["echo:small"]["genie"]
    assert small["ready"]
    assert small["workers"] == 1
    assert small["states"] == {"ready": 1}
    assert "chat" in small["personas"]
    assert not models["echo:large"]["genie"]["ready"]


def test_one_model_is_found_by_its_id_and_a_typo_gets_suggestions(
    client: FlaskClient,
) -> None:
    assert client.get("/v1/models/echo:small").get_json()["id"] == "echo:small"
    response = client.get("/v1/models/echo:smol")
    assert response.status_code == 404
    assert "echo:small" in response.get_json()["error"]["message"]


def test_a_key_sees_only_the_models_it_may_use(app: Flask, ctx: Context) -> None:
    _, secret = auth.create_key(ctx, web.ORG, "few", allowed_models=("echo:large",))
    client = app.test_client()
    headers = {"Authorization": f"Bearer {secret}"}

    listed = client.get("/v1/models", headers=headers).get_json()["data"]
    assert [m["id"] for m in listed] == ["echo:large"]
    assert client.get("/v1/models/echo:small", headers=headers).status_code == 404


def test_personas_show_their_ladder(client: FlaskClient) -> None:
    listed = client.get("/v1/personas").get_json()["data"]
    chat = next(p for p in listed if p["id"] == "chat")

    assert chat["ladder"] == ["echo:small", "echo:large"]
    assert chat["tier"] == "lite"
    assert chat["sla_s"] == 30.0


def test_a_route_is_decided_without_running_anything(
    client: FlaskClient, ctx: Context
) -> None:
    answer = client.post("/v1/route", json={"persona": "chat"}).get_json()

    assert answer["route"]["model"] == "echo:small"
    assert answer["route"]["queue"] == "genie"
    assert answer["route"]["reasons"]
    assert client.get("/v1/jobs").get_json()["data"] == []
    later = client.post(
        "/v1/route", json={"persona": "chat", "mode": "async"}
    ).get_json()
    assert later["route"]["class"] == "job"


def test_a_route_says_whether_the_text_fits(client: FlaskClient) -> None:
    asked = {"persona": "chat", "input": "word " * 3000}
    route = client.post("/v1/route", json=asked).get_json()["route"]
    assert route["model"] == "echo:large"
    assert "at most 2048" in route["skipped"][0]["why"]

    asked["input"] = "word " * 9000
    refused = client.post("/v1/route", json=asked).get_json()["route"]
    assert refused["refused"] == "context_length_exceeded"


def test_a_route_that_cannot_be_is_said_with_its_reason(client: FlaskClient) -> None:
    assert client.post("/v1/route", json={"persona": "poet"}).status_code == 404
    nothing = client.post("/v1/route", json={})
    assert nothing.status_code == 400
    assert nothing.get_json()["error"]["param"] == "model"
