"""Batches, in OpenAI's shape: create, list, look at, cancel."""

import hashlib
from typing import Literal

from flask import request
from pydantic import BaseModel, Field

from cloud_app.api.json import cursor_page, of_record
from cloud_app.api.requests import Metadata, NulFreeText, RequestModel, UnsupportedField
from cloud_app.batches import batches
from cloud_app.files import files
from cloud_app.store.records import BatchRecord
from cloud_app.web.request import blueprint, context, key
from genie.api_types import (
    BatchAnswer,
    BatchInputError,
    BatchInputErrors,
    BatchList,
    BatchUsage,
    InputTokenDetails,
    RequestCounts,
    from_contract,
)

PAGE_MAX = 100

api = blueprint("batches", "batches", prefix="/v1/batches")


class BatchRequest(RequestModel):
    """The body of a new batch."""

    input_file_id: NulFreeText = Field(
        max_length=64, description="A file of purpose batch."
    )
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
    completion_window: str = Field(
        max_length=20,
        pattern="^[1-9][0-9]{0,3}[mh]$",
        description="How long it may take: 24h or less, like 1h or 30m.",
        examples=["24h"],
    )
    metadata: Metadata | None = None
    output_expires_after: UnsupportedField = None


class BatchPath(BaseModel):
    """Which batch."""

    batch_id: str = Field(max_length=64, description="With or without batch_.")


class BatchesQuery(BaseModel):
    """Which batches; newest first."""

    limit: int = Field(20, ge=1, le=PAGE_MAX)
    after: str | None = Field(None, max_length=64, description="The last id seen.")


@api.post("")
def create_batch(body: BatchRequest) -> BatchAnswer:
    """Run every request of an uploaded file, in the time that interactive work leaves.

    Each line is {custom_id, method: "POST", url: the endpoint, body}.
    """
    batch = batches.create(
        context(),
        key(),
        input_file_id=body.input_file_id,
        endpoint=body.endpoint,
        window=body.completion_window,
        metadata=body.metadata or {},
        idempotency_key=request.headers.get("Idempotency-Key"),
        body_sha256=hashlib.sha256(body.model_dump_json().encode()).hexdigest(),
    )
    return batch_answer(batch)


@api.get("")
def list_batches(query: BatchesQuery) -> BatchList:
    """List this org's batches, newest first."""
    found = batches.find(context(), key(), limit=query.limit + 1, after=query.after)
    return cursor_page(BatchList, [*map(batch_answer, found)], query.limit)


@api.get("/<batch_id>")
def get_batch(path: BatchPath) -> BatchAnswer:
    """One batch: how far it is, and the files of its answers."""
    return batch_answer(batches.get(context(), key(), path.batch_id))


@api.post("/<batch_id>/cancel")
def cancel_batch(path: BatchPath) -> BatchAnswer:
    """Stop a batch; the answers it has are kept."""
    return batch_answer(batches.cancel(context(), key(), path.batch_id))


def batch_answer(batch: BatchRecord) -> BatchAnswer:
    """A batch as the API shows it."""
    used = batch.usage
    mistakes = from_contract(tuple[BatchInputError, ...], batch.errors)
    return of_record(
        BatchAnswer,
        batch,
        id=f"{batches.PREFIX}{batch.id}",
        status=batch.state,
        completion_window=batch.window,
        errors=BatchInputErrors(data=mistakes) if mistakes else None,
        input_file_id=_file(batch.input_file_id),
        output_file_id=_file(batch.output_file_id),
        error_file_id=_file(batch.error_file_id),
        request_counts=of_record(RequestCounts, batch),
        usage=BatchUsage(
            input_tokens=used.prompt_tokens,
            input_tokens_details=InputTokenDetails(cached_tokens=used.cached_tokens),
            output_tokens=used.completion_tokens,
            total_tokens=used.prompt_tokens + used.completion_tokens,
        ),
    )


def _file(file_id: str | None) -> str | None:
    return None if file_id is None else f"{files.PREFIX}{file_id}"
