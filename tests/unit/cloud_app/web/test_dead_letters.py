"""Dead letters over HTTP: for admins, their own org's, without text unless asked."""

import pytest
from flask.testing import FlaskClient

from cloud_app.context import Context
from cloud_app.jobs import dead_letters
from fixtures import web
from fixtures.letters import TwinDeadLetters, letter
from fixtures.web import TwinBus

ASKED = {"model": "echo:small", "messages": [{"role": "user", "content": "SECRET"}]}


@pytest.fixture
def job_id(client: FlaskClient, ctx: Context, bus: TwinBus) -> str:
    """A job whose message died."""
    bus.work = lambda _task: ()
    dead = ctx.bus.dead = TwinDeadLetters()
    client.post("/v1/chat/completions", json={**ASKED, "mode": "async"})
    dead.kept.append(letter(bus.published[-1]))
    dead_letters.bury(ctx)
    bus.work = web.answer
    return bus.published[-1].job_id


def test_the_list_shows_why_and_no_text(client: FlaskClient, job_id: str) -> None:
    response = client.get("/v1/dead-letters")
    (shown,) = response.get_json()["data"]
    assert (shown["id"], shown["reason"]) == (job_id, "rejected")
    assert shown["why"].startswith("a worker could not read")
    assert "SECRET" not in response.text


def test_text_is_shown_when_asked_for(client: FlaskClient, job_id: str) -> None:
    assert "SECRET" not in client.get(f"/v1/dead-letters/{job_id}").text
    shown = client.get(f"/v1/dead-letters/{job_id}?text=true").get_json()
    assert shown["content"]["messages"][0]["content"] == "SECRET"


def test_a_replayed_letter_is_answered_by_its_job(
    client: FlaskClient, job_id: str
) -> None:
    response = client.post(f"/v1/dead-letters/{job_id}/replay")
    assert response.status_code == 202
    job = client.get(f"/v1/jobs/{job_id}").get_json()
    assert job["result"]["choices"][0]["message"]["content"] == "hello world"
    assert client.get("/v1/dead-letters").get_json()["data"] == []


def test_a_discarded_letter_is_gone_and_its_job_stays_failed(
    client: FlaskClient, job_id: str
) -> None:
    assert client.delete(f"/v1/dead-letters/{job_id}").status_code == 200
    assert client.delete(f"/v1/dead-letters/{job_id}").status_code == 404
    assert client.get(f"/v1/jobs/{job_id}").get_json()["status"] == "failed"


def test_only_admins_may_look(visitor: FlaskClient, ctx: Context, job_id: str) -> None:
    secret = web.key(ctx, is_admin=False)[1]
    headers = {"Authorization": f"Bearer {secret}"}
    assert visitor.get("/v1/dead-letters", headers=headers).status_code == 403
    assert visitor.get("/v1/dead-letters").status_code == 401
