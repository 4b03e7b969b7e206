"""Servers and addresses every test may ask for.

RabbitMQ and PostgreSQL start when the first test asks and end with the session. A
server that is not installed fails the test with the line that installs it: a test that
did not run must not look like one that passed.
"""

import gc
import os
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import HealthCheck, settings
from structlog.dev import ConsoleRenderer, plain_traceback

from fixtures import ports
from fixtures.nodes import PostgresNode, RabbitNode
from fixtures.systems import ServerMissing, of_rabbitmq, version_of_rabbitmq

if TYPE_CHECKING:
    from fixtures.sharing import Sharing

# Several threads on a few shared cores are slower than one; read before torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

LONGEST = ("tests/acceptance", "tests/unit/workers/engine")

# How long an example takes is the machine's business: others work on it too.
settings.register_profile(
    "genie", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("genie")


def pytest_report_header() -> str:
    """Say which broker the tests run on: `make test-broker4` asks for another one."""
    system = of_rabbitmq()
    return f"rabbitmq: {version_of_rabbitmq(system)} in {system.root}"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Leave what was imported to no garbage collector: torch, SQLAlchemy, all tests.

    A look at all of it takes half a second, in the middle of whatever test is running.
    """
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files: at the end they would have nobody to share with."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> "Sharing":
    """Whole files for each process, and all acceptance tests for one."""
    from fixtures.sharing import Sharing  # xdist is there when this is called

    return Sharing(config, log)


@pytest.fixture(autouse=True)
def _logs_as_at_the_start() -> None:
    """A command or a fleet within this process may have set another log level."""
    structlog.reset_defaults()
    *first, _ = structlog.get_config()["processors"]
    # Its own draws every variable of every frame, which takes up to a second.
    console = ConsoleRenderer(exception_formatter=plain_traceback)
    structlog.configure(processors=[*first, console])


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitNode]:
    """A private RabbitMQ; a test that stops it must start it again."""
    try:
        node = RabbitNode()
    except ServerMissing as missing:
        pytest.fail(str(missing), pytrace=False)
    with node:
        yield node


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresNode]:
    """A private PostgreSQL; a test that stops it must start it again."""
    try:
        node = PostgresNode()
    except ServerMissing as missing:
        pytest.fail(str(missing), pytrace=False)
    with node:
        yield node


@pytest.fixture(scope="module")
def rabbitmq_url(rabbitmq: RabbitNode, request: pytest.FixtureRequest) -> str:
    """Address of a virtual host of this test module alone."""
    rabbitmq.start()
    return rabbitmq.vhost(re.sub(r"\W+", "-", request.node.nodeid))


@pytest.fixture(scope="module")
def postgres_url(postgres: PostgresNode) -> str:
    """Address of an empty database of this test module alone."""
    postgres.start()
    return postgres.create_database()


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Call it for a loopback port nothing listens on."""
    return ports.free_port
