"""A batch from its upload to its files, and every way to end early."""

from contextlib import suppress
from dataclasses import replace

import pytest
from msgspec.structs import replace as changed
from sqlalchemy import update

from cloud_app import store
from cloud_app.batches import batches, collect, driver, feed, lines
from cloud_app.context import Context
from cloud_app.files import files
from cloud_app.jobs import lifecycle
from cloud_app.store import tables
from cloud_app.store.records import BatchRecord
from fixtures.batches import Desk, desk, echo, jsonl, line
from fixtures.clouds import Cloud, outcome
from genie.contracts.batch import BatchState
from genie.contracts.inference import (
    Fault,
    InferenceTask,
    JobState,
    Outcome,
    WorkClass,
)
from genie.errors import BrokerDown, Unavailable


@pytest.fixture
def office(cloud: Cloud) -> Desk:
    """A key, and a worker that serves echo:small."""
    return desk(cloud)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of three lines."""
    monkeypatch.setattr(lines, "CHUNK_LINES", 3)


def settings(office: Desk, **values: object) -> Desk:
    """The same office on other settings."""
    ctx = office.cloud.ctx
    office.cloud.ctx = replace(ctx, settings=replace(ctx.settings, **values))  # type: ignore[arg-type]  # by name
    return office


def failed(task: InferenceTask, fault: Fault) -> Outcome:
    said = outcome(task.job_id, text="", state=JobState.FAILED)
    return changed(said, fault=fault)


def test_each_line_is_answered_once_in_the_order_of_the_input(
    office: Desk, small_chunks: None
) -> None:
    batch = office.run(office.submit(line(n) for n in range(10)))

    assert batch.state is BatchState.COMPLETED
    assert (batch.total, batch.completed, batch.failed) == (10, 10, 0)
    assert batch.usage.completion_tokens == 20
    assert batch.error_file_id is None
    answers = office.read(batch.output_file_id)
    assert [one["custom_id"] for one in answers] == [f"line-{n}" for n in range(10)]
    for n, one in enumerate(answers):
        assert one["error"] is None
        assert one["response"]["status_code"] == 200
        body = one["response"]["body"]
        assert body["object"] == "chat.completion"
        assert body["choices"][0]["message"]["content"] == f"text {n}"


def test_lines_run_on_the_batch_class_and_nobody_waits_for_their_chunks(
    office: Desk,
) -> None:
    batch = office.submit([line(1)])
    office.drive()
    (task,) = office.cloud.bus.published
    assert task.work_class is WorkClass.BATCH
    assert task.reply_to is None
    assert task.deadline_at == batch.expires_at
    job = store_job(office, task.job_id)
    assert job.mode == "batch"
    assert job.request.metadata == {
        "batch_id": f"batch_{batch.id}",
        "custom_id": "line-1",
    }


def store_job(office: Desk, job_id: str) -> store.records.JobRecord:
    with office.cloud.ctx.db.reading() as session:
        found = store.jobs.by_id(session, job_id)
    assert found is not None
    return found


def test_no_more_lines_are_queued_than_the_limit_allows(
    office: Desk, small_chunks: None
) -> None:
    settings(office, batch_in_flight=6)
    batch = office.submit(line(n) for n in range(30))
    office.drive()
    assert len(office.cloud.bus.published) == 6
    office.drive()
    assert len(office.cloud.bus.published) == 6
    office.work()
    office.drive()
    assert len(office.cloud.bus.published) == 12
    assert office.reread(batch).completed == 6
    assert len(office.names(office.run(batch))) == 30


def test_one_slow_line_does_not_stop_the_others(
    office: Desk, small_chunks: None
) -> None:
    settings(office, batch_in_flight=6)
    batch = office.submit(line(n) for n in range(18))
    held: list[InferenceTask] = []

    def all_but_one(task: InferenceTask) -> Outcome | None:
        if task.messages[-1].content == "text 1":
            held.append(task)
            return None
        return echo(task)

    for _ in range(6):
        office.drive()
        office.work(all_but_one)
    office.drive()
    assert office.reread(batch).completed == 15
    office.cloud.finish(store_job(office, held[0].job_id))
    assert len(office.names(office.run(batch))) == 18


def test_blank_lines_are_passed_over_and_a_last_line_needs_no_end(
    office: Desk, small_chunks: None
) -> None:
    data = b"\n\n" + jsonl([line(1)]) + b"\r\n" + jsonl(line(n) for n in (2, 3))
    batch = office.run(office.submit(data + b"  \n\n" + jsonl([line(4)])[:-1]))
    assert batch.total == 4
    assert office.names(batch) == [f"line-{n}" for n in (1, 2, 3, 4)]
    batch = office.run(office.submit(jsonl(line(n) for n in range(3)) + b"\n\n"))
    assert len(office.names(batch)) == 3


def test_a_line_whose_job_fails_goes_to_the_error_file(office: Desk) -> None:
    fault = Fault(code="context_length_exceeded", message="Too long.", param="messages")

    def one_fails(task: InferenceTask) -> Outcome:
        is_bad = task.messages[-1].content == "text 1"
        return failed(task, fault) if is_bad else echo(task)

    batch = office.run(office.submit(line(n) for n in range(3)), one_fails)
    assert batch.state is BatchState.COMPLETED
    assert (batch.completed, batch.failed) == (2, 1)
    (bad,) = office.read(batch.error_file_id)
    assert bad["custom_id"] == "line-1"
    assert bad["response"]["status_code"] == 400
    assert bad["response"]["body"]["error"]["code"] == "context_length_exceeded"


def test_a_fault_that_may_pass_is_tried_three_times_and_no_more(office: Desk) -> None:
    fault = Fault(code="engine_gone", message="It died.", retryable=True)
    runs: dict[str, int] = {}

    def unlucky(task: InferenceTask) -> Outcome:
        text = task.messages[-1].content
        runs[text] = runs.get(text, 0) + 1
        is_lucky = text == "text 0" or (text == "text 1" and runs[text] == 3)
        return echo(task) if is_lucky else failed(task, fault)

    batch = office.run(office.submit(line(n) for n in range(3)), unlucky)
    assert runs == {"text 0": 1, "text 1": 3, "text 2": 3}
    assert (batch.completed, batch.failed) == (2, 1)
    assert office.names(batch) == ["line-0", "line-1", "line-2"]


def test_a_line_the_key_may_not_run_is_refused_alone(office: Desk) -> None:
    ctx = office.cloud.ctx
    body = {"model": "echo:large", "messages": [{"role": "user", "content": "hi"}]}
    batch = office.submit([line(1), line(2, body=body)])
    with ctx.db.session() as session:
        only = update(tables.ApiKeyRow).values(allowed_models=["echo:small"])
        session.connection().execute(only)
    batch = office.run(batch)
    assert (batch.completed, batch.failed) == (1, 1)
    (refused,) = office.read(batch.error_file_id)
    assert refused["custom_id"] == "line-2"
    assert refused["response"]["status_code"] >= 400


def test_a_wrong_input_fails_the_batch_and_runs_nothing(office: Desk) -> None:
    batch = office.run(office.submit([line(1), line(1)]))
    assert batch.state is BatchState.FAILED
    assert batch.failed_at is not None
    (error,) = batch.errors
    assert (error["code"], error["line"]) == ("duplicate_custom_id", 2)
    assert office.cloud.bus.published == []


def test_cancelling_keeps_what_is_done_and_names_what_is_not(
    office: Desk, small_chunks: None
) -> None:
    settings(office, batch_in_flight=3)
    batch = office.submit(line(n) for n in range(9))
    office.drive()
    office.work()
    office.drive()
    office.cloud.start(store_job(office, office.cloud.bus.published[3].job_id), "a1")
    cancelled = batches.cancel(office.cloud.ctx, office.key, batch.id)
    assert cancelled.state is BatchState.CANCELLING
    batch = office.run(batch, lambda task: None)
    assert batch.state is BatchState.CANCELLED
    assert batch.cancelled_at is not None
    assert len(office.read(batch.output_file_id)) == 3
    never = office.read(batch.error_file_id)
    assert {one["error"]["code"] for one in never} == {"batch_cancelled"}
    assert sorted(office.names(batch)) == [f"line-{n}" for n in range(9)]
    running = office.cloud.bus.published[3].job_id
    assert office.cloud.bus.cancelled == [("w1", running)]
    assert (batch.completed, batch.failed) == (3, 0)


def test_a_batch_cancelled_before_it_was_checked_ends_without_files(
    office: Desk,
) -> None:
    batch = office.submit([line(1)])
    batches.cancel(office.cloud.ctx, office.key, batch.id)
    batch = office.run(batch)
    assert batch.state is BatchState.CANCELLED
    assert office.names(batch) == []
    assert batches.cancel(office.cloud.ctx, office.key, batch.id) == batch


def test_a_batch_past_its_window_expires_with_what_it_has(
    office: Desk, small_chunks: None
) -> None:
    settings(office, batch_in_flight=3)
    batch = office.submit((line(n) for n in range(7)), window="1h")
    office.drive()
    office.work()
    office.drive()
    office.cloud.clock.forward(3601)
    batch = office.run(batch, lambda task: None)
    assert batch.state is BatchState.EXPIRED
    assert batch.expired_at is not None
    assert sorted(office.names(batch)) == [f"line-{n}" for n in range(7)]
    never = office.read(batch.error_file_id)
    assert {one["error"]["code"] for one in never} == {"batch_expired"}
    assert len(never) == 4


def test_lines_wait_while_no_machine_can_serve_them(office: Desk) -> None:
    office.cloud.clock.forward(3600)
    batch = office.submit(line(n) for n in range(3))
    office.drive()
    assert office.reread(batch).state is BatchState.IN_PROGRESS
    assert office.cloud.bus.published == []
    back = desk(office.cloud)
    assert len(office.names(office.run(batch))) == 3
    assert back.key.id != office.key.id


def test_a_broker_that_is_down_loses_no_line(office: Desk) -> None:
    office.cloud.bus.fails = BrokerDown("away")
    batch = office.submit(line(n) for n in range(3))
    office.drive()
    office.cloud.bus.fails = None
    office.cloud.clock.forward(6)
    assert lifecycle.relay(office.cloud.ctx) == 3
    batch = office.run(batch)
    assert office.names(batch) == ["line-0", "line-1", "line-2"]


class Killed(Exception):
    """A brain that ends here."""


POINTS = (
    (feed, "publish"),
    (store.batches, "insert_chunk"),
    (store.transitions, "confirm"),
    (store.batches, "write_chunk"),
    (store.batches, "count"),
    (store.batches, "read_on"),
    (store.batches, "move"),
    (store.files, "insert"),
    (store.batches, "written_chunks"),
    (collect, "collect"),
    (driver, "finish"),
    (driver, "end"),
    (driver, "remove_leftovers"),
)


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point[1])
def test_a_brain_killed_anywhere_loses_and_doubles_no_line(
    office: Desk,
    small_chunks: None,
    monkeypatch: pytest.MonkeyPatch,
    point: tuple[object, str],
) -> None:
    """It dies at every second call of one function, before or after its work."""
    module, name = point
    real, calls = getattr(module, name), 0
    monkeypatch.setattr(driver.BatchLease, "release", lambda self: None)  # it is dead

    def deadly(*given: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls % 4 == 1:
            raise Killed
        result = real(*given, **named)
        if calls % 4 == 3:
            raise Killed
        return result

    batch = office.submit(line(n) for n in range(8))
    monkeypatch.setattr(module, name, deadly)
    for _ in range(60):
        with suppress(Killed):
            office.drive()
        office.cloud.clock.forward(driver.LEASE.total_seconds() + 1)
        with suppress(Killed):
            lifecycle.relay(office.cloud.ctx)
        office.work()
        if is_tidy(office.cloud.ctx, batch):
            break
    batch = office.reread(batch)
    assert batch.state is BatchState.COMPLETED
    assert office.names(batch) == [f"line-{n}" for n in range(8)]
    assert (batch.completed, batch.failed) == (8, 0)
    left = files.of(office.cloud.ctx).names(collect.folder(batch))
    assert left == (driver.result_path(batch, batch.output_file_id or ""),)


def test_of_two_brains_that_end_a_batch_only_one_records_its_files(
    office: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = driver.finish

    def twice(ctx: Context, source: feed.BatchInput) -> None:
        finish(ctx, source)
        finish(ctx, source)  # by a brain whose lease ran out while it stalled

    monkeypatch.setattr(driver, "finish", twice)
    batch = office.run(office.submit([line(1)]))
    found = files.find(office.cloud.ctx, office.key, purpose=driver.OUTPUT_PURPOSE)
    assert [file.id for file in found] == [batch.output_file_id]


def is_tidy(ctx: Context, batch: BatchRecord) -> bool:
    with ctx.db.reading() as session:
        return batch.id not in store.batches.to_drive(session, 100)


def test_two_brains_never_drive_one_batch_at_once(office: Desk) -> None:
    ctx = office.cloud.ctx
    batch = office.submit([line(1)])
    first, second = (driver.BatchLease(ctx, batch.id, owner) for owner in ("a", "b"))
    assert first.take() is not None
    assert second.take() is None
    office.cloud.clock.forward(driver.LEASE.total_seconds() + 1)
    assert second.take() is not None
    first._renewed -= driver.RENEW_AFTER_S
    with pytest.raises(driver.LeaseLost):
        first.keep()


def test_a_batch_whose_input_lost_its_bytes_fails_and_stops_no_other(
    office: Desk,
) -> None:
    lost = office.submit([line(1)])
    good = office.submit([line(2)])
    file = files.get(office.cloud.ctx, office.key, lost.input_file_id)
    files.of(office.cloud.ctx).remove(file.path)
    assert office.run(good).state is BatchState.COMPLETED
    lost = office.run(lost)
    assert lost.state is BatchState.FAILED
    assert "upload it again" in lost.errors[0]["message"]


def test_a_storage_that_is_away_is_waited_for(
    office: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_given: object) -> None:
        raise Unavailable("the files' storage cannot be used")

    batch = office.submit([line(1)])
    with monkeypatch.context() as patched:
        patched.setattr(files.of(office.cloud.ctx), "reading", away)
        office.drive()
    assert office.reread(batch).state is BatchState.VALIDATING
    assert office.run(batch).state is BatchState.COMPLETED


def test_an_answer_forgotten_before_it_was_written_is_an_error_not_a_gap(
    office: Desk,
) -> None:
    batch = office.submit([line(1)])
    office.drive()
    office.work()
    with office.cloud.ctx.db.session() as session:
        session.connection().execute(update(tables.JobRow).values(text=None))
    batch = office.run(batch)
    (gone,) = office.read(batch.error_file_id)
    assert gone["response"]["body"]["error"]["code"] == "result_expired"
