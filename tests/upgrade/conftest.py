"""One fleet that is upgraded while it works; each test says how far it must be."""

from collections.abc import Iterator

import pytest

import genie
from fixtures.nodes import PostgresNode, RabbitNode
from fixtures.releases import Release, ReleaseMissing, previous
from fixtures.upgrade import Step, Upgrade, upgrading


@pytest.fixture(scope="session")
def release() -> Release:
    """The release before, in its own environment; made on first use."""
    try:
        return previous()
    except ReleaseMissing as missing:
        pytest.fail(str(missing), pytrace=False)


@pytest.fixture(scope="module")
def upgrade(
    release: Release,
    rabbitmq: RabbitNode,
    postgres: PostgresNode,
    rabbitmq_url: str,
    postgres_url: str,
) -> Iterator[Upgrade]:
    """An upgrade that goes forward from test to test."""
    with upgrading(
        release, broker_url=rabbitmq_url, database_url=postgres_url
    ) as begun:
        yield begun


@pytest.fixture
def old_cloud(upgrade: Upgrade) -> Iterator[genie.Client]:
    """A client of the cloud before, which has a worker of each release."""
    upgrade.reach(Step.OLD_CLOUD)
    with upgrade.old.client() as client:
        yield client


@pytest.fixture
def two_clouds(upgrade: Upgrade) -> Iterator[tuple[genie.Client, genie.Client]]:
    """A client of the old web and one of the new, beside each other."""
    upgrade.reach(Step.TWO_CLOUDS)
    with upgrade.old.client() as old, upgrade.new.client() as new:
        yield old, new


@pytest.fixture
def new_cloud(upgrade: Upgrade) -> Iterator[genie.Client]:
    """A client of this release's cloud, which has a worker of each release."""
    upgrade.reach(Step.NEW_CLOUD)
    with upgrade.new.client() as client:
        yield client


@pytest.fixture
def only_new(upgrade: Upgrade) -> Iterator[genie.Client]:
    """A client of this release's cloud and worker, on what the other left."""
    upgrade.reach(Step.ONLY_NEW)
    with upgrade.new.client() as client:
        yield client


@pytest.fixture
def later_schema(upgrade: Upgrade) -> Iterator[genie.Client]:
    """A client of this release's cloud, on the schema of the one after it."""
    upgrade.reach(Step.LATER_SCHEMA)
    with upgrade.new.client() as client:
        yield client


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: "pytest.CallInfo[None]"
) -> Iterator[None]:
    """Show what every process printed when a test of an upgrade failed."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]  # pluggy's wrapper
    begun = getattr(item, "funcargs", {}).get("upgrade")
    if report.failed and begun is not None:
        report.sections.append(("fleets", begun.logs()))
