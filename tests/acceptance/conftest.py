"""One fleet in its production shape for a whole module: two workers, echo models."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from fixtures.fleet import Fleet
from fixtures.nodes import PostgresNode, RabbitNode
from genie import Client

CATALOG = Path(__file__).with_name("catalog.toml")
CHAT = "echo:?ms_per_token=20&load_s=0.1"
HEARTBEAT_S = 2.0


@pytest.fixture(scope="module")
def catalog(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The fleet's catalog; a module's ``CHAT_SLOTS`` are the chat model's slots."""
    slots = getattr(request.module, "CHAT_SLOTS", None)
    if slots is None:
        return CATALOG
    text = CATALOG.read_text()
    file = tmp_path_factory.mktemp("catalog") / CATALOG.name
    file.write_text(text.replace(CHAT, CHAT.replace("?", f"?slots={slots}&")))
    return file


@pytest.fixture(scope="module")
def fleet(
    catalog: Path,
    rabbitmq: RabbitNode,
    postgres: PostgresNode,
    rabbitmq_url: str,
    postgres_url: str,
) -> Iterator[Fleet]:
    """Web, brain, beat and the workers atlas and borealis, the chat model on both."""
    environ = {"GENIE_CATALOG": str(catalog)}
    with Fleet(
        broker_url=rabbitmq_url,
        database_url=postgres_url,
        environ=environ,
        heartbeat_s=HEARTBEAT_S,
    ) as started:
        started.start_worker("atlas")
        started.start_worker("borealis")
        started.wait_ready("echo:small", workers=2)
        yield started


@pytest.fixture
def openai(fleet: Fleet) -> Iterator[OpenAI]:
    """The official client with the admin key."""
    url = f"{fleet.url}/v1"
    with OpenAI(base_url=url, api_key=fleet.api_key, max_retries=0) as opened:
        yield opened


@pytest.fixture
def client(fleet: Fleet) -> Iterator[Client]:
    """An SDK client with the admin key."""
    with fleet.client() as opened:
        yield opened


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: "pytest.CallInfo[None]"
) -> Iterator[None]:
    """Show what every process printed when a test of a fleet failed."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]  # pluggy's wrapper
    started = getattr(item, "funcargs", {}).get("fleet")
    if report.failed and started is not None:
        report.sections.append(("fleet", started.logs()))
