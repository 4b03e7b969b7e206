from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from cloud_app.context import Context
from fixtures import web
from fixtures.web import TwinBus


def ask(client: FlaskClient, **body: object) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}], **body}
    assert client.post("/v1/chat/completions", json=chat).status_code in (200, 202)


def look(client: FlaskClient, jobs: int = 20) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/v1/fleet?jobs={jobs}").get_json()
    return found


def test_one_answer_shows_machines_queues_jobs_and_routes(
    client: FlaskClient,
) -> None:
    ask(client, persona="review")
    found = look(client)

    assert found["org"] == web.ORG
    assert [worker["name"] for worker in found["workers"]] == ["atlas"]
    assert {queue["class"] for queue in found["queues"]} == {
        "interactive",
        "job",
        "batch",
    }
    (job,) = found["jobs"]
    assert (job["persona"], job["model"], job["status"]) == (
        "review",
        "echo:small",
        "completed",
    )
    assert found["figures"]["failed_1h"] == 0
    asked, *others = found["routes"]
    assert (asked["personas"], asked["share"]) == (["review"], 1.0)
    assert all(other["share"] is None and other["why"] for other in others)
    named = {name for route in found["routes"] for name in route["personas"]}
    assert {"review", "chat", "heavy"} <= named


def test_what_waits_is_counted_and_the_list_is_bounded(
    client: FlaskClient, bus: TwinBus
) -> None:
    bus.work = lambda task: ()
    for _ in range(3):
        ask(client, persona="review", mode="async")
    found = look(client, jobs=2)

    assert found["figures"]["waiting"] == 3
    assert [job["status"] for job in found["jobs"]] == ["queued", "queued"]


def test_no_text_of_a_job_is_in_it(client: FlaskClient, bus: TwinBus) -> None:
    bus.work = lambda task: web.answer(task, "a secret answer")
    said = [{"role": "user", "content": "a secret question"}]
    ask(client, persona="chat", messages=said)

    assert "secret" not in client.get("/v1/fleet").text


@pytest.mark.parametrize("jobs", ["-1", "201", "many"])
def test_a_number_of_jobs_that_is_none_is_refused(
    client: FlaskClient, jobs: str
) -> None:
    response = client.get(f"/v1/fleet?jobs={jobs}")

    assert response.status_code == 400
    assert response.get_json()["error"]["param"] == "jobs"


def test_only_an_admin_key_sees_it(app: Flask, ctx: Context) -> None:
    secret = web.key(ctx, is_admin=False)[1]
    headers = {"Authorization": f"Bearer {secret}"}

    assert app.test_client().get("/v1/fleet", headers=headers).status_code == 403
    assert app.test_client().get("/v1/fleet").status_code == 401
