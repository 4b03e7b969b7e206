"""Every command that reads: a table for people, lines for pipes, JSON on demand."""

import json
from collections.abc import Callable

import pytest
from click.testing import Result

from fixtures.twin_cloud import TwinCloud

Run = Callable[..., Result]

JOB_ID = "01hx3kabcdefghjkmnpqrstvwx"
JOB = {
    "id": JOB_ID,
    "object": "job",
    "status": "completed",
    "persona": "review",
    "model": "smollm2:135m",
    "model_substituted": "qwen3:4b",
    "worker": "gpu-1",
    "created_at": 1_700_000_000.0,
    "finished_at": 1_700_000_002.5,
    "attempts": 1,
    "route": {
        "model": "smollm2:135m",
        "queue": "genie",
        "reasons": ["smallest that fits"],
        "skipped": [{"model": "qwen3:4b", "why": "needs 9 GiB"}],
    },
    "result": {
        "object": "chat.completion",
        "choices": [{"message": {"content": "Looks good."}}],
    },
    "metadata": {"team": "a"},
}
MODEL = {
    "id": "smollm2:135m",
    "genie": {
        "ready": True,
        "workers": 2,
        "parameters": 134_515_008,
        "context": 8192,
        "license": "Apache-2.0",
        "personas": ["chat", "review"],
    },
}
PERSONA = {
    "id": "review",
    "tier": "coder",
    "floor": "b",
    "ladder": ["a", "b"],
    "class": "interactive",
}
HOST = {
    "cpu_count": 8,
    "memory_total_bytes": 32 * 1024**3,
    "memory_available_bytes": 1,
    "disk_free_bytes": 1,
}
GPU = {
    "index": 0,
    "uuid": "GPU-1",
    "name": "RTX 4090",
    "memory_total_bytes": 24 * 1024**3,
    "memory_used_bytes": 0,
}
HELD = [
    {"model": "smollm2:135m", "quant": "f32", "state": "ready"},
    {"model": "qwen3:4b", "quant": "bf16", "state": "fetching", "progress": 0.4},
    {"model": "qwen3:8b", "quant": "bf16", "state": "failed"},
    {"model": "m", "state": "loading", "progress": 0.2, "stage": "reading"},
]
WORKER = {
    "id": "w1",
    "name": "gpu-1",
    "state": "online",
    "queues": ["genie", "org.acme"],
    "host": HOST,
    "models": HELD,
    "last_heartbeat_s": 12.3,
}
QUEUE = {
    "queue": "genie",
    "model": "smollm2:135m",
    "class": "interactive",
    "waiting": 3,
    "consumers": 1,
    "oldest_s": 4.2,
    "sla_s": 30.0,
}
KEY = {"id": "k1", "name": "ci", "prefix": "sk-genie-acme-ab", "is_admin": True}

READS = [
    (("jobs",), "GET /v1/jobs", JOB),
    (("jobs", "list"), "GET /v1/jobs", JOB),
    (("models",), "GET /v1/models", MODEL),
    (("personas",), "GET /v1/personas", PERSONA),
    (("workers",), "GET /v1/workers", WORKER),
    (("queues",), "GET /v1/queues", QUEUE),
    (("keys", "list"), "GET /v1/keys", KEY),
    (("keys",), "GET /v1/keys", KEY),
]


@pytest.mark.parametrize(("args", "path", "item"), READS)
def test_a_list_is_lines_in_a_pipe_and_a_table_on_a_terminal(
    run: Run,
    cloud: TwinCloud,
    args: tuple[str, ...],
    path: str,
    item: dict[str, object],
) -> None:
    cloud.replies[path] = {"object": "list", "data": [item]}
    name = str(item.get("id") or item["queue"])
    piped = run(*args)
    assert piped.exit_code == 0
    assert piped.stdout.count("\n") == 1
    assert name in piped.stdout.rstrip("\n").split("\t")
    shown = run(*args, terminal=True)
    assert shown.stdout.count("\n") >= 2
    assert name in shown.stdout


@pytest.mark.parametrize(("args", "path", "item"), READS)
def test_a_list_is_json_on_demand(
    run: Run,
    cloud: TwinCloud,
    args: tuple[str, ...],
    path: str,
    item: dict[str, object],
) -> None:
    cloud.replies[path] = {"object": "list", "data": [item]}
    (found,) = json.loads(run(*args, "--json").stdout)
    assert {name: found.get(name) for name in ("id", "class")} == {
        name: item.get(name) for name in ("id", "class")
    }


@pytest.mark.parametrize(("args", "path", "_item"), READS)
def test_an_empty_list_prints_nothing_into_a_pipe(
    run: Run, cloud: TwinCloud, args: tuple[str, ...], path: str, _item: object
) -> None:
    cloud.replies[path] = {"object": "list", "data": []}
    done = run(*args)
    assert (done.exit_code, done.stdout) == (0, "")


@pytest.mark.parametrize("columns", ["20", "40", "80"])
@pytest.mark.parametrize(("args", "path", "item"), READS)
def test_ids_are_never_cut_however_narrow_the_terminal(
    run: Run,
    cloud: TwinCloud,
    monkeypatch: pytest.MonkeyPatch,
    columns: str,
    args: tuple[str, ...],
    path: str,
    item: dict[str, object],
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    whole = item | ({"id": "01hx3kabcdefghjkmnpqrstvwy"} if "id" in item else {})
    cloud.replies[path] = {"object": "list", "data": [whole]}
    assert str(whole.get("id") or whole["queue"]) in run(*args, terminal=True).stdout


@pytest.mark.parametrize(("args", "path", "_item"), READS)
def test_an_empty_list_tells_a_person_so(
    run: Run, cloud: TwinCloud, args: tuple[str, ...], path: str, _item: object
) -> None:
    cloud.replies[path] = {"object": "list", "data": []}
    done = run(*args, terminal=True)
    assert done.stdout == ""
    assert done.stderr.startswith("no ")


def test_options_of_a_list_need_no_verb(run: Run, cloud: TwinCloud) -> None:
    cloud.replies["GET /v1/jobs"] = {"object": "list", "data": []}
    assert run("jobs", "--state", "failed").exit_code == 0
    assert cloud.requests[-1].url.params["state"] == "failed"


def test_filters_are_sent_to_the_cloud(run: Run, cloud: TwinCloud) -> None:
    cloud.replies["GET /v1/jobs"] = {"object": "list", "data": []}
    done = run(
        *(
            "jobs",
            "list",
            "--state",
            "failed",
            "-p",
            "review",
            "-m",
            "m",
            "-w",
            "gpu-1",
            "--label",
            "night",
        ),
        *("--since", "2030-01-01T00:00:00+00:00", "--limit", "5", "--after", JOB_ID),
    )
    assert done.exit_code == 0
    assert dict(cloud.requests[-1].url.params) == {
        "state": "failed",
        "persona": "review",
        "model": "m",
        "worker": "gpu-1",
        "label": "night",
        "since": "1893456000.0",
        "limit": "5",
        "after": JOB_ID,
    }


@pytest.mark.parametrize("when", ["soon", "3 parsecs", "h"])
def test_a_moment_that_is_none_is_refused(run: Run, when: str) -> None:
    done = run("jobs", "list", "--since", when)
    assert done.exit_code == 2
    assert "use 30m, 2h, 7d" in done.stderr


@pytest.mark.parametrize("terminal", [True, False])
def test_a_job_shows_where_it_went_and_why(
    run: Run, cloud: TwinCloud, terminal: bool
) -> None:
    cloud.replies[f"GET /v1/jobs/{JOB_ID}"] = JOB
    text = run("jobs", "show", f"chatcmpl-{JOB_ID}", terminal=terminal).stdout
    for part in (
        JOB_ID,
        "instead of",
        "smallest that fits",
        "qwen3:4b (needs 9 GiB)",
        "2.5 s" if terminal else "took\t2.5",
        "team=a",
        "Looks good.",
    ):
        assert part in text
    shown = json.loads(run("jobs", "show", JOB_ID, "--json").stdout)
    assert shown["route"]["reasons"] == ["smallest that fits"]


def test_cancelling_says_what_became_of_each_job(run: Run, cloud: TwinCloud) -> None:
    job = {"id": "01a", "status": "running"}
    cancelled = {"id": "01a", "status": "cancelled"}
    cloud.replies = {"GET /v1/jobs/01a": job, "POST /v1/jobs/01a/cancel": cancelled}
    assert run("jobs", "cancel", "01a").stdout == "01a\tcancelled\n"
    (line,) = run("jobs", "cancel", "01a", "--json").stdout.splitlines()
    assert json.loads(line)["status"] == "cancelled"


def test_waiting_for_a_job_prints_its_answer_and_nothing_else(
    run: Run, cloud: TwinCloud
) -> None:
    cloud.replies[f"GET /v1/jobs/{JOB_ID}"] = JOB
    assert run("jobs", "wait", JOB_ID).stdout == "Looks good.\n"
    assert json.loads(run("jobs", "wait", JOB_ID, "--json").stdout)["worker"] == "gpu-1"


def test_a_wait_that_is_too_long_says_how_to_go_on(run: Run, cloud: TwinCloud) -> None:
    cloud.replies["GET /v1/jobs/01a"] = {"id": "01a", "status": "running"}
    done = run("jobs", "wait", "01a", "--timeout", "0")
    assert done.exit_code == 1
    assert done.stderr == (
        "genie: job 01a has not ended yet and goes on; `genie jobs wait 01a` waits "
        "again\n"
    )


def test_waiting_for_a_job_that_failed_ends_with_1(run: Run, cloud: TwinCloud) -> None:
    failed = {"id": "01a", "status": "failed", "error": {"message": "no; do that"}}
    cloud.replies["GET /v1/jobs/01a"] = failed
    done = run("jobs", "wait", "01a")
    assert (done.exit_code, done.stderr) == (1, "genie: no; do that\n")


@pytest.mark.parametrize(
    ("args", "follow"),
    [
        (("jobs", "wait", "01a"), "genie jobs wait 01a"),
        (("jobs", "events", "01a"), "genie jobs events 01a"),
        (("submit", "hi", "--wait"), "genie jobs wait 01a"),
    ],
)
def test_ctrl_c_leaves_the_job_alone_and_says_how_to_follow_it(
    run: Run, cloud: TwinCloud, args: tuple[str, ...], follow: str
) -> None:
    running = {"id": "01a", "status": "running"}
    cloud.replies = {
        "GET /v1/jobs/01a": iter([running, KeyboardInterrupt()]),
        "GET /v1/jobs/01a/events": KeyboardInterrupt(),
        "POST /v1/chat/completions": {"id": "chatcmpl-01a", "status": "queued"},
    }
    if args[0] == "submit":
        cloud.replies["GET /v1/jobs/01a"] = KeyboardInterrupt()
    done = run(*args)
    assert done.exit_code == 130
    assert f"job 01a goes on; `{follow}` follows it" in done.stderr
    assert not any(sent.url.path.endswith("/cancel") for sent in cloud.requests)


def test_a_worker_shows_its_memory_and_each_models_state(
    run: Run, cloud: TwinCloud
) -> None:
    gpus = {**WORKER, "gpus": [GPU], "last_heartbeat_s": None}
    cloud.replies["GET /v1/workers"] = [WORKER, gpus]
    first, second = run("workers").stdout.splitlines()
    assert "CPU 32.0 GiB" in first
    assert "smollm2:135m, qwen3:4b (fetching 40%), qwen3:8b (failed)" in first
    assert "m (loading 20%, reading)" in first
    assert "12 s ago" in first
    assert "RTX 4090 24.0 GiB" in second
    assert "never" in second


def test_a_route_tells_its_reasons_and_what_was_skipped(
    run: Run, cloud: TwinCloud
) -> None:
    cloud.replies["POST /v1/route"] = {"route": JOB["route"]}
    done = run("route", "hi", "-p", "review")
    assert done.exit_code == 0
    assert "because\tsmallest that fits" in done.stdout
    assert "skipped\tqwen3:4b: needs 9 GiB" in done.stdout
    assert json.loads(run("route", "--json").stdout)["queue"] == "genie"


def test_a_route_that_would_be_refused_ends_with_3(run: Run, cloud: TwinCloud) -> None:
    refusal = {"refused": "no_capacity", "message": "no worker", "reasons": []}
    cloud.replies["POST /v1/route"] = {"route": refusal}
    done = run("route", "-m", "qwen3:32b")
    assert done.exit_code == 3
    assert "no_capacity: no worker" in done.stdout


def test_a_new_key_is_printed_alone_and_once(run: Run, cloud: TwinCloud) -> None:
    made = {**KEY, "secret": "sk-genie-acme-secret"}
    cloud.replies = {"POST /v1/keys": made, "DELETE /v1/keys/k1": made}
    done = run("keys", "create", "ci", "--admin", "--model", "m")
    assert done.stdout == "sk-genie-acme-secret\n"
    assert "not shown again" in done.stderr
    assert cloud.sent == {"name": "ci", "is_admin": True, "allowed_models": ["m"]}
    assert json.loads(run("keys", "create", "ci", "--json").stdout)["id"] == "k1"
    assert run("keys", "revoke", "k1").stdout == "k1\trevoked\n"


def test_a_join_token_comes_with_the_command_to_run(run: Run, cloud: TwinCloud) -> None:
    token = {
        "token": "gj-1",
        "expires_at": 1_700_000_000,
        "command": "genie worker …",
    }
    cloud.replies["POST /v1/join-tokens"] = token
    done = run("worker", "token", "--queue", "org.acme")
    assert done.stdout == "gj-1\n"
    assert "on the new machine run `genie worker …`" in done.stderr
    assert cloud.sent == {"queues": ["org.acme"]}
    assert json.loads(run("worker", "token", "--json").stdout)["token"] == "gj-1"
