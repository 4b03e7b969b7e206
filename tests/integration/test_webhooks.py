"""Webhooks sent to real receivers, whose own HMAC checks what they were told."""

import hashlib
import hmac
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from cloud_app import store
from cloud_app.jobs import job_json, lifecycle
from cloud_app.store.records import DeliveryRecord, JobRecord, WebhookConfig
from cloud_app.webhooks import webhooks
from fixtures import certificates
from fixtures.clouds import Cloud
from fixtures.receiver import Receiver, receiving

SECRET = "a secret between two"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver without TLS."""
    with receiving() as made:
        yield made


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of an authority that no machine knows."""
    return certificates.authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def receiver_named(authority: Path) -> Iterator[Callable[[str], Receiver]]:
    """Call it for a receiver over TLS that proves to be ``name``."""

    with ExitStack() as stack:

        def make(name: str) -> Receiver:
            proof = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            proof.load_cert_chain(*certificates.certificate(authority.parent, name))
            return stack.enter_context(receiving(proof))

        yield make


def trusting(cloud: Cloud, authority: Path) -> Cloud:
    settings = replace(cloud.ctx.settings, webhook_ca_file=authority)
    cloud.ctx = replace(cloud.ctx, settings=settings)
    return cloud


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    """A cloud that may tell this machine's own receivers."""
    made = Cloud(f"sqlite:///{tmp_path}/genie.db")
    settings = replace(made.ctx.settings, webhook_allow_private=True)
    made.ctx = replace(made.ctx, settings=settings)
    yield made
    made.close()


def done(cloud: Cloud, url: str, retain_h: int | None = None) -> JobRecord:
    """A job that ended, with a webhook that waits to be told."""
    hook = WebhookConfig(url=url, secret=SECRET)
    new = replace(cloud.new_job(), webhook=hook, retain_h=retain_h)
    job, _ = lifecycle.accept(cloud.ctx, new)
    cloud.finish(job, "what only the receiver may read")
    return job


def deliver(cloud: Cloud) -> int:
    return webhooks.deliver(cloud.ctx, job_json.webhook_payload)


def only(cloud: Cloud) -> DeliveryRecord:
    (found,) = webhooks.find(cloud.ctx, "acme")
    return found


def is_genuine(headers: dict[str, str], body: bytes) -> bool:
    """What the documentation tells a receiver to compute."""
    computed = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(headers["x-genie-signature"], f"sha256={computed}")


def test_a_receiver_is_told_once_and_can_verify_it(
    cloud: Cloud, receiver: Receiver
) -> None:
    job = done(cloud, f"{receiver.url}/hook?team=a")
    assert deliver(cloud) == 1
    assert deliver(cloud) == 0
    ((path, headers, body),) = receiver.told
    assert path == "/hook?team=a"
    assert is_genuine(headers, body)
    assert not is_genuine(headers, body + b" ")
    assert headers["x-genie-event"] == "job.completed"
    assert headers["x-genie-delivery"] == only(cloud).id
    event = json.loads(body)
    assert (event["type"], event["data"]["id"]) == ("job.completed", job.id)
    answer = event["data"]["result"]["choices"][0]["message"]["content"]
    assert answer == "what only the receiver may read"
    assert (only(cloud).state, only(cloud).status) == ("delivered", 204)


def test_a_receiver_that_fails_is_told_again_under_the_same_id(
    cloud: Cloud, receiver: Receiver
) -> None:
    receiver.statuses = [500, 503]
    done(cloud, receiver.url)
    for seconds in (5, 30, 300):
        deliver(cloud)
        cloud.clock.forward(seconds)
    assert [headers["x-genie-delivery"] for _, headers, _ in receiver.told] == [
        only(cloud).id
    ] * 3
    assert all(is_genuine(headers, body) for _, headers, body in receiver.told)
    assert (only(cloud).state, only(cloud).attempts) == ("delivered", 3)


def test_over_tls_a_receiver_is_told_and_can_verify_it(
    cloud: Cloud, authority: Path, receiver_named: Callable[[str], Receiver]
) -> None:
    receiver = receiver_named("localhost")
    done(trusting(cloud, authority), f"{receiver.url}/hook")
    assert deliver(cloud) == 1
    ((path, headers, body),) = receiver.told
    assert (path, headers["host"]) == ("/hook", receiver.url.removeprefix("https://"))
    assert is_genuine(headers, body)


def test_a_receiver_that_proves_to_be_somebody_else_is_told_nothing(
    cloud: Cloud, authority: Path, receiver_named: Callable[[str], Receiver]
) -> None:
    receiver = receiver_named("elsewhere.example")
    done(trusting(cloud, authority), receiver.url)
    assert deliver(cloud) == 0
    assert receiver.told == []
    assert "certificate was refused" in (only(cloud).error or "")


def test_a_receiver_by_an_authority_nobody_knows_is_told_nothing(
    cloud: Cloud, receiver_named: Callable[[str], Receiver]
) -> None:
    receiver = receiver_named("localhost")
    done(cloud, receiver.url)
    assert deliver(cloud) == 0
    assert receiver.told == []
    assert "certificate was refused" in (only(cloud).error or "")


def test_a_receiver_that_never_takes_it_is_told_four_times_and_given_up(
    cloud: Cloud, receiver: Receiver
) -> None:
    receiver.statuses = [500] * 9
    done(cloud, receiver.url)
    sent_after = []
    for second in range(400):
        before = len(receiver.told)
        deliver(cloud)
        if len(receiver.told) > before:
            sent_after.append(second)
        cloud.clock.forward(1)
    assert sent_after == [0, 5, 35, 335]
    assert (only(cloud).state, only(cloud).attempts) == ("failed", 4)


def test_a_redirect_is_not_followed(cloud: Cloud, receiver: Receiver) -> None:
    receiver.statuses = [302]
    done(cloud, f"{receiver.url}/here")
    assert deliver(cloud) == 0
    assert [path for path, _, _ in receiver.told] == ["/here"]
    assert only(cloud).error == "it answered 302; redirects are not followed"


def test_loopback_is_refused_unless_it_is_allowed(
    cloud: Cloud, receiver: Receiver
) -> None:
    done(cloud, receiver.url.replace("127.0.0.1", "localhost"))
    settings = replace(cloud.ctx.settings, webhook_allow_private=False)
    strict = replace(cloud.ctx, settings=settings)
    assert webhooks.deliver(strict, job_json.webhook_payload) == 0
    assert receiver.told == []
    assert "private network" in (only(cloud).error or "")


def test_a_delivered_one_is_sent_again_when_asked(
    cloud: Cloud, receiver: Receiver
) -> None:
    done(cloud, receiver.url)
    deliver(cloud)
    webhooks.redeliver(cloud.ctx, "acme", only(cloud).id)
    assert deliver(cloud) == 1
    first, second = receiver.told
    assert first[1]["x-genie-delivery"] == second[1]["x-genie-delivery"]
    assert first[2] == second[2]


def test_an_answer_that_is_not_to_be_kept_is_forgotten_once_told(
    cloud: Cloud, receiver: Receiver
) -> None:
    job = done(cloud, receiver.url, retain_h=0)
    deliver(cloud)
    cloud.clock.forward(61)
    lifecycle.sweep(cloud.ctx)
    assert cloud.reread(job).outcome.text is None


def test_anything_else_can_be_told_too(cloud: Cloud, receiver: Receiver) -> None:
    hook = WebhookConfig(url=receiver.url, secret=SECRET)
    with cloud.ctx.db.session() as session:
        store.webhooks.add(
            session,
            cloud.acme,
            hook,
            event="batch.completed",
            body='{"id": "b1"}',
            now=cloud.clock.at,
        )
    assert deliver(cloud) == 1
    ((_, headers, body),) = receiver.told
    assert (headers["x-genie-event"], body) == ("batch.completed", b'{"id": "b1"}')
    assert is_genuine(headers, body)


def test_many_brains_tell_each_receiver_once(cloud: Cloud, receiver: Receiver) -> None:
    for _ in range(20):
        done(cloud, receiver.url)
    threads = [threading.Thread(target=deliver, args=(cloud,)) for _ in range(4)]
    _run(threads)
    ids = [headers["x-genie-delivery"] for _, headers, _ in receiver.told]
    assert len(ids) == len(set(ids)) == 20


def test_a_receiver_that_answers_byte_by_byte_is_left_in_time(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "DEADLINE_S", 0.5)
    with Drip() as drip:
        done(cloud, drip.url)
        assert deliver(cloud) == 0
    assert "nobody answered" in (only(cloud).error or "")


class Drip:
    """A server that sends its answer's head one byte at a time, for ever."""

    def __enter__(self) -> "Drip":
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        with client:
            client.sendall(b"HTTP/1.1 200 OK\r\nx: ")
            while not self._over.wait(0.1):
                try:
                    client.sendall(b"y")
                except OSError:
                    return


def _run(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
