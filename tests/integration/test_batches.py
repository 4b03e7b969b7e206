"""Batches on PostgreSQL: many brains at once, and the embedded fleet."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cloud_app import store
from cloud_app.batches import batches, driver, feed, lines
from fixtures.batches import CHAT, Desk, desk, jsonl, line
from fixtures.clouds import Cloud
from fixtures.nodes import PostgresNode
from fixtures.ports import free_port
from genie import catalog
from genie.cli.embedded import EmbeddedFleet, EmbeddedFleetOptions
from genie.contracts.batch import BatchState

BRAINS = 4


@pytest.fixture
def office(
    postgres: PostgresNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Desk]:
    """A cloud on an empty PostgreSQL database, files in a folder, small chunks."""
    postgres.start()
    monkeypatch.setattr(lines, "CHUNK_LINES", 5)
    cloud = Cloud(postgres.create_database(), str(tmp_path / "files"))
    yield desk(cloud)
    cloud.close()


def at_once(act: Any, times: int = BRAINS) -> list[Any]:
    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(lambda _n: act(), range(times)))


def test_one_brain_of_many_gets_the_lease(office: Desk) -> None:
    batch = office.submit([line(1)])
    owners = iter("abcd")

    def take() -> bool:
        lease = driver.BatchLease(office.cloud.ctx, batch.id, next(owners))
        return lease.take() is not None

    assert sum(at_once(take)) == 1


def test_brains_that_cut_the_same_chunk_make_its_jobs_once(office: Desk) -> None:
    """As if the lease had failed: the database alone must keep them apart."""
    batch = office.submit(line(n) for n in range(20))
    office.drive()
    office.cloud.bus.published.clear()
    ctx = office.cloud.ctx
    with ctx.db.session() as session:
        store.batches.move(
            session,
            batch.id,
            [BatchState.IN_PROGRESS],
            read_offset=0,
            read_line=0,
            chunks=100,
        )
        store.batches.drop_chunks(session, batch.id)
        again = store.batches.by_id(session, batch.id)
        file = store.files.of_org(session, batch.org_id, batch.input_file_id)
    assert again is not None
    assert file is not None
    source = feed.BatchInput(batch=again, file=file, key=office.key)
    fed = at_once(lambda: feed.feed(ctx, source))
    assert sum(after is not None for after in fed) == 1
    with ctx.db.reading() as session:
        assert len(store.batches.open_chunks(session, batch.id)) == 1


def test_four_brains_run_a_batch_each_line_once(office: Desk) -> None:
    batch = office.submit(line(n) for n in range(60))
    for _ in range(40):
        at_once(office.drive)
        office.work()
        if office.reread(batch).state.is_terminal:
            break
    batch = office.reread(batch)
    assert batch.state is BatchState.COMPLETED
    assert (batch.completed, batch.failed) == (60, 0)
    assert office.names(batch) == [f"line-{n}" for n in range(60)]
    assert len(office.cloud.bus.published) == 60


def test_one_idempotency_key_makes_one_batch(office: Desk) -> None:
    file = office.upload(jsonl([line(1)]))

    def create() -> str:
        return batches.create(
            office.cloud.ctx,
            office.key,
            input_file_id=file.id,
            endpoint=CHAT,
            window="1h",
            metadata={},
            idempotency_key="k",
            body_sha256="0",
        ).id

    assert len(set(at_once(create))) == 1


def test_the_embedded_fleet_runs_a_batch(tmp_path: Path) -> None:
    options = EmbeddedFleetOptions(
        home=tmp_path, port=free_port(), catalog_path=catalog.ECHO
    )
    prompts = {f"p{n}": f"text {n}" for n in range(250)}
    with EmbeddedFleet(options) as fleet, fleet.client() as client:
        batch = client.batch(prompts, model="echo:small", max_tokens=2)
        batch.wait(timeout=100)
        assert batch.status is BatchState.COMPLETED
        found = {one.custom_id: one.text for one in batch.results()}
    assert found == prompts
