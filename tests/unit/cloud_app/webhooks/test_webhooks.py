"""Webhooks as rows: when they are tried, where they may not go, what is kept."""

import base64
import hashlib
import hmac
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from openai import InvalidWebhookSignatureError, OpenAI

from cloud_app import store
from cloud_app.jobs import job_json, lifecycle
from cloud_app.store.records import DeliveryRecord, JobRecord, WebhookConfig
from cloud_app.webhooks import webhooks
from fixtures.clouds import Cloud
from genie.errors import BadRequest, NotFound

HOOK = WebhookConfig(url="https://receiver.example/hook", secret="never shown again")


def job(cloud: Cloud) -> JobRecord:
    """A job with a webhook."""
    return lifecycle.accept(cloud.ctx, replace(cloud.new_job(), webhook=HOOK))[0]


def deliveries(cloud: Cloud) -> tuple[DeliveryRecord, ...]:
    return webhooks.find(cloud.ctx, "acme")


class Asked:
    """A resolver that notes what it was asked and knows one address."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.hosts: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int) -> tuple[str, ...]:
        self.hosts.append((host, port))
        if not self.addresses:
            raise OSError("no such host")
        return self.addresses


@pytest.fixture
def nobody() -> Asked:
    """No host has an address."""
    return Asked()


def test_nothing_is_told_before_the_job_has_ended(cloud: Cloud, nobody: Asked) -> None:
    made = job(cloud)
    webhooks.deliver(cloud.ctx, job_json.webhook_payload, nobody)
    cloud.start(made, "a1")
    webhooks.deliver(cloud.ctx, job_json.webhook_payload, nobody)
    assert nobody.hosts == []
    cloud.finish(made)
    webhooks.deliver(cloud.ctx, job_json.webhook_payload, nobody)
    assert nobody.hosts == [("receiver.example", 443)]
    (one,) = deliveries(cloud)
    assert (one.event, one.attempts, one.job_id) == ("job.completed", 1, made.id)


def test_a_receiver_that_is_away_is_tried_four_times_and_given_up(
    cloud: Cloud, nobody: Asked
) -> None:
    cloud.finish(job(cloud))
    tried_at = []
    for second in range(400):
        before = len(nobody.hosts)
        webhooks.deliver(cloud.ctx, job_json.webhook_payload, nobody)
        if len(nobody.hosts) > before:
            tried_at.append(second)
        cloud.clock.forward(1)
    assert tried_at == [0, 5, 35, 335]
    (one,) = deliveries(cloud)
    assert (one.state, one.attempts) == ("failed", 4)
    assert one.error == "nobody answered: OSError"


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1"])
def test_a_name_that_leads_into_a_private_network_is_not_followed(
    cloud: Cloud, address: str
) -> None:
    cloud.finish(job(cloud))
    assert (
        webhooks.deliver(cloud.ctx, job_json.webhook_payload, Asked("1.1.1.1", address))
        == 0
    )
    (one,) = deliveries(cloud)
    assert "private network" in (one.error or "")


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "192.168.0.1:8080"])
def test_a_private_address_is_refused_with_the_request(cloud: Cloud, host: str) -> None:
    hook = WebhookConfig(url=f"http://{host}/x", secret="longer than 8")
    with pytest.raises(BadRequest, match="GENIE_WEBHOOK_ALLOW_PRIVATE=1") as caught:
        webhooks.check(cloud.ctx, hook)
    assert caught.value.param == "webhook.url"


def test_a_brain_that_died_while_telling_is_followed_by_another(
    cloud: Cloud, nobody: Asked
) -> None:
    cloud.finish(job(cloud))
    with cloud.ctx.db.session() as session:
        assert len(store.webhooks.claim(session, cloud.clock.at, 10)) == 1
    webhooks.deliver(cloud.ctx, job_json.webhook_payload, nobody)
    assert nobody.hosts == []
    cloud.clock.forward(61)
    webhooks.deliver(cloud.ctx, job_json.webhook_payload, nobody)
    assert len(nobody.hosts) == 1


def test_one_that_was_given_up_can_be_sent_again(cloud: Cloud, nobody: Asked) -> None:
    cloud.finish(job(cloud))
    for _ in range(4):
        webhooks.deliver(cloud.ctx, job_json.webhook_payload, nobody)
        cloud.clock.forward(400)
    (one,) = deliveries(cloud)
    again = webhooks.redeliver(cloud.ctx, "acme", one.id)
    assert (again.id, again.state, again.attempts) == (one.id, "pending", 0)
    webhooks.deliver(cloud.ctx, job_json.webhook_payload, nobody)
    assert len(nobody.hosts) == 5


def test_another_orgs_delivery_is_not_found(cloud: Cloud, nobody: Asked) -> None:
    cloud.finish(job(cloud))
    (one,) = deliveries(cloud)
    with pytest.raises(NotFound, match="webhook-deliveries"):
        webhooks.redeliver(cloud.ctx, "globex", one.id)


def test_secrets_go_with_the_delivery_after_a_week(cloud: Cloud, nobody: Asked) -> None:
    cloud.finish(job(cloud))
    for _ in range(4):
        webhooks.deliver(cloud.ctx, job_json.webhook_payload, nobody)
        cloud.clock.forward(400)
    assert webhooks.forget(cloud.ctx) == 0
    cloud.clock.forward(7 * 24 * 3600)
    assert webhooks.forget(cloud.ctx) == 1
    assert deliveries(cloud) == ()


def test_a_secret_is_in_no_representation_and_no_log(
    cloud: Cloud, nobody: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.finish(job(cloud))
    webhooks.deliver(cloud.ctx, job_json.webhook_payload, nobody)
    (one,) = deliveries(cloud)
    printed = capsys.readouterr()
    assert HOOK.secret not in f"{HOOK} {one} {printed.out} {printed.err}"
    assert "webhook_not_delivered" in printed.out


@pytest.mark.parametrize(
    "secret", ["a plain secret", "whsec_" + base64.b64encode(b"k" * 24).decode()]
)
def test_standard_headers_are_what_the_official_client_verifies(secret: str) -> None:
    body, now = b'{"type":"job.completed"}', datetime.now(UTC)
    headers = webhooks.standard(secret, "delivery-1", now, body)
    verify = OpenAI(api_key="none").webhooks.verify_signature
    verify(body, headers, secret=secret)
    for other in (
        webhooks.standard("another secret", "delivery-1", now, body),
        webhooks.standard(secret, "delivery-1", now - timedelta(hours=1), body),
        headers | {"webhook-id": "delivery-2"},
    ):
        with pytest.raises(InvalidWebhookSignatureError):
            verify(body, other, secret=secret)


def test_a_secret_that_only_looks_like_base64_signs_with_its_own_bytes() -> None:
    headers = webhooks.standard("whsec_no base64!", "d", datetime.now(UTC), b"{}")
    moment = headers["webhook-timestamp"]
    mac = hmac.new(b"whsec_no base64!", f"d.{moment}.{{}}".encode(), hashlib.sha256)
    assert (
        headers["webhook-signature"] == f"v1,{base64.b64encode(mac.digest()).decode()}"
    )
