"""Webhook deliveries: what was told to whom, and telling it again."""

from typing import Literal

from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field

from cloud_app.api import errors
from cloud_app.jobs.job_json import unix
from cloud_app.store.records import DeliveryRecord
from cloud_app.web.request import context, key, require_key
from cloud_app.webhooks import webhooks
from genie.api_types import DeliveryAnswer, DeliveryList

api = APIBlueprint(
    "webhooks",
    __name__,
    url_prefix="/v1/webhook-deliveries",
    abp_tags=[Tag(name="webhooks", description="What receivers were told")],
    abp_security=[{"key": []}],
    abp_responses=errors.RESPONSES,
)
api.before_request(require_key)


class DeliveryPath(BaseModel):
    """Which delivery: what its X-Genie-Delivery said."""

    delivery_id: str = Field(max_length=64)


class DeliveriesQuery(BaseModel):
    """Which deliveries; newest first."""

    model_config = ConfigDict(extra="ignore")

    job: str | None = Field(None, max_length=64, description="Only of this job.")
    limit: int = Field(20, ge=1, le=200)


@api.get("")
def list_deliveries(query: DeliveriesQuery) -> DeliveryList:
    """This org's webhook deliveries of the last week, newest first."""
    org, limit = key().org, query.limit
    found = webhooks.find(context(), org, job_id=query.job, limit=limit)
    data = tuple(map(delivery_answer, found))
    return DeliveryList(data=data, has_more=len(data) == limit)


@api.post("/<delivery_id>/redeliver")
def redeliver(path: DeliveryPath) -> tuple[DeliveryAnswer, Literal[202]]:
    """Send one that was delivered or given up again, now."""
    again = webhooks.redeliver(context(), key().org, path.delivery_id)
    return delivery_answer(again), 202


def delivery_answer(delivery: DeliveryRecord) -> DeliveryAnswer:
    """A delivery as the API shows it, without its secret."""
    return DeliveryAnswer(
        id=delivery.id,
        event=delivery.event,
        job_id=delivery.job_id,
        url=delivery.url,
        status=delivery.state.value,
        attempts=delivery.attempts,
        next_at=unix(delivery.next_at),
        response_status=delivery.status,
        error=delivery.error,
        created_at=unix(delivery.created_at),
        ended_at=unix(delivery.ended_at),
    )
