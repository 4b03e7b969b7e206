"""How the API's JSON is written in full and read leniently."""

from typing import Annotated, Generic, TypeVar

import msgspec

from genie.contracts import codec
from genie.errors import CodecError

A = TypeVar("A")

NEVER_NULL = msgspec.Meta(extra_json_schema={"x-never-null": True})
"""Of a field that the cloud always knows; None is what a reader has who got none."""


class ApiObject(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Base of every JSON object of the HTTP API.

    The cloud writes every field, nulls included; only a field whose default is UNSET is
    left out until it is set. A reader ignores fields it does not know, and takes the
    default of a field that an older cloud does not send.
    """


class ListAnswer(
    ApiObject, Generic[A], frozen=True, tag_field="object", tag="list", gc=False
):
    """A list of things of one type."""

    data: tuple[A, ...] = ()


class PageAnswer(ListAnswer[A], Generic[A], frozen=True, gc=False):
    """One page of a list."""

    has_more: bool = False


class CursorPage(PageAnswer[A], Generic[A], frozen=True, gc=False):
    """One page of a list, with the ids that the pages beside it begin at."""

    first_id: str | None = None
    last_id: str | None = None


class ApiError(ApiObject, frozen=True):
    """What went wrong; all four keys are always there."""

    message: Annotated[
        str, msgspec.Meta(description="One sentence that ends with the next step.")
    ]
    type: str = ""
    param: Annotated[
        str | None, msgspec.Meta(description="The field, like messages[0].content.")
    ] = None
    code: str | None = None


class ErrorBody(ApiObject, frozen=True):
    """The body of every answer that is not a success."""

    error: ApiError


class FaultSummary(ApiObject, frozen=True):
    """Why a job did not complete, in short."""

    code: str = ""
    message: str = ""


class _AnyList(ApiObject, frozen=True):
    data: msgspec.Raw


def read(kind: type[A], body: bytes | str) -> A:
    """A JSON body as one answer; raises `CodecError` naming the field."""
    try:
        return codec.decoder(kind).decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        name = getattr(kind, "__name__", "answer")
        raise CodecError(
            f"the cloud's {name} cannot be read: {error}; "
            "does GENIE_URL point to a Genie cloud of the same release?"
        ) from error


def read_list(kind: type[A], body: bytes | str) -> tuple[A, ...]:
    """The items of a list: ``{"object": "list", "data": […]}`` or a plain array."""
    text = body.strip()
    is_array = text[:1] in (b"[", "[")
    items = body if is_array else bytes(read(_AnyList, body).data)
    try:
        return codec.decoder(tuple[kind, ...]).decode(items)  # type: ignore[valid-type]  # kind is a value here
    except msgspec.DecodeError as error:
        raise CodecError(
            f"the cloud's list of {kind.__name__} cannot be read: {error}; "
            "does GENIE_URL point to a Genie cloud of the same release?"
        ) from error


def from_contract(kind: type[A], value: object) -> A:
    """What a worker said, as the API says it: the fields of the same names.

    >>> from genie.api_types import JobFault
    >>> from genie.contracts.inference import Fault
    >>> from_contract(JobFault, Fault(code="poison", message="It ends workers."))
    JobFault(code='poison', message='It ends workers.', param=None, retryable=False)
    """
    codec.decoder(kind)  # convert needs what the decoder learns of the type
    return msgspec.convert(value, kind, from_attributes=True)
