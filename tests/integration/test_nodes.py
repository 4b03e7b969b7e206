"""The servers the other tests stand on."""

from pathlib import Path

import psycopg
import pytest
from kombu import Connection

from fixtures.nodes import PostgresNode, RabbitNode
from fixtures.systems import RABBIT_ROOT, ServerMissing


def message_count(url: str) -> int:
    with Connection(url, heartbeat=0) as connection:
        queue = connection.SimpleQueue("kept")
        try:
            return int(queue.qsize())
        finally:
            queue.close()


def test_a_confirmed_message_outlives_a_killed_broker(
    rabbitmq: RabbitNode, rabbitmq_url: str
) -> None:
    with Connection(rabbitmq_url, transport_options={"confirm_publish": True}) as link:
        queue = link.SimpleQueue("kept")
        queue.put({"kept": True})
        queue.close()
    rabbitmq.kill()
    assert not rabbitmq.is_running
    rabbitmq.start()
    assert message_count(rabbitmq_url) == 1


def test_a_committed_row_outlives_a_crashed_database(
    postgres: PostgresNode, postgres_url: str
) -> None:
    address = postgres_url.replace("+psycopg", "")
    with psycopg.connect(address) as session:
        session.execute("CREATE TABLE kept (id integer)")
        session.execute("INSERT INTO kept VALUES (7)")
    postgres.kill()
    postgres.start()
    with psycopg.connect(address) as session:
        assert session.execute("SELECT id FROM kept").fetchall() == [(7,)]


def test_a_missing_server_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_args, **_named: None)
    monkeypatch.delenv(RABBIT_ROOT, raising=False)
    with pytest.raises(ServerMissing, match="apt-get install rabbitmq-server"):
        RabbitNode()
    with pytest.raises(ServerMissing, match="apt-get install postgresql"):
        PostgresNode()
    monkeypatch.setenv(RABBIT_ROOT, str(tmp_path))
    with pytest.raises(ServerMissing, match="run: scripts/broker4"):
        RabbitNode()
