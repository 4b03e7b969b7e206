"""Jobs and schedules of the client: what is sent, what becomes of the answer."""

import httpx2
import pytest

import genie
from fixtures.twin_cloud import TwinCloud

JOB = {"id": "01a", "status": "queued"}
SCHEDULE = {"id": "01s", "name": "news", "cron": "@daily", "request": {}}


def test_a_schedule_is_a_question_with_a_cron_line() -> None:
    twin = TwinCloud({"POST /v1/schedules": SCHEDULE})
    made = twin.client().schedule(
        "News of {{date}}?",
        cron="@daily",
        name="news",
        timezone="Europe/Berlin",
        persona="chat",
        timeout=60,
        webhook="https://example.com/h",
        webhook_secret="longer than 8",
    )
    assert repr(made) == "Schedule(name='news', cron='@daily')"
    assert twin.sent == {
        "name": "news",
        "cron": "@daily",
        "timezone": "Europe/Berlin",
        "request": {
            "messages": [{"role": "user", "content": "News of {{date}}?"}],
            "persona": "chat",
            "deadline_s": 60,
        },
        "webhook": {"url": "https://example.com/h", "secret": "longer than 8"},
    }


def test_an_option_that_does_not_exist_is_named() -> None:
    with pytest.raises(TypeError, match="no option 'often'"):
        TwinCloud({}).client().schedule("x", cron="@daily", often=1)  # type: ignore[call-arg]  # the mistake under test


def test_a_schedule_is_run_paused_resumed_and_removed() -> None:
    run = {"id": "01r", "status": "started", "job_id": "01a"}
    path = "/v1/schedules/01s"
    twin = TwinCloud(
        {
            "GET /v1/schedules": {"object": "list", "data": [SCHEDULE]},
            "GET /v1/schedules/news": SCHEDULE,
            f"GET {path}": SCHEDULE | {"runs": [run]},
            f"POST {path}/run": run,
            f"POST {path}/pause": SCHEDULE | {"paused": True},
            f"POST {path}/resume": SCHEDULE,
            f"DELETE {path}": {"id": "01s", "deleted": True},
        }
    )
    client = twin.client()
    (one,) = client.schedules()
    assert one.run().job_id == "01a"
    assert one.pause().details.paused
    assert not one.resume().details.paused
    assert [run.id for run in client.find_schedule("news").runs()] == ["01r"]
    one.remove()
    assert twin.requests[-1].method == "DELETE"


def test_jobs_are_retried_one_by_one_and_by_a_filter() -> None:
    many = {"data": [JOB], "skipped": [{"id": "01b", "why": "not kept"}]}
    twin = TwinCloud({"POST /v1/jobs/01f/retry": JOB, "POST /v1/jobs/retry": many})
    client = twin.client()
    assert client.retry_job("chatcmpl-01f").id == "01a"
    made, skipped = client.retry_jobs(state="failed", persona=None, since=7.0)
    assert twin.sent == {"state": "failed", "since": 7.0}
    assert [job.id for job in made] == ["01a"]
    assert skipped[0].why == "not kept"


def lines(*names: str) -> bytes:
    text = ": nothing new\n\n"
    for name in names:
        kind = name.partition("-")[0]
        text += f'id: {name}\nevent: {kind}\ndata: {{"event": "{kind}", "at": 1}}\n\n'
    return text.encode()


def test_a_follower_goes_on_where_the_connection_broke() -> None:
    path = "GET /v1/jobs/01a/events"
    first = httpx2.Response(200, content=lines("accepted", "started-1"))
    second = httpx2.Response(200, content=lines("completed"))
    twin = TwinCloud({path: iter([first, httpx2.ConnectError("gone"), second])})
    heard = [event.event for event in twin.client().follow_job("01a")]
    assert heard == ["accepted", "started", "completed"]
    sent = [request.headers.get("last-event-id") for request in twin.requests]
    assert sent == [None, "started-1", "started-1"]


def test_a_timeline_is_read_at_once() -> None:
    shown = JOB | {"timeline": [{"event": "accepted", "at": 1.0}]}
    (event,) = TwinCloud({"GET /v1/jobs/01a": shown}).client().job_timeline("01a")
    assert (event.event, event.at) == ("accepted", 1.0)


def test_deliveries_are_listed_and_sent_again() -> None:
    told = {"id": "01d", "status": "failed", "attempts": 4}
    path = "/v1/webhook-deliveries"
    again = f"POST {path}/01d/redeliver"
    twin = TwinCloud({f"GET {path}": {"data": [told]}, again: told})
    client = twin.client()
    (one,) = client.deliveries(job="chatcmpl-01a")
    assert dict(twin.requests[0].url.params) == {"limit": "20", "job": "01a"}
    assert client.redeliver(one.id).attempts == 4


def test_retention_is_read_and_set() -> None:
    path = "/v1/retention"
    said = {"hours": 2, "kept_h": 2.0}
    twin = TwinCloud({f"GET {path}": said, f"PUT {path}": said})
    assert twin.client().retention().kept_h == 2.0
    assert twin.client().set_retention(2).hours == 2
    assert twin.sent == {"hours": 2}


def test_prompts_are_mapped_to_their_answers() -> None:
    answer = {
        "object": "chat.completion",
        "choices": [{"message": {"content": "Hello"}}],
    }
    done = {"id": "01a", "status": "completed", "result": answer}
    accepted = {"object": "chat.completion.async", "id": "chatcmpl-01a"}
    replies = {"POST /v1/chat/completions": {**accepted, "status": "queued"}}
    twin = TwinCloud({**replies, "GET /v1/jobs/01a": done, "GET /v1/jobs": [done]})
    found = twin.client().map(["a", "b"], persona="chat", max_tokens=3)
    assert [result.text for result in found] == ["Hello", "Hello"]
    with pytest.raises(TypeError, match="map makes its own"):
        twin.client().map(["a"], idempotency_key="k")


def test_the_package_offers_them_too() -> None:
    for name in ("map", "gather", "as_completed", "schedule", "Schedule"):
        assert callable(getattr(genie, name))
