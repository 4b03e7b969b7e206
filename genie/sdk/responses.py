"""Turns HTTP error responses into the product's error classes."""

from collections.abc import Iterator, Mapping

import msgspec

from genie import errors
from genie.api_types import ApiError, ErrorBody, JobFault
from genie.contracts import codec
from genie.errors import GenieError

BY_STATUS: Mapping[int, type[GenieError]] = {
    400: errors.BadRequest,
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    405: errors.BadRequest,
    409: errors.Conflict,
    413: errors.TooLarge,
    422: errors.BadRequest,
    429: errors.RateLimited,
    500: errors.JobFailed,
    502: errors.Unavailable,
    503: errors.Unavailable,
    504: errors.Unavailable,
}
"""The class of a response whose body names no code of ours, such as a proxy's."""

NEXT_STEPS: tuple[tuple[type[GenieError], str], ...] = (
    (errors.Unauthorized, "set GENIE_API_KEY to a valid key (`genie keys create`)"),
    (errors.Forbidden, "use a key with the admin flag (`genie keys create --admin`)"),
    (errors.UnknownModel, "list the models with `genie models`"),
    (errors.UnknownJob, "list your org's jobs with `genie jobs`"),
    (errors.Conflict, "send another Idempotency-Key"),
    (errors.NoCapacity, "add a machine with `genie worker join`"),
    (errors.Unavailable, "try again soon; `genie doctor` says what is wrong"),
)
"""Next steps, first match wins; used when the cloud's message names none."""


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> GenieError:
    """The error of a response with a status of 400 or more.

    ``headers`` are looked up in lower case. The class follows the body's ``code``,
    otherwise the status; ``request_id`` and ``retry_after_s`` come from the headers.
    """
    trouble = trouble_in(body) or ApiError(
        message=f"the answer was HTTP {status} without an error of ours; "
        "does GENIE_URL point to a Genie cloud, not to a proxy's page?"
    )
    fallback = BY_STATUS.get(status, GenieError)
    if status == 504 and trouble.code:  # ours; a proxy's names no code
        fallback = errors.JobTimeout
    return error_from_body(
        trouble,
        fallback,
        request_id=headers.get("x-request-id"),
        retry_after_s=_seconds(headers.get("retry-after")),
    )


def error_from_body(
    trouble: ApiError | JobFault,
    fallback: type[GenieError],
    *,
    request_id: str | None = None,
    retry_after_s: float | None = None,
) -> GenieError:
    """An error of the class that ``trouble.code`` names, or of ``fallback``."""
    kind = errors_by_code().get(trouble.code or "", fallback)
    return kind(
        with_next_step(trouble.message, kind),
        param=trouble.param,
        code=trouble.code,
        request_id=request_id,
        retry_after_s=retry_after_s,
    )


def errors_by_code() -> dict[str, type[GenieError]]:
    """All error classes by their code on the wire."""
    known: dict[str, type[GenieError]] = {"internal_error": GenieError}
    for kind in _tree(GenieError):
        known.setdefault(kind.code, kind)  # a class that adds no code is not meant
    return known


def with_next_step(message: str, kind: type[GenieError]) -> str:
    """``message`` with the next step at its end, unless it names one.

    >>> with_next_step("wrong key", errors.Unauthorized)
    'wrong key; set GENIE_API_KEY to a valid key (`genie keys create`)'
    >>> with_next_step("no such job; see `genie jobs list`", errors.UnknownJob)
    'no such job; see `genie jobs list`'
    """
    if ";" in message or "`" in message:
        return message
    for listed, step in NEXT_STEPS:
        if issubclass(kind, listed):
            return f"{message.rstrip('.')}; {step}"
    return message


def _tree(kind: type[GenieError]) -> Iterator[type[GenieError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


def trouble_in(body: bytes | str) -> ApiError | None:
    """The error that a body tells of, None when it is no error's."""
    try:
        return codec.decoder(ErrorBody).decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _seconds(value: str | None) -> float | None:
    if value is None or not value.strip().replace(".", "", 1).isdigit():
        return None  # the other form, a date, is not one our cloud sends
    return float(value)
