"""Record what the release before writes: the floor for every later release.

    PYTHONPATH=tests .venv/bin/python tests/upgrade/record.py

Run it in the commit that moves `previous`. Its own code makes the messages
(`messages.py`), and its own cloud and worker make the rows, at work of every kind. Both
are kept in `recorded/`, in a folder named by the commit.
"""

import contextlib
import json
import subprocess
from pathlib import Path
from typing import Any

import psycopg

import genie
from fixtures.fleet import wait_until
from fixtures.nodes import PostgresNode, RabbitNode
from fixtures.previous_fleet import PreviousFleet
from fixtures.releases import Release, previous
from genie.errors import GenieError

HERE = Path(__file__).parent
CATALOG = HERE / "catalog.toml"

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}

LONG = 400
"""Tokens of eight seconds."""


def main() -> None:
    """Write messages.json and rows.json."""
    release = previous()
    folder = HERE / "recorded" / release.commit[:7]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "messages.json").write_text(messages(release), encoding="utf-8")
    (folder / "rows.json").write_text(rows(release), encoding="utf-8")


def messages(release: Release) -> str:
    """What its own code says of its wire."""
    return subprocess.run(
        [str(release.python), str(HERE / "messages.py")],
        env=release.environ(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout


def rows(release: Release) -> str:
    """Every table after work of every kind."""
    with RabbitNode() as rabbit, PostgresNode() as postgres:
        database_url = postgres.create_database()
        fleet = PreviousFleet(
            release,
            broker_url=rabbit.vhost("record"),
            database_url=database_url,
            environ={"GENIE_CATALOG": str(CATALOG)},
            heartbeat_s=2.0,
        )
        with fleet:
            fleet.start()
            fleet.start_worker("elder")
            fleet.call("wait_ready", "echo:small")
            with fleet.client() as client:
                work(client)
            fleet.kill("brain")  # what is open stays open
            fleet.kill("elder")
        return dumped(database_url.replace("+psycopg", ""))


def work(client: genie.Client) -> None:
    """Work of every kind, and every way it can end."""
    client.ask("one two three", max_tokens=6, metadata={"ticket": "7"})
    client.ask("answer twice", max_tokens=4, n=2, logprobs=1)
    client.ask("what weather", tools=[TOOL], max_tokens=20)
    client.embed(["a cat", "a dog"])
    "".join(client.stream("to be read", max_tokens=5))
    client.submit("later", max_tokens=5, persona="review").wait(60)
    client.submit("too long", max_tokens=LONG, timeout=1)
    stopped = client.submit("stopped", max_tokens=100, seed=7)
    stopped.cancel().retry().wait(60)
    client.batch(["first line", "second line"], max_tokens=3).wait(60)
    schedule = client.schedule(
        "news of {{date}}",
        cron="*/5 * * * *",
        name="news",
        timezone="Europe/Berlin",
        webhook="https://receiver.invalid/hook",
        webhook_secret="only-for-tests",
        max_tokens=3,
    )
    schedule.run()
    client.join_token(["genie"])
    key = client.create_key("left", models=["echo:small"])
    client.revoke_key(key.id)
    with contextlib.suppress(GenieError):
        client.ask("no such model", model="echo:nothing")
    wait_until(lambda: "timeout" in states(client), 60, "the late job has ended")
    wait_until(lambda: bool(schedule.runs()[0].job_id), 60, "the run has a job")
    client.job(schedule.runs()[0].job_id or "").wait(60)
    for number in range(6):
        client.submit(f"open {number}", max_tokens=LONG * 2)
    wait_until(lambda: "running" in states(client), 60, "a job runs")


def states(client: genie.Client) -> list[str]:
    """The state of every job."""
    return [job.status.value for job in client.jobs(limit=100)]


def dumped(database_url: str) -> str:
    """Every row of every table, as JSON."""
    with psycopg.connect(database_url) as session:
        named = session.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        )
        names = sorted(str(name) for (name,) in named)
        tables: dict[str, Any] = {
            name: found[0] or []
            for name in names
            if (
                found := session.execute(
                    f'SELECT json_agg(t) FROM "{name}" t'.encode()
                ).fetchone()
            )
        }
    ((revision,),) = (row.values() for row in tables.pop("alembic_version"))
    said = {"schema": revision, "tables": tables}
    return json.dumps(said, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    main()
