"""The brain as the process people start: relays, records outcomes, outlives outages."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloud_app.jobs import lifecycle
from cloud_app.store.records import JobRecord
from fixtures.clouds import Cloud, outcome
from fixtures.links import declared
from fixtures.nodes import PostgresNode, RabbitNode
from fixtures.process import ServerProcess
from genie import topology
from genie.contracts import codec
from genie.contracts.base import Contract
from genie.contracts.inference import JobState
from genie.messaging import queues
from genie.messaging.publisher import Letter, Publisher

WAIT_S = 60.0


class Brain:
    """A brain with its clock inside, and the cloud it serves."""

    def __init__(self, cloud: Cloud, broker_url: str, folder: Path) -> None:
        self.cloud = cloud
        # a message to a queue that is not there yet would be dropped
        declared(broker_url, queues.outcomes_queue())
        self._publisher = Publisher(broker_url, name="test-worker")
        self._publisher.start()
        environ = {
            "PATH": str(Path(sys.executable).parent),
            "GENIE_DATABASE_URL": cloud.ctx.settings.database_url,
            "GENIE_BROKER_URL": broker_url,
            "GENIE_SECRET_KEY": "only-for-tests",
            "GENIE_CATALOG": "echo",
        }
        command = [sys.executable, "-m", "celery", "-A", "cloud_app", "worker", "-B"]
        self.process = ServerProcess(command, folder=folder, environ=environ)

    def say(self, event: Contract) -> None:
        """A worker's word, on the outcomes queue."""
        body = codec.encode(event)
        letter = Letter(key=topology.OUTCOMES, body=body, confirmed=True)
        self._publisher.send(letter)

    def wait_state(self, job: JobRecord, state: JobState) -> JobRecord:
        """The job once it is in ``state``."""
        self.wait(lambda: self.cloud.reread(job).state is state)
        return self.cloud.reread(job)

    def wait(self, is_true: Callable[[], bool]) -> None:
        """Return once it is true; raises with the brain's log."""
        self.process.wait_until(is_true, WAIT_S)

    def close(self) -> None:
        """End everything."""
        self._publisher.stop()
        self.process.end(signal.SIGTERM, 20)


@pytest.fixture
def brain(rabbitmq_url: str, postgres: PostgresNode, tmp_path: Path) -> Iterator[Brain]:
    """A running brain on RabbitMQ and an empty PostgreSQL database."""
    postgres.start()
    cloud = Cloud(postgres.create_database())
    cloud.clock.at = datetime.now(UTC)
    made = Brain(cloud, rabbitmq_url, tmp_path)
    yield made
    made.close()
    cloud.close()


def test_a_brain_records_relays_and_outlives_its_servers(
    brain: Brain, postgres: PostgresNode, rabbitmq: RabbitNode
) -> None:
    cloud = brain.cloud
    first = cloud.job()
    brain.say(outcome(first.id, text="first"))
    assert brain.wait_state(first, JobState.COMPLETED).outcome.text == "first"

    lost = cloud.job()  # nobody published it: the relay does
    brain.wait(lambda: cloud.reread(lost).confirmed_at is not None)

    during = cloud.job()
    postgres.stop()
    brain.say(outcome(during.id, text="during the outage"))
    time.sleep(1)  # long enough for the brain to meet the outage
    postgres.start()
    assert (
        brain.wait_state(during, JobState.COMPLETED).outcome.text == "during the outage"
    )

    rabbitmq.restart()
    after = cloud.job()
    brain.say(outcome(after.id, text="after the broker came back"))
    brain.wait_state(after, JobState.COMPLETED)
    assert lifecycle.get(cloud.ctx, "acme", after.id).dropped == 0


def test_a_brain_stops_in_order(brain: Brain) -> None:
    job = brain.cloud.job()
    brain.say(outcome(job.id))
    brain.wait_state(job, JobState.COMPLETED)
    began = time.monotonic()
    brain.process.end(signal.SIGTERM, 20)
    assert time.monotonic() - began < 15
    assert "Traceback" not in brain.process.tail(1000)
