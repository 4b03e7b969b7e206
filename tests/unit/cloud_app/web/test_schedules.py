"""Schedules, deliveries, retention and retries over HTTP."""

import pytest
from flask.testing import FlaskClient

from cloud_app.context import Context
from cloud_app.jobs import job_json
from cloud_app.webhooks import webhooks
from fixtures import web
from fixtures.web import TwinBus

ASK = {"model": "echo:small", "messages": [{"role": "user", "content": "On {{date}}"}]}
NEW = {"name": "digest", "cron": "30 7 * * 1-5", "request": ASK}
HOOK = {"url": "https://receiver.example/h", "secret": "never shown again"}


def test_a_schedule_lives_its_life_over_http(client: FlaskClient) -> None:
    zone = {"timezone": "Europe/Berlin", "webhook": HOOK}
    made = client.post("/v1/schedules", json=NEW | zone)
    assert made.status_code == 201
    assert made.json is not None
    assert made.json["in_words"] == "At 07:30 on Monday through Friday (Europe/Berlin)"
    assert made.json["next_runs"][0] == "Tue 2026-05-05 07:30 CEST"
    assert made.json["webhook"] == {"url": HOOK["url"]}
    assert HOOK["secret"] not in made.text
    run = client.post("/v1/schedules/digest/run")
    assert run.status_code == 202
    assert run.json is not None
    job = client.get(f"/v1/jobs/{run.json['job_id']}").json
    assert job is not None
    assert (job["status"], job["metadata"]) == ("completed", {"schedule": "digest"})
    seen = client.get(f"/v1/schedules/{made.json['id']}")
    assert seen.json is not None
    assert seen.json["runs"] == [run.json]
    assert HOOK["secret"] not in seen.text
    listed = client.get("/v1/schedules/digest/runs?limit=1").json
    assert listed is not None
    assert listed["data"] == [run.json]


def test_a_schedule_is_paused_resumed_and_removed(client: FlaskClient) -> None:
    client.post("/v1/schedules", json=NEW)
    paused = client.post("/v1/schedules/digest/pause").json
    assert paused is not None
    assert (paused["paused"], paused["next_runs"]) == (True, [])
    resumed = client.post("/v1/schedules/digest/resume").json
    assert resumed is not None
    assert resumed["paused"] is False
    assert client.delete("/v1/schedules/digest").status_code == 200
    gone = client.get("/v1/schedules/digest")
    assert gone.status_code == 404
    empty = client.get("/v1/schedules").json
    assert empty is not None
    assert empty["data"] == []


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"cron": "often"}, "cron"),
        ({"timezone": "Mars"}, "timezone"),
        ({"overlap": "always"}, "overlap"),
        ({"catch_up": 1}, "catch_up"),
        ({"jitter_s": 3601}, "jitter_s"),
        ({"request": {"model": "echo:small"}}, "request.messages"),
        ({"request": ASK | {"webhook": HOOK}}, "request.webhook"),
        ({"request": ASK | {"user": "{{x}}"}}, "request"),
        ({"webhook": HOOK | {"url": "ftp://a"}}, "webhook.url"),
        ({"webhook": HOOK | {"url": "http://10.0.0.1/"}}, "webhook.url"),
        ({"webhook": HOOK | {"url": "https://u:p@example.com/"}}, "webhook.url"),
        ({"webhook": HOOK | {"secret": "short"}}, "webhook.secret"),
    ],
)
def test_a_wrong_schedule_names_its_field(
    client: FlaskClient, given: dict[str, object], param: str
) -> None:
    answer = client.post("/v1/schedules", json=NEW | given)
    assert answer.status_code == 400
    assert answer.json is not None
    assert answer.json["error"]["param"] == param


def test_a_second_schedule_of_a_name_is_a_conflict(client: FlaskClient) -> None:
    words = {"overlap": "queue", "catch_up": "all", "jitter_s": 5}
    assert client.post("/v1/schedules", json=NEW | words).status_code == 201
    again = client.post("/v1/schedules", json=NEW)
    assert again.status_code == 409
    assert again.json is not None
    assert again.json["error"]["code"] == "schedule_exists"


def test_webhooks_are_for_work_nobody_waits_for(client: FlaskClient) -> None:
    path, body = "/v1/chat/completions", ASK | {"webhook": HOOK}
    refused = client.post(path, json=body)
    assert refused.status_code == 400
    assert refused.json is not None
    assert refused.json["error"]["param"] == "webhook"
    assert client.post(path, json=body | {"mode": "async"}).status_code == 202


def test_deliveries_are_listed_without_secrets_and_sent_again(
    client: FlaskClient, ctx: Context
) -> None:
    body = ASK | {"webhook": HOOK, "mode": "async"}
    made = client.post("/v1/chat/completions", json=body).json
    assert made is not None
    webhooks.deliver(ctx, job_json.webhook_payload, lambda _host, _port: ("10.0.0.1",))
    listed = client.get(f"/v1/webhook-deliveries?job={made['id']}")
    assert listed.json is not None
    (one,) = listed.json["data"]
    assert (one["event"], one["status"]) == ("job.completed", "pending")
    assert "private network" in one["error"]
    assert HOOK["secret"] not in listed.text
    again = client.post(f"/v1/webhook-deliveries/{one['id']}/redeliver")
    assert again.status_code == 202
    assert client.post("/v1/webhook-deliveries/x/redeliver").status_code == 404


def test_a_job_shows_its_timeline_and_streams_it(client: FlaskClient) -> None:
    made = client.post("/v1/chat/completions", json=ASK | {"mode": "async"}).json
    assert made is not None
    path = made["polling_url"]
    plain, full = client.get(path).json, client.get(f"{path}?timeline=true").json
    assert plain is not None
    assert full is not None
    assert "timeline" not in plain
    told = [entry["event"] for entry in full["timeline"]]
    assert told[0] == "accepted"
    assert told[-1] == "completed"
    events = client.get(f"{path}/events")
    assert events.mimetype == "text/event-stream"
    assert [
        line for line in events.text.splitlines() if line.startswith("event: ")
    ] == [f"event: {name}" for name in told]
    rest = client.get(f"{path}/events", headers={"Last-Event-ID": "first_token"})
    assert rest.text.startswith("id: completed\nevent: completed\ndata: {")
    assert rest.text.count("id: ") == 1
    assert client.get("/v1/jobs/none/events").status_code == 404


def test_jobs_are_found_by_their_ids(client: FlaskClient) -> None:
    made = [
        client.post("/v1/chat/completions", json=ASK | {"mode": "async"}).json
        for _ in range(3)
    ]
    wanted = [job["id"] for job in made[:2] if job is not None]
    found = client.get(f"/v1/jobs?ids={','.join(wanted)}").json
    assert found is not None
    assert {f"chatcmpl-{job['id']}" for job in found["data"]} == set(wanted)


def test_a_failed_job_is_retried_over_http(client: FlaskClient, bus: TwinBus) -> None:
    bus.work = web.failing("engine_error", "it broke")
    made = client.post("/v1/chat/completions", json=ASK | {"mode": "async"}).json
    assert made is not None
    bus.work = web.answer
    one = client.post(f"/v1/jobs/{made['id']}/retry")
    assert one.status_code == 202
    assert one.json is not None
    assert f"chatcmpl-{one.json['retry_of']}" == made["id"]
    many = client.post("/v1/jobs/retry", json={"state": "failed"})
    assert many.json is not None
    assert [job["id"] for job in many.json["data"]] == [one.json["id"]]
    refused = client.post(f"/v1/jobs/{one.json['id']}/retry")
    assert refused.status_code == 400
    assert refused.json is not None
    assert refused.json["error"]["code"] == "not_retryable"


def test_an_org_keeps_its_texts_as_long_as_it_says(client: FlaskClient) -> None:
    assert client.get("/v1/retention").json == {
        "object": "retention",
        "hours": None,
        "kept_h": 24.0,
    }
    assert client.put("/v1/retention", json={"hours": 2}).status_code == 200
    for retain, kept in ((None, 2), (9, 2), (0, 0)):
        body = ASK | {"mode": "async", "retain": retain}
        made = client.post("/v1/chat/completions", json=body).json
        assert made is not None
        job = client.get(made["polling_url"]).json
        assert job is not None
        assert job["retain"] == kept
