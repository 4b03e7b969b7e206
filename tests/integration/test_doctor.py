"""`genie doctor` against a real broker and a real database."""

from collections.abc import Callable
from urllib.parse import urlsplit

from cloud_app.store import Database, schema
from genie.cli.doctor import Verdict, broker, database


def test_a_login_at_the_broker_is_tried(rabbitmq_url: str) -> None:
    check = broker(rabbitmq_url)
    assert check.verdict is Verdict.OK
    assert str(urlsplit(rabbitmq_url).port) in check.detail


def test_a_wrong_password_is_found_and_never_shown(rabbitmq_url: str) -> None:
    parts = urlsplit(rabbitmq_url)
    wrong = f"amqp://{parts.username}:s3cret@{parts.hostname}:{parts.port}{parts.path}"
    check = broker(wrong)
    assert check.verdict is Verdict.FAIL
    assert "s3cret" not in f"{check.detail}{check.next_step}"
    assert "GENIE_BROKER_URL" in check.next_step


def test_a_broker_that_is_away_is_found_soon(free_port: Callable[[], int]) -> None:
    port = free_port()
    check = broker(f"amqp://127.0.0.1:{port}/")
    assert check.verdict is Verdict.FAIL
    assert f"127.0.0.1:{port}" in check.detail


def test_a_database_is_fine_once_it_has_this_releases_schema(postgres_url: str) -> None:
    before = database(postgres_url)
    assert before.verdict is Verdict.FAIL
    assert before.next_step == "run `genie db upgrade`"
    found = Database(postgres_url)
    schema.upgrade(found)
    found.dispose()
    assert database(postgres_url).verdict is Verdict.OK
