"""Reads a batch's lines: cuts them by byte offset, turns them into orders."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, BinaryIO

import msgspec
from msgspec import structs
from pydantic import BaseModel, ValidationError

from cloud_app.api import errors, json, orders, responses
from cloud_app.api.orders import Mode, Order
from cloud_app.api.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from cloud_app.batches import batches
from cloud_app.jobs import stream
from cloud_app.store.records import BatchRecord, JobRecord, KeyRecord
from genie.api_types import AnyCompletion, EmbeddingsAnswer
from genie.contracts import codec
from genie.errors import BadRequest

CHUNK_LINES = 200
CHUNK_BYTES = 4 * 1024 * 1024

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
_ENDPOINTS: dict[str, tuple[type[BaseModel], Callable[[Any, KeyRecord], Order]]] = {
    CHAT: (ChatRequest, orders.of_chat),
    TEXT: (CompletionRequest, orders.of_completion),
    EMBEDDINGS: (EmbeddingRequest, orders.of_embedding),
}
"""The request type of an endpoint, and the order it makes, hence Any."""

_MODES = (None, "sync")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLine:
    """A line of the input that is not blank; ``number`` counts from 1."""

    number: int
    offset: int
    data: bytes


class BadBatchLine(BadRequest):
    """A line that cannot run as it is."""


class _RequestLine(msgspec.Struct):
    custom_id: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    method: str
    url: str
    body: msgspec.Raw


class _CustomIdLine(msgspec.Struct):
    custom_id: str
    body: msgspec.Raw


class _EncodingFormat(msgspec.Struct):
    encoding_format: str = "float"


@dataclass(frozen=True, slots=True, kw_only=True)
class LineRequest:
    """A parsed line; ``body`` is the request type of its endpoint."""

    custom_id: str
    body: BaseModel


def split_lines(
    source: BinaryIO, *, most_bytes: int, offset: int = 0, after_line: int = 0
) -> Iterator[BatchLine]:
    """The lines from a byte offset on; ``after_line`` is the previous line's number.

    A line longer than ``most_bytes`` is cut, so that `parse` refuses it.
    """
    source.seek(offset)
    number, is_inside = after_line, False
    while data := source.readline(most_bytes + 1):
        if not is_inside:
            number += 1
            if data.strip():
                yield BatchLine(number=number, offset=offset, data=data)
        is_inside = not data.endswith(b"\n")
        offset += len(data)


def parse(line: BatchLine, endpoint: str, *, most_bytes: int) -> LineRequest:
    """The request of a line; raises `BadBatchLine`."""
    if len(line.data) > most_bytes:
        raise BadBatchLine(
            f"the line is longer than {most_bytes} bytes; send less in one request",
            code="line_too_long",
        )
    envelope = _envelope(line.data)
    if envelope.method != "POST":
        raise BadBatchLine("method must be POST", code="invalid_method", param="method")
    if envelope.url != endpoint:
        raise BadBatchLine(
            f"url must be {endpoint}, the endpoint of this batch",
            code="mismatched_endpoint",
            param="url",
        )
    body = _body(endpoint, bytes(envelope.body))
    return LineRequest(custom_id=envelope.custom_id, body=body)


def order(
    request: LineRequest, batch: BatchRecord, key: KeyRecord, left_s: float
) -> Order:
    """The order of a request; ``left_s`` is what is left of the batch's window."""
    _shape, order_of = _ENDPOINTS[batch.endpoint]
    made = order_of(request.body, key)
    metadata = {
        **made.request.metadata,
        "batch_id": f"{batches.PREFIX}{batch.id}",
        "custom_id": request.custom_id,
    }
    return replace(
        made,
        mode=Mode.BATCH,
        deadline_s=left_s,
        request=structs.replace(made.request, metadata=metadata),
    )


def custom_id(line: BatchLine) -> str:
    """The custom_id of a checked line."""
    return codec.decoder(_CustomIdLine).decode(line.data).custom_id


def answer(
    line: BatchLine, endpoint: str, job: JobRecord
) -> AnyCompletion | EmbeddingsAnswer:
    """The answer of a completed job, in the shape of the endpoint."""
    outcome = stream.outcome_of(job)
    if endpoint == EMBEDDINGS:
        body = codec.decoder(_CustomIdLine).decode(line.data).body
        wanted = codec.decoder(_EncodingFormat).decode(body)
        return responses.vectors(job, outcome, wanted.encoding_format)
    dialect = responses.CHAT if endpoint == CHAT else responses.TEXT
    return responses.whole(dialect, job, outcome)


def _envelope(data: bytes) -> _RequestLine:
    try:
        return codec.decoder(_RequestLine).decode(data)
    except (msgspec.ValidationError, RecursionError) as error:
        raise BadBatchLine(str(error), code="invalid_request") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadBatchLine(
            f"the line is not JSON: {error}", code="invalid_json_line"
        ) from error


def _body(endpoint: str, data: bytes) -> BaseModel:
    shape, _order_of = _ENDPOINTS[endpoint]
    try:
        body = shape.model_validate(json.loads(data))
    except ValueError as error:
        raise _bad_body(error) from error
    if getattr(body, "stream", None) or getattr(body, "mode", None) not in _MODES:
        raise BadBatchLine(
            "a batch neither streams nor has modes; leave stream and mode out",
            code="invalid_request",
            param="body.stream",
        )
    return body


def _bad_body(error: ValueError) -> BadBatchLine:
    if not isinstance(error, ValidationError):
        return BadBatchLine(f"body: {error}", code="invalid_request", param="body")
    fault = errors.fault_of_body(error)
    param = f"body.{fault.param}" if fault.param else "body"
    return BadBatchLine(fault.message, code=fault.code, param=param)
