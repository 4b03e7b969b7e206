"""Rows that this release shares with f74c802, which knows no documents.

That release's own code wrote them, and said which fields it knows of the contracts it
reads strictly (`tests/upgrade/record.py`).
"""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec
import pytest
from msgspec import structs
from sqlalchemy import text

from cloud_app import store
from cloud_app.jobs import lifecycle
from cloud_app.store.records import JobRecord
from fixtures.clouds import Cloud, outcome
from fixtures.releases import PREVIOUS
from genie.contracts.inference import (
    AnswerExtras,
    Fault,
    FinishReason,
    JobOutcome,
    JobRequest,
    JobState,
    Locality,
    Outcome,
    PartialAnswer,
)

RECORDED = PREVIOUS.parent / "recorded" / "f74c802"
TABLES = json.loads((RECORDED / "rows.json").read_text(encoding="utf-8"))["tables"]
ORG, ROWS = TABLES["org"][0], TABLES["job"]
MESSAGES = json.loads((RECORDED / "messages.json").read_text(encoding="utf-8"))
SCHEMAS = MESSAGES["schemas"]["$defs"]
MOMENT = "%Y-%m-%d %H:%M:%S.%f"

IN_REQUEST = ("route", "locality", "substituted", "metadata", "retry_of")
IN_OUTCOME = ("text", "extras", "finish_reason", "usage", "timing", "fault")
STRICT = {
    "payload": "InferenceTask",
    "usage": "Usage",
    "timing": "Timing",
    "fault": "Fault",
    "extras": "Extras",
}
"""Columns f74c802 reads as contracts, and what it calls these."""


def execute(cloud: Cloud, statement: str, **values: object) -> None:
    with cloud.ctx.db.connection() as connection:
        connection.execute(text(statement), values)


def put(cloud: Cloud, table: str, row: dict[str, Any]) -> None:
    """A row as it lies in SQLite."""
    values = dict(row)
    for name, value in row.items():
        if name.endswith("_at") and value:
            values[name] = datetime.fromisoformat(value).strftime(
                "%Y-%m-%d %H:%M:%S.%f"
            )
        elif name in ("route", "metadata", "text"):
            values[name] = None if value is None else json.dumps(value)
    names = ", ".join(row)
    places = ", ".join(f":{name}" for name in row)
    execute(cloud, f"INSERT INTO {table} ({names}) VALUES ({places})", **values)


def as_written(row: dict[str, Any]) -> JobRecord:
    """What f74c802 wrote into a row's columns, in the shape of this release."""
    documents = {name: row[name] and json.loads(row[name]) for name in STRICT}
    known = row | documents
    shaped = {
        **known,
        "org": ORG["slug"],
        "task": known["payload"],
        "request": {name: known[name] for name in IN_REQUEST},
        "outcome": {
            **{name: known[name] for name in IN_OUTCOME},
            "at": row["finished_at"],
        },
    }
    return msgspec.convert(shaped, JobRecord)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['state']}-{row['id']}")
def test_a_row_of_the_release_before_reads_the_same(
    cloud: Cloud, row: dict[str, Any]
) -> None:
    execute(cloud, "DELETE FROM org")
    put(cloud, "org", ORG)
    put(cloud, "job", row)
    assert lifecycle.get(cloud.ctx, ORG["slug"], row["id"]) == as_written(row)


def queued(cloud: Cloud) -> JobRecord:
    return cloud.job()


def rich(cloud: Cloud) -> JobRecord:
    request = JobRequest(
        route={"model": "echo:small", "reasons": ["a"], "one_call": True},
        metadata={"ticket": "7"},
        locality=Locality.OVERFLOW,
        substituted="echo:large",
        retry_of=cloud.job().id,
    )
    new = replace(cloud.new_job(), request=request, retain_h=2)
    return lifecycle.accept(cloud.ctx, new)[0]


def ended(cloud: Cloud, **how: object) -> JobRecord:
    job = cloud.job()
    told: Outcome = structs.replace(outcome(job.id), **how)
    assert lifecycle.apply(cloud.ctx, told)
    return job


def completed(cloud: Cloud) -> JobRecord:
    extras = AnswerExtras(others=(PartialAnswer(text="two"),))
    return ended(cloud, extras=extras, finish_reason=FinishReason.LENGTH)


def failed(cloud: Cloud) -> JobRecord:
    fault = Fault(code="context_too_long", message="too long", param="messages")
    return ended(cloud, state=JobState.FAILED, fault=fault)


def cancelled(cloud: Cloud) -> JobRecord:
    return lifecycle.cancel(cloud.ctx, "acme", cloud.job().id)


def timed_out(cloud: Cloud) -> JobRecord:
    job = cloud.job(deadline_s=-60.0)
    assert lifecycle.sweep(cloud.ctx).timed_out == 1
    return job


WALKS = (queued, rich, completed, failed, cancelled, timed_out)


@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk.__name__)
def test_the_columns_of_the_release_before_say_what_the_documents_say(
    cloud: Cloud, walk: Callable[[Cloud], JobRecord]
) -> None:
    job = cloud.reread(walk(cloud))
    execute(cloud, "UPDATE job SET request = NULL, outcome = NULL")
    assert cloud.reread(job) == job


@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: walk.__name__)
def test_the_release_before_knows_every_field_it_reads(
    cloud: Cloud, walk: Callable[[Cloud], JobRecord]
) -> None:
    job = walk(cloud)
    columns = ", ".join(ROWS[0])
    with cloud.ctx.db.connection() as connection:
        statement = text(f"SELECT {columns} FROM job WHERE id = :id")
        row = connection.execute(statement, {"id": job.id}).mappings().one()
    for column, contract in STRICT.items():
        written = json.loads(row[column] or "{}")
        assert written.keys() <= SCHEMAS[contract]["properties"].keys()


def test_an_end_that_the_release_before_wrote_outdates_the_document(
    cloud: Cloud,
) -> None:
    job = failed(cloud)  # f74c802 then replays its dead letter, and the job completes
    later = cloud.clock.at.replace(minute=30, tzinfo=None).isoformat(" ") + ".000000"
    execute(
        cloud,
        "UPDATE job SET state = 'completed', fault = NULL, finished_at = :at, "
        "finish_reason = 'stop', text = '\"done\"', usage = :usage WHERE id = :id",
        id=job.id,
        at=later,
        usage='{"prompt_tokens":5,"completion_tokens":1,"cached_tokens":0}',
    )
    read = cloud.reread(job)
    assert (read.state, read.outcome.fault) == (JobState.COMPLETED, None)
    assert (read.outcome.text, read.outcome.at) == ("done", read.finished_at)
    assert read.outcome.usage is not None
    assert read.outcome.usage.prompt_tokens == 5


def test_a_replayed_job_forgets_what_came_of_it(cloud: Cloud) -> None:
    job = cloud.reread(failed(cloud))
    task = cloud.new_job().task
    with cloud.ctx.db.session() as session:
        assert store.transitions.reopen(session, job, task)
    assert cloud.reread(job).outcome == JobOutcome()
