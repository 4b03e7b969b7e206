"""``genie schedule``, and what `genie jobs` does besides listing."""

import json
from collections.abc import Callable

import httpx2
from click.testing import Result

from fixtures.twin_cloud import TwinCloud

Run = Callable[..., Result]

SCHEDULE = {
    "id": "01sabcdefghjkmnpqrstvwxyz0",
    "name": "news",
    "cron": "30 7 * * 1-5",
    "timezone": "Europe/Berlin",
    "in_words": "At 07:30 on Monday through Friday (Europe/Berlin)",
    "next_runs": ["Tue 2026-05-05 07:30 CEST", "Wed 2026-05-06 07:30 CEST"],
    "overlap": "skip",
    "catch_up": "last",
    "runs": [{"id": "01r", "status": "skipped", "reason": "others wait"}],
}
PATH = "/v1/schedules"


def test_a_schedule_is_added_and_said_in_words(run: Run, cloud: TwinCloud) -> None:
    cloud.replies = {f"POST {PATH}": SCHEDULE}
    done = run(
        *("schedule", "add", "news", "30 7 * * 1-5", "News of {{date}}?"),
        *("-p", "chat", "--timezone", "Europe/Berlin", "--overlap", "queue"),
    )
    assert done.exit_code == 0
    assert cloud.sent == {
        "name": "news",
        "cron": "30 7 * * 1-5",
        "timezone": "Europe/Berlin",
        "overlap": "queue",
        "request": {
            "messages": [{"role": "user", "content": "News of {{date}}?"}],
            "persona": "chat",
        },
    }
    assert "runs\tAt 07:30 on Monday through Friday (Europe/Berlin)" in done.stdout


def test_schedules_are_listed_for_people_and_for_pipes(
    run: Run, cloud: TwinCloud
) -> None:
    cloud.replies = {f"GET {PATH}": {"data": [SCHEDULE]}}
    piped = run("schedule")
    line = "news\t30 7 * * 1-5\tEurope/Berlin\tTue 2026-05-05 07:30 CEST\tactive\t\n"
    assert piped.stdout == line
    assert json.loads(run("schedule", "list", "--json").stdout)[0]["name"] == "news"
    assert "next run" in run("schedule", "list", terminal=True).stdout


def test_a_schedule_is_shown_with_its_runs(run: Run, cloud: TwinCloud) -> None:
    cloud.replies = {f"GET {PATH}/news": SCHEDULE}
    done = run("schedule", "show", "news")
    assert "next\tTue 2026-05-05 07:30 CEST, Wed 2026-05-06 07:30 CEST" in done.stdout
    assert "skipped" in done.stdout.splitlines()[-1]


def test_a_schedule_is_run_paused_resumed_and_removed(
    run: Run, cloud: TwinCloud
) -> None:
    cloud.replies = {
        f"POST {PATH}/news/run": {"id": "01r", "status": "started", "job_id": "01a"},
        f"POST {PATH}/news/pause": SCHEDULE,
        f"POST {PATH}/news/resume": SCHEDULE,
        f"DELETE {PATH}/news": {"deleted": True},
    }
    assert run("schedule", "run", "news").stdout == "01a\n"
    assert run("schedule", "pause", "news").stdout == "news\tpaused\n"
    resumed = run("schedule", "resume", "news").stdout
    assert resumed == "news\tTue 2026-05-05 07:30 CEST\n"
    assert run("schedule", "rm", "news").stdout == "news\tremoved\n"


def test_jobs_are_retried_by_id_or_all_that_match(run: Run, cloud: TwinCloud) -> None:
    new = {"id": "02b", "status": "queued", "retry_of": "01a"}
    cloud.replies = {
        "POST /v1/jobs/01a/retry": new,
        "POST /v1/jobs/retry": {
            "data": [new],
            "skipped": [{"id": "01c", "why": "its prompt is not kept"}],
        },
    }
    assert run("jobs", "retry", "01a").stdout == "01a\t02b\n"
    done = run("jobs", "retry", "--all", "--state", "failed", "-m", "echo:small")
    assert cloud.sent == {"state": "failed", "model": "echo:small", "limit": 100}
    assert done.stdout == "01a\t02b\n"
    assert "01c was skipped: its prompt is not kept" in done.stderr
    assert run("jobs", "retry").exit_code == 2
    assert run("jobs", "retry", "01a", "--all").exit_code == 2


EVENT = {"event": "started", "at": 1_700_000_000.0, "attempt": 2, "worker": "atlas"}


def test_a_job_is_shown_with_its_timeline(run: Run, cloud: TwinCloud) -> None:
    job = {"id": "01a", "status": "running", "timeline": [EVENT]}
    cloud.replies = {"GET /v1/jobs/01a": job}
    last = run("jobs", "show", "01a", "--timeline").stdout.splitlines()[-1]
    assert last.split("\t")[1:5] == ["0", "started", "2", "atlas"]
    shown = json.loads(run("jobs", "show", "01a", "--timeline", "--json").stdout)
    assert shown["timeline"][0]["worker"] == "atlas"
    assert "started" not in run("jobs", "show", "01a").stdout


def test_a_job_is_followed_to_its_end(run: Run, cloud: TwinCloud) -> None:
    end = {"event": "completed", "at": 1_700_000_001.0}
    told = f"id: started-2\ndata: {json.dumps(EVENT)}\n\n"
    told += f"id: completed\ndata: {json.dumps(end)}\n\n"
    cloud.replies = {"GET /v1/jobs/01a/events": httpx2.Response(200, text=told)}
    lines = run("jobs", "events", "01a").stdout.splitlines()
    shown = [line.split("\t")[1:3] for line in lines]
    assert shown == [["0", "started"], ["1", "completed"]]
    (first, last) = run("jobs", "events", "01a", terminal=True).stdout.splitlines()
    assert first.index("started") == last.index("completed")
    assert "1.0 s" in last


def test_retention_is_shown_and_set(run: Run, cloud: TwinCloud) -> None:
    kept = {"hours": None, "kept_h": 24.0}
    cloud.replies = {"GET /v1/retention": kept, "PUT /v1/retention": kept}
    assert run("jobs", "retention").stdout == "24 hours\n"
    run("jobs", "retention", "2")
    assert cloud.sent == {"hours": 2}
    run("jobs", "retention", "default")
    assert cloud.sent == {"hours": None}
    assert run("jobs", "retention", "long").exit_code == 2
