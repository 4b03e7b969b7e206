"""Addresses of brokers mean the same to the links of ours and to Celery's."""

import kombu
import pytest

from genie.messaging.broker import parameters


@pytest.mark.parametrize("path", ["", "/", "//", "//team", "/team", "/%2F", "/a%2Fb"])
def test_a_virtual_host_is_read_as_celery_reads_it(path: str) -> None:
    url = f"amqp://guest:guest@127.0.0.1:5672{path}"
    celerys = kombu.Connection(url).virtual_host or "/"
    assert parameters(url, "test", 10).virtual_host == celerys
