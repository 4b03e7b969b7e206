"""What several integration tests start."""

from collections.abc import Iterator

import pytest

from integration.worker_rig import Asker


@pytest.fixture
def asker(rabbitmq_url: str) -> Iterator[Asker]:
    """Somebody who asks, over RabbitMQ."""
    with Asker(rabbitmq_url) as asker:
        yield asker
