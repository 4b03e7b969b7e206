"""The whole input is read before any of it runs, and never held in memory."""

import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_app.batches import driver
from cloud_app.batches.driver import DigestSet, InputSummary
from cloud_app.files import files
from fixtures.batches import Desk, desk, jsonl, line
from fixtures.clouds import Cloud


@pytest.fixture
def office(cloud: Cloud) -> Desk:
    """A key to upload with."""
    return desk(cloud)


def check(office: Desk, data: bytes) -> InputSummary:
    batch = office.submit(data)
    file = files.get(office.cloud.ctx, office.key, batch.input_file_id)
    found = driver.check(office.cloud.ctx, batch, file, lambda: None)
    assert found is not None
    return found


def test_a_good_input_is_counted_and_its_model_named(office: Desk) -> None:
    found = check(office, jsonl(line(n) for n in range(3)))
    assert (found.total, found.model, found.errors) == (3, "echo:small", ())


def test_every_mistake_is_listed_with_its_line(office: Desk) -> None:
    unknown = {"model": "nope", "messages": [{"role": "user", "content": "hi"}]}
    rows = [line(1), line(2, method="GET"), line(1), line(4, body=unknown)]
    found = check(office, jsonl(rows) + b"{\n")
    assert [(error["line"], error["code"]) for error in found.errors] == [
        (2, "invalid_method"),
        (3, "duplicate_custom_id"),
        (4, "model_not_found"),
        (5, "invalid_json_line"),
    ]


def test_an_empty_file_is_a_mistake(office: Desk) -> None:
    (error,) = check(office, b"\n\n").errors
    assert (error["code"], error["line"]) == ("empty_file", None)


def test_no_more_than_a_hundred_mistakes_are_listed(office: Desk) -> None:
    assert len(check(office, b"{\n" * 1000).errors) == driver.MOST_ERRORS


def test_too_many_requests_are_refused(office: Desk) -> None:
    ctx = office.cloud.ctx
    settings = replace(ctx.settings, batch_max_lines=2)
    office.cloud.ctx = replace(ctx, settings=settings)
    (error,) = check(office, jsonl(line(n) for n in range(3))).errors
    assert error["code"] == "too_many_requests"


def test_a_process_checks_one_input_at_a_time(office: Desk) -> None:
    batch = office.submit([line(1)])
    file = files.get(office.cloud.ctx, office.key, batch.input_file_id)
    driver._one_at_a_time.acquire()
    try:
        assert driver.check(office.cloud.ctx, batch, file, lambda: None) is None
    finally:
        driver._one_at_a_time.release()


def test_a_large_input_does_not_sit_in_memory(office: Desk, cloud: Cloud) -> None:
    """24 MB of lines, read with less than 3 MB."""

    def large() -> Iterator[bytes]:
        for n in range(60):
            yield jsonl([line(n, padding="x" * 400_000)])

    file = files.upload(
        cloud.ctx, office.key, filename="large", purpose="batch", pieces=large()
    )
    batch = office.submit([line(1)])
    tracemalloc.start()
    found = driver.check(cloud.ctx, batch, file, lambda: None)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found is not None
    assert found.total == 60
    assert peak < 3_000_000


@given(st.lists(st.text(max_size=3), max_size=40))
def test_a_name_is_new_once(names: list[str]) -> None:
    known = set[str]()
    with closing(DigestSet()) as seen:
        for name in names:
            assert seen.add(name) == (name not in known)
            known.add(name)


def test_the_set_of_names_grows_and_forgets_nothing() -> None:
    names = [f"line-{n}" for n in range(5_000)]
    with closing(DigestSet()) as seen:
        assert all(seen.add(name) for name in names)
        assert not any(seen.add(name) for name in names)


def test_a_name_takes_a_few_bytes() -> None:
    with closing(DigestSet()) as seen:
        for n in range(50_000):
            seen.add(f"line-{n}")
        (pages,) = seen._db.execute("PRAGMA page_count").fetchone()
        (page_bytes,) = seen._db.execute("PRAGMA page_size").fetchone()
    assert pages * page_bytes < 50_000 * 32
