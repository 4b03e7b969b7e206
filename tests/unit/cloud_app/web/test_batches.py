"""Batches over HTTP, in OpenAI's shape."""

import io
from typing import Any

import pytest
from flask.testing import FlaskClient
from openai.types import Batch

from cloud_app.batches import driver
from cloud_app.context import Context
from fixtures.batches import jsonl, line


def upload(client: FlaskClient, data: bytes) -> str:
    form = {"file": (io.BytesIO(data), "work.jsonl"), "purpose": "batch"}
    file_id: str = client.post("/v1/files", data=form).get_json()["id"]
    return file_id


def body(client: FlaskClient, **more: object) -> dict[str, object]:
    return {
        "input_file_id": upload(client, jsonl(line(n) for n in range(3))),
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        **more,
    }


def create(client: FlaskClient, **more: object) -> Any:
    return client.post("/v1/batches", json=body(client, **more)).get_json()


def test_a_batch_runs_from_its_file_to_its_answers(
    client: FlaskClient, ctx: Context
) -> None:
    made = Batch.model_validate(create(client, metadata={"ticket": "7"}))
    assert made.status == "validating"
    assert made.metadata == {"ticket": "7"}
    assert made.expires_at == made.created_at + 24 * 3600
    for _ in range(3):
        driver.drive(ctx)
    done = Batch.model_validate(client.get(f"/v1/batches/{made.id}").get_json())
    assert done.status == "completed"
    assert done.request_counts is not None
    assert (done.request_counts.total, done.request_counts.completed) == (3, 3)
    assert done.usage is not None
    assert done.usage.total_tokens > 0
    assert done.model == "echo:small"
    answers = client.get(f"/v1/files/{done.output_file_id}/content").data
    assert len(answers.splitlines()) == 3
    listed = client.get("/v1/files?purpose=batch_output").get_json()["data"]
    assert [file["id"] for file in listed] == [done.output_file_id]


def test_an_idempotency_key_makes_one_batch(client: FlaskClient) -> None:
    wanted, headers = body(client), {"Idempotency-Key": "k"}
    first = client.post("/v1/batches", json=wanted, headers=headers).get_json()
    again = client.post("/v1/batches", json=wanted, headers=headers).get_json()
    assert again["id"] == first["id"]
    other = client.post(
        "/v1/batches", json={**wanted, "completion_window": "1h"}, headers=headers
    )
    assert other.status_code == 409


def test_batches_are_listed_newest_first_page_by_page(client: FlaskClient) -> None:
    made = [create(client)["id"] for _ in range(3)]
    page = client.get("/v1/batches?limit=2").get_json()
    assert page["has_more"]
    rest = client.get(f"/v1/batches?after={page['last_id']}").get_json()
    found = [one["id"] for one in (*page["data"], *rest["data"])]
    assert sorted(found) == sorted(made)


def test_a_cancelled_batch_says_so(client: FlaskClient, ctx: Context) -> None:
    made = create(client)
    cancelled = client.post(f"/v1/batches/{made['id']}/cancel").get_json()
    assert cancelled["status"] == "cancelling"
    driver.drive(ctx)
    found = client.get(f"/v1/batches/{made['id']}").get_json()
    assert found["status"] == "cancelled"
    Batch.model_validate(found)


def test_mistakes_in_the_input_are_named_by_line(
    client: FlaskClient, ctx: Context
) -> None:
    data = jsonl([line(1), line(1)]) + b"no json\n"
    made = create(client, input_file_id=upload(client, data))
    driver.drive(ctx)
    found = Batch.model_validate(client.get(f"/v1/batches/{made['id']}").get_json())
    assert found.status == "failed"
    assert found.errors is not None
    errors = found.errors.data or []
    assert [(error.code, error.line) for error in errors] == [
        ("duplicate_custom_id", 2),
        ("invalid_json_line", 3),
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("completion_window", "25h"),
        ("completion_window", "0m"),
        ("completion_window", "soon"),
        ("endpoint", "/v1/images"),
        ("input_file_id", None),
    ],
)
def test_a_wrong_field_is_named(
    client: FlaskClient, field: str, value: str | None
) -> None:
    refused = client.post("/v1/batches", json=body(client) | {field: value})
    assert refused.status_code == 400
    assert refused.get_json()["error"]["param"] == field


def test_a_result_cannot_be_the_input_of_a_batch(
    client: FlaskClient, ctx: Context
) -> None:
    made = create(client)
    for _ in range(3):
        driver.drive(ctx)
    output = client.get(f"/v1/batches/{made['id']}").get_json()["output_file_id"]
    refused = client.post("/v1/batches", json=body(client, input_file_id=output))
    assert refused.status_code == 400
    assert refused.get_json()["error"]["param"] == "input_file_id"


def test_a_batch_that_does_not_exist_is_a_404(client: FlaskClient) -> None:
    assert client.get("/v1/batches/batch_x").status_code == 404
    assert client.post("/v1/batches/batch_x/cancel").status_code == 404
