"""P14 of docs/promises.md in its long form, with room for every client that stops."""

from collections import Counter
from contextlib import ExitStack

import psutil
import pytest

from acceptance.test_long_promises import MIB, p99, tell
from acceptance.test_promises import gaps_of, stopped_reader
from fixtures.fleet import Fleet, wait_until
from fixtures.nodes import RabbitNode
from genie import Client
from genie.contracts.inference import JobState

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]

CHAT_SLOTS = 32


def test_p14_fifty_clients_that_read_nothing_slow_nobody(
    fleet: Fleet, client: Client, rabbitmq: RabbitNode
) -> None:
    broker = psutil.Process(rabbitmq.pid)
    alone = [gap for _ in range(5) for gap in gaps_of(client)]
    before_mib = broker.memory_info().rss / MIB
    most_mib = before_mib
    with ExitStack() as stack:
        ids = [stack.enter_context(stopped_reader(fleet)) for _ in range(50)]
        beside = []
        for _ in range(5):
            beside += list(gaps_of(client))
            most_mib = max(most_mib, broker.memory_info().rss / MIB)
        for job_id in ids:
            wait_until(
                lambda one=job_id: client.job(one).status.is_terminal,  # type: ignore[misc]  # a default keeps the loop's value
                90,
                "it is cut off",
            )
        ends = Counter(client.job(job_id).status.value for job_id in ids)
    tell(
        "P14",
        stopped=50,
        ends=dict(ends),
        gap_p99_ms=f"{1000 * p99(alone):.0f} alone, {1000 * p99(beside):.0f} beside",
        broker_mib=f"{before_mib:.0f} before, {most_mib:.0f} at most",
    )
    assert ends[JobState.COMPLETED.value] == 0
    assert most_mib - before_mib < 200
