"""A running fleet for the whole folder, and one of everything in it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures import shop, tiny_catalog
from fixtures.fleet import Fleet
from fixtures.nodes import PostgresNode, RabbitNode
from fixtures.shop import Shop

HERE = Path(__file__).parent
REFERENCE = Path(
    os.environ.get("GENIE_REFERENCE") or HERE.parents[2] / "shared" / "reference"
)
SPECIFICATION = REFERENCE / "openai-openapi.yaml"


@pytest.fixture(scope="package")
def fleet(
    rabbitmq: RabbitNode,
    postgres: PostgresNode,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Fleet]:
    """Web, brain, beat, and a worker with echo models and a tiny real one."""
    catalog = tiny_catalog.make(tmp_path_factory.mktemp("tiny"))
    rabbitmq.start()
    postgres.start()
    with Fleet(
        broker_url=rabbitmq.vhost("conformance"),
        database_url=postgres.create_database(),
        environ={
            "GENIE_CATALOG": str(catalog),
            "GENIE_THREADS": "1",
            "GENIE_WEBHOOK_ALLOW_PRIVATE": "1",
        },
        heartbeat_s=2.0,
    ) as started:
        started.start_worker("atlas")
        for model in (shop.MODEL, shop.EMBEDDER, tiny_catalog.MODEL):
            started.wait_ready(model, timeout_s=90)
        yield started


@pytest.fixture(scope="package")
def stocked(fleet: Fleet) -> Shop:
    """The same with jobs, files, a batch, schedules and deliveries in it."""
    return shop.stock(fleet)


@pytest.fixture(scope="session")
def specification() -> Path:
    """OpenAI's own description of its API; on CI a test without it fails."""
    if not SPECIFICATION.is_file():
        why = (
            "OpenAI's specification is not here; set GENIE_REFERENCE to the folder "
            "with openai-openapi.yaml (docs/reference/conformance.md says where to "
            "get it)"
        )
        if os.environ.get("CI"):
            pytest.fail(why, pytrace=False)
        pytest.skip(why)  # it is not ours to ship, and all else can be shown without it
    return SPECIFICATION
