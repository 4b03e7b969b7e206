from typing import cast

import pytest
from flask import Flask
from flask.testing import FlaskClient

from cloud_app import store
from cloud_app.context import Context
from cloud_app.web import ops
from cloud_app.web.metrics import Metrics
from fixtures.later import LATER, later_schema
from fixtures.web import TwinBus
from genie.errors import DatabaseDown


def test_probes_need_no_key(visitor: FlaskClient) -> None:
    for path in ("/livez", "/readyz", "/health", "/version", "/metrics", "/openapi"):
        assert visitor.get(path).status_code == 200


def test_readiness_names_the_part_that_is_missing(
    visitor: FlaskClient, ctx: Context
) -> None:
    cast(TwinBus, ctx.bus).is_down = True
    response = visitor.get("/readyz")

    assert response.status_code == 503
    assert response.headers["Retry-After"]
    checks = response.get_json()["checks"]
    assert checks["database"] == checks["schema"] == "ok"
    assert "broker" in checks["broker"]
    assert visitor.get("/livez").status_code == 200


def test_probes_do_not_ask_more_than_once_a_second() -> None:
    asked: list[int] = []
    readiness = ops.Readiness({"database": lambda: asked.append(1)}, lambda: "0001")

    for _ in range(5):
        assert readiness.states() == ({"database": "ok"}, "0001")

    assert len(asked) == 1


def test_a_process_is_ready_on_the_schema_of_a_later_release(
    visitor: FlaskClient, ctx: Context
) -> None:
    later_schema(ctx.db, "ALTER TABLE job ADD COLUMN of_a_later_release TEXT")
    response = visitor.get("/readyz")

    assert response.status_code == 200
    needs = store.schema.newest()
    assert response.get_json()["schema"] == {"needs": needs, "found": LATER}


def test_it_is_not_ready_once_that_schema_lacks_what_it_uses(
    visitor: FlaskClient, ctx: Context
) -> None:
    later_schema(ctx.db, "ALTER TABLE job DROP COLUMN fingerprint")
    response = visitor.get("/readyz")

    assert response.status_code == 503
    assert "job.fingerprint is gone" in response.get_json()["checks"]["schema"]


def test_readiness_says_what_it_needs_while_the_database_is_away(
    visitor: FlaskClient, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down() -> None:
        raise DatabaseDown("the database cannot be reached; start it")

    monkeypatch.setattr(ctx.db, "reading", down)
    body = visitor.get("/readyz").get_json()

    assert body["status"] == "unavailable"
    assert body["schema"] == {"needs": store.schema.newest(), "found": None}


def test_metrics_count_requests_by_route_tokens_and_jobs_by_state(
    app: Flask, client: FlaskClient
) -> None:
    body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
    client.post("/v1/chat/completions", json=body)
    client.post("/v1/chat/completions", json={**body, "stream": True}, buffered=True)
    client.get("/v1/jobs/nothing")
    text = client.get("/metrics").text

    route = 'route="/v1/chat/completions",status="200"'
    assert f'genie_http_requests_total{{method="POST",{route}}} 2.0' in text
    assert 'route="/v1/jobs/<job_id>",status="404"' in text
    tokens = 'genie_tokens_total{kind="completion",model="echo:small"}'
    assert f"{tokens} 4.0" in text
    assert 'genie_jobs{state="completed"} 2.0' in text
    assert "genie_streams_open 0.0" in text
    assert "process_resident_memory_bytes" in text
    assert "_created" not in text


def test_metrics_are_there_while_the_database_is_away(
    visitor: FlaskClient, app: Flask
) -> None:
    def down() -> dict[str, int]:
        raise DatabaseDown("the database cannot be reached")

    app.extensions["genie.metrics"] = Metrics(down)
    response = visitor.get("/metrics")

    assert response.status_code == 200
    assert "genie_jobs{" not in response.text


def test_the_description_names_every_endpoint_and_its_errors(
    visitor: FlaskClient, app: Flask
) -> None:
    document = visitor.get("/openapi").get_json()
    rules = {
        rule.rule.replace("<path:", "{").replace("<", "{").replace(">", "}")
        for rule in app.url_map.iter_rules()
        if rule.endpoint.partition(".")[0] not in ("static", "admin")
    }

    assert set(document["paths"]) == rules
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"], path
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert chat["responses"]["400"] == {"$ref": "#/components/responses/Error"}
    error = document["components"]["responses"]["Error"]["content"]
    assert error["application/json"]["schema"]["$ref"].endswith("ErrorBody")
    register = document["paths"]["/fleet/v1/register"]["post"]
    taken = register["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schema = document["components"]["schemas"][taken.rsplit("/", 1)[-1]]
    assert "boot_id" in schema["required"]
