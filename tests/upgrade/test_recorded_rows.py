"""Rows that earlier releases left are migrated, listed and read by this one."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import DateTime, MetaData

from cloud_app import store
from cloud_app.app import create_app
from cloud_app.orgs import auth
from fixtures import web
from fixtures.nodes import PostgresNode

RECORDED = Path(__file__).parent / "recorded"
RELEASES = sorted(path.name for path in RECORDED.iterdir())


def recorded(release: str) -> dict[str, Any]:
    """The schema's revision, and every row by table."""
    text = (RECORDED / release / "rows.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def fill(db: store.Database, said: dict[str, Any]) -> None:
    """The database as that release left it."""
    store.schema.upgrade(db, said["schema"])
    with db.connection() as connection:
        tables = MetaData()
        tables.reflect(connection)
        for table in tables.sorted_tables:
            moments = [c.name for c in table.columns if isinstance(c.type, DateTime)]
            rows = said["tables"].get(table.name, [])
            if rows:
                made = [row | _moments(row, moments) for row in rows]
                connection.execute(table.insert(), made)


def _moments(row: dict[str, Any], names: list[str]) -> dict[str, datetime]:
    given = [name for name in names if row[name]]
    return {name: datetime.fromisoformat(row[name]) for name in given}


@pytest.fixture(params=RELEASES)
def rows(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What one release left."""
    return recorded(request.param)


@pytest.fixture(params=["sqlite", "postgresql"])
def client(
    request: pytest.FixtureRequest, rows: dict[str, Any], tmp_path: Path
) -> Iterator[FlaskClient]:
    """This release's web on those rows, after its migrations, with an admin key."""
    settings = web.cloud_settings(tmp_path)
    if request.param == "postgresql":
        node: PostgresNode = request.getfixturevalue("postgres")
        node.start()
        settings = web.cloud_settings(tmp_path, database_url=node.create_database())
    db = store.Database(settings.database_url)
    fill(db, rows)
    db.dispose()
    ctx = web.context(tmp_path, settings=settings)
    _, secret = auth.create_key(ctx, web.ORG, "test", is_admin=True)
    made = create_app(ctx).test_client()
    made.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {secret}"
    yield made
    ctx.close()


def test_every_job_is_listed_and_shown_with_its_answer(
    client: FlaskClient, rows: dict[str, Any]
) -> None:
    jobs = {row["id"]: row for row in rows["tables"]["job"]}
    listed = client.get("/v1/jobs?limit=200").get_json()["data"]
    assert {job["id"] for job in listed} == jobs.keys()
    for job in listed:
        assert job == client.get(f"/v1/jobs/{job['id']}").get_json()
        assert job["status"] == jobs[job["id"]]["state"]
        is_answered = job["status"] == "completed"
        assert (job["result"] is not None) == is_answered
        if job["finished_at"]:
            told = client.get(f"/v1/jobs/{job['id']}/events", buffered=True)
            assert f"event: {job['status']}" in told.text


def test_an_answer_holds_all_that_was_stored_of_it(
    client: FlaskClient, rows: dict[str, Any]
) -> None:
    for row in rows["tables"]["job"]:
        if row["state"] != "completed":
            continue
        job = client.get(f"/v1/jobs/{row['id']}").get_json()
        usage = json.loads(row["usage"])
        assert job["usage"]["completion_tokens"] == usage["completion_tokens"]
        assert job["metadata"] == row["metadata"]
        if job["result"]["object"] == "chat.completion":
            message = job["result"]["choices"][0]["message"]
            assert message["content"] == row["text"] or message["tool_calls"]


@pytest.mark.parametrize(
    "listing",
    [
        "batches",
        "files",
        "schedules",
        "webhook-deliveries",
        "keys",
        "workers",
        "queues",
        "fleet",
        "models",
        "retention",
    ],
)
def test_every_listing_is_read(client: FlaskClient, listing: str) -> None:
    response = client.get(f"/v1/{listing}")
    assert response.status_code == 200, response.get_json()
    found = response.get_json()
    assert found.get("data", found)


def test_what_did_not_complete_is_asked_again(
    client: FlaskClient, rows: dict[str, Any]
) -> None:
    made = [
        client.post(f"/v1/jobs/{row['id']}/retry")
        for row in rows["tables"]["job"]
        if row["state"] in ("cancelled", "timeout", "failed") and row["payload"]
    ]
    assert made
    assert {response.status_code for response in made} == {202}
