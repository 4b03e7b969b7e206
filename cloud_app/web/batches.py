"""Batches, in OpenAI's shape: create, list, look at, cancel."""

import hashlib
from datetime import datetime
from typing import Any, Literal

from flask import request
from pydantic import BaseModel, Field

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
    page = tuple(batch_answer(batch) for batch in found[: query.limit])
    return BatchList(
        data=page,
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=len(found) > query.limit,
    )


@api.get("/<batch_id>")
def get_batch(path: BatchPath) -> BatchAnswer:
    """One batch: how far it is, and the files of its answers."""
    return batch_answer(batches.get(context(), key(), path.batch_id))


@api.post("/<batch_id>/cancel")
def cancel_batch(path: BatchPath) -> BatchAnswer:
    """Stop a batch; the answers it has are kept."""
    return batch_answer(batches.cancel(context(), key(), path.batch_id))


def batch_answer(batch: BatchRecord) -> BatchAnswer:
    """A batch as the API shows it; moments in unix seconds."""
    return BatchAnswer(
        id=f"{batches.PREFIX}{batch.id}",
        endpoint=batch.endpoint,
        model=batch.model,
        errors=_errors(batch),
        input_file_id=f"{files.PREFIX}{batch.input_file_id}",
        completion_window=batch.window,
        status=batch.state,
        output_file_id=_file(batch.output_file_id),
        error_file_id=_file(batch.error_file_id),
        created_at=int(batch.created_at.timestamp()),
        in_progress_at=_unix(batch.in_progress_at),
        expires_at=int(batch.expires_at.timestamp()),
        finalizing_at=_unix(batch.finalizing_at),
        completed_at=_unix(batch.completed_at),
        failed_at=_unix(batch.failed_at),
        expired_at=_unix(batch.expired_at),
        cancelling_at=_unix(batch.cancelling_at),
        cancelled_at=_unix(batch.cancelled_at),
        request_counts=RequestCounts(
            total=batch.total, completed=batch.completed, failed=batch.failed
        ),
        usage=_usage(batch),
        metadata=batch.metadata,
    )


def _errors(batch: BatchRecord) -> BatchInputErrors | None:
    if not batch.errors:
        return None
    return BatchInputErrors(data=tuple(map(_error, batch.errors)))


def _error(mistake: dict[str, Any]) -> BatchInputError:
    return BatchInputError(
        code=mistake["code"],
        message=mistake["message"],
        param=mistake["param"],
        line=mistake["line"],
    )


def _usage(batch: BatchRecord) -> BatchUsage:
    used = batch.usage
    return BatchUsage(
        input_tokens=used.prompt_tokens,
        input_tokens_details=InputTokenDetails(cached_tokens=used.cached_tokens),
        output_tokens=used.completion_tokens,
        total_tokens=used.prompt_tokens + used.completion_tokens,
    )


def _file(file_id: str | None) -> str | None:
    return None if file_id is None else f"{files.PREFIX}{file_id}"


def _unix(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())
