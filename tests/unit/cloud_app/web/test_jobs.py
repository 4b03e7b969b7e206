import json
from typing import Any

import pytest
import sqlalchemy
from flask import Flask
from flask.testing import FlaskClient

from cloud_app.context import Context
from cloud_app.orgs import auth
from fixtures import web
from fixtures.web import TwinBus
from genie.contracts import codec


def submit(
    client: FlaskClient, persona: str = "chat", **more: object
) -> dict[str, Any]:
    messages = [{"role": "user", "content": "hi"}]
    body = {"persona": persona, "mode": "async", "messages": messages, **more}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 202
    made: dict[str, Any] = response.get_json()
    return made


def test_a_finished_job_shows_its_times_its_route_and_its_answer(
    client: FlaskClient,
) -> None:
    made = submit(client, metadata={"ticket": "7"}, user="eve")
    job = client.get(made["polling_url"]).get_json()

    assert job["status"] == "completed"
    assert job["object"] == "job"
    assert job["persona"] == "chat"
    assert job["worker"] == "atlas"
    assert job["usage"]["total_tokens"] == 7
    assert job["attempts"] == 1
    assert job["created_at"] <= job["finished_at"] <= job["deadline_at"]
    assert job["route"]["model"] == "echo:small"
    assert job["route"]["reasons"]
    assert job["result"]["choices"][0]["message"]["content"] == "hello world"
    assert job["metadata"] == {"ticket": "7", "user": "eve"}


def test_a_job_is_found_with_and_without_its_prefix(client: FlaskClient) -> None:
    made = submit(client)
    bare = made["id"].removeprefix("chatcmpl-")

    assert client.get(f"/v1/jobs/{bare}").get_json()["id"] == bare
    assert client.get(f"/v1/jobs/{made['id']}").get_json()["id"] == bare
    assert client.get(f"/v1/jobs/{bare}").headers["x-genie-job-id"] == bare


def test_a_row_that_a_later_release_wrote_is_listed_like_any_other(
    client: FlaskClient, ctx: Context
) -> None:
    made = submit(client)["id"].removeprefix("chatcmpl-")
    (before,) = client.get("/v1/jobs").get_json()["data"]
    with ctx.db.connection() as connection:
        kept = sqlalchemy.text("SELECT usage FROM job WHERE id = :id")
        usage = json.loads(connection.execute(kept, {"id": made}).scalar_one())
        later = json.dumps({**usage, "energy_j": {"a": [2.5]}})
        change = sqlalchemy.text("UPDATE job SET usage = :later")
        connection.execute(change, {"later": later})

    (after,) = client.get("/v1/jobs").get_json()["data"]
    assert after == before
    assert client.get(f"/v1/jobs/{made}").get_json()["result"]


def test_a_job_that_failed_says_why_and_has_no_result(
    client: FlaskClient, bus: TwinBus
) -> None:
    bus.work = web.failing("load_failed", "the model does not load")
    job = client.get(submit(client)["polling_url"]).get_json()

    assert job["status"] == "failed"
    assert job["error"]["code"] == "load_failed"
    assert job["result"] is None


@pytest.mark.parametrize("way", ["post", "delete"])
def test_an_open_job_is_cancelled_either_way_and_stays_so(
    client: FlaskClient, bus: TwinBus, way: str
) -> None:
    bus.work = lambda task: []
    url = submit(client)["polling_url"]
    if way == "post":
        url = f"{url}/cancel"
    response = client.open(url, method=way.upper())

    assert response.get_json()["status"] == "cancelled"
    assert client.open(url, method=way.upper()).get_json()["status"] == "cancelled"


def test_jobs_are_listed_newest_first_and_page_by_page(client: FlaskClient) -> None:
    made = [submit(client)["id"].removeprefix("chatcmpl-") for _ in range(3)]
    first = client.get("/v1/jobs?limit=2").get_json()
    rest = client.get(f"/v1/jobs?limit=2&after={first['data'][-1]['id']}").get_json()

    found = [job["id"] for job in first["data"] + rest["data"]]
    assert sorted(found) == sorted(made)
    assert (first["has_more"], rest["has_more"]) == (True, False)


def test_jobs_are_found_by_what_they_are(client: FlaskClient, bus: TwinBus) -> None:
    submit(client, "chat")
    bus.work = lambda task: []
    submit(client, "review")

    def count(query: str) -> int:
        return len(client.get(f"/v1/jobs?{query}").get_json()["data"])

    assert count("state=completed") == count("persona=chat") == 1
    assert count("state=queued") == count("persona=review") == 1
    assert count("model=echo:small") == 2
    assert count("worker=atlas") == 1
    assert count("since=0") == 2
    assert count("since=8000000000") == 0


@pytest.mark.parametrize(
    ("query", "param"),
    [("state=sleeping", "state"), ("limit=0", "limit"), ("since=x", "since")],
)
def test_a_wrong_filter_is_named(client: FlaskClient, query: str, param: str) -> None:
    response = client.get(f"/v1/jobs?{query}")

    assert response.status_code == 400
    assert response.get_json()["error"]["param"] == param


def test_another_orgs_job_does_not_exist(
    app: Flask, client: FlaskClient, ctx: Context
) -> None:
    url = submit(client)["polling_url"]
    auth.ensure_org(ctx, "rival")
    _, secret = auth.create_key(ctx, "rival", "spy", is_admin=True)
    headers = {"Authorization": f"Bearer {secret}"}
    rival = app.test_client()

    assert rival.get(url, headers=headers).status_code == 404
    assert rival.delete(url, headers=headers).status_code == 404
    assert rival.get("/v1/jobs", headers=headers).get_json()["data"] == []


def test_a_job_that_never_was_is_404(client: FlaskClient) -> None:
    response = client.get("/v1/jobs/chatcmpl-nothing")

    assert response.status_code == 404
    assert response.get_json()["error"]["code"] == "job_not_found"


def test_jobs_are_listed_by_the_label_their_client_gave(client: FlaskClient) -> None:
    made = [submit(client, label=name) for name in ("night", "night", "day")]
    submit(client)
    found = client.get("/v1/jobs?label=night").get_json()["data"]
    ids = {job["id"].removeprefix("chatcmpl-") for job in made[:2]}
    assert {job["id"] for job in found} == ids
    assert {job["label"] for job in found} == {"night"}
    assert client.get("/v1/jobs?label=noon").get_json()["data"] == []
    every = client.get("/v1/jobs").get_json()["data"]
    assert sorted(str(job["label"]) for job in every) == [
        "None",
        "day",
        "night",
        "night",
    ]


@pytest.mark.parametrize("label", ["x" * 201, "", "a\0b", 7])
def test_a_label_that_cannot_be_kept_is_refused_by_its_name(
    client: FlaskClient, label: object
) -> None:
    body = {"persona": "chat", "messages": [{"role": "user", "content": "hi"}]}
    answer = client.post("/v1/chat/completions", json={**body, "label": label})
    assert answer.status_code == 400
    assert answer.get_json()["error"]["param"] == "label"


def test_no_worker_is_told_of_a_label(client: FlaskClient, bus: TwinBus) -> None:
    submit(client, label="night")
    assert b"night" not in codec.encode(bus.published[-1])
