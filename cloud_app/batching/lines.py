"""Lines of a batch's input: cut by byte offset, read as orders, answered in kind."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, BinaryIO

import msgspec
from pydantic import BaseModel, ValidationError

from cloud_app import asking, batches
from cloud_app.ordering import Mode, Order
from cloud_app.store.batch_records import BatchRecord
from cloud_app.store.records import JobRecord, KeyRecord
from cloud_app.web import answers, errors, json, orders
from cloud_app.web.embedding_shape import EmbeddingRequest
from cloud_app.web.shapes import ChatRequest, CompletionRequest
from genie import codec
from genie.errors import BadRequest

CHUNK_LINES = 200
CHUNK_BYTES = 4 * 1024 * 1024

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
SHAPES: dict[str, type[BaseModel]] = {
    CHAT: ChatRequest,
    TEXT: CompletionRequest,
    EMBEDDINGS: EmbeddingRequest,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the input that is not blank; ``number`` counts from 1."""

    number: int
    offset: int
    data: bytes


class BadLine(BadRequest):
    """A line that cannot be run as it is."""


class _Envelope(msgspec.Struct):
    custom_id: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    method: str
    url: str
    body: msgspec.Raw


class _Named(msgspec.Struct):
    custom_id: str
    body: msgspec.Raw


class _Encoded(msgspec.Struct):
    encoding_format: str = "float"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A line as it was meant; ``body`` has the shape of its endpoint."""

    custom_id: str
    endpoint: str
    body: BaseModel


def cut(
    source: BinaryIO,
    *,
    offset: int,
    after_line: int,
    most_bytes: int,
) -> Iterator[Line]:
    """The lines from a byte offset on; ``after_line`` is the number of the one before.

    A line longer than ``most_bytes`` is given in part, for `parse` to refuse.
    """
    source.seek(offset)
    number, is_inside = after_line, False
    while data := source.readline(most_bytes + 1):
        if not is_inside:
            number += 1
            if data.strip():
                yield Line(number=number, offset=offset, data=data)
        is_inside = not data.endswith(b"\n")
        offset += len(data)


def parse(line: Line, endpoint: str, *, most_bytes: int) -> Request:
    """What a line asks for; raises `BadLine`."""
    if len(line.data) > most_bytes:
        raise BadLine(
            f"the line is longer than {most_bytes} bytes; send less in one request",
            code="line_too_long",
        )
    envelope = _envelope(line.data)
    if envelope.method != "POST":
        raise BadLine("method must be POST", code="invalid_method", param="method")
    if envelope.url != endpoint:
        raise BadLine(
            f"url must be {endpoint}, the endpoint of this batch",
            code="mismatched_endpoint",
            param="url",
        )
    body = _body(endpoint, bytes(envelope.body))
    return Request(custom_id=envelope.custom_id, endpoint=endpoint, body=body)


def order(request: Request, batch: BatchRecord, key: KeyRecord, left_s: float) -> Order:
    """The order of a request; it may take the ``left_s`` of the batch's window."""
    made = _ORDERS[request.endpoint](request.body, key)
    return replace(
        made,
        mode=Mode.BATCH,
        deadline_s=left_s,
        metadata={
            **made.metadata,
            "batch_id": f"{batches.PREFIX}{batch.id}",
            "custom_id": request.custom_id,
        },
    )


def custom_id(line: Line) -> str:
    """The name a checked line goes by."""
    return codec.decoder(_Named).decode(line.data).custom_id


def answer(line: Line, endpoint: str, job: JobRecord) -> Mapping[str, object]:
    """The answer of a completed job, in the shape of the endpoint."""
    outcome = asking.outcome_of(job)
    if endpoint == EMBEDDINGS:
        body = codec.decoder(_Named).decode(line.data).body
        wanted = codec.decoder(_Encoded).decode(body)
        return answers.vectors(job, outcome, wanted.encoding_format)
    dialect = answers.CHAT if endpoint == CHAT else answers.TEXT
    return answers.whole(dialect, job, outcome)


def _envelope(data: bytes) -> _Envelope:
    try:
        return codec.decoder(_Envelope).decode(data)
    except (msgspec.ValidationError, RecursionError) as error:
        raise BadLine(str(error), code="invalid_request") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadLine(
            f"the line is not JSON: {error}", code="invalid_json_line"
        ) from error


def _body(endpoint: str, data: bytes) -> BaseModel:
    try:
        body = SHAPES[endpoint].model_validate(json.loads(data))
    except ValueError as error:
        raise _bad_body(error) from error
    if getattr(body, "stream", None) or getattr(body, "mode", None) not in _MODES:
        raise BadLine(
            "a batch neither streams nor has modes; leave stream and mode out",
            code="invalid_request",
            param="body.stream",
        )
    return body


_MODES = (None, "sync")


def _bad_body(error: ValueError) -> BadLine:
    if not isinstance(error, ValidationError):
        return BadLine(f"body: {error}", code="invalid_request", param="body")
    fault = errors.fault_of_body(error)
    param = f"body.{fault.param}" if fault.param else "body"
    return BadLine(fault.message, code=fault.code, param=param)


_ORDERS: dict[str, Callable[[Any, KeyRecord], Order]] = {
    CHAT: orders.of_chat,
    TEXT: orders.of_completion,
    EMBEDDINGS: orders.of_embedding,
}
"""Each takes the shape of its endpoint, hence Any."""
