"""Every error a caller sees, in OpenAI's shape: message, type, param and code."""

from typing import TYPE_CHECKING, Any

from flask import Flask, Response, g, request
from flask.typing import ResponseReturnValue
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException

from cloud_app.api.json import loads
from cloud_app.api.json import response as json_response
from genie import logs
from genie.api_types import ApiError, ErrorBody
from genie.contracts.inference import Fault
from genie.errors import GenieError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

log = logs.logger("web")

MAX_RETRY_AFTER_S = 120
"""OpenAI clients give up on a longer wait."""

TYPES = {401: "authentication_error", 403: "permission_error"}

CODES = {404: "not_found", 405: "method_not_allowed", 413: "message_too_large"}


RESPONSES: dict[int | str, Any] = dict.fromkeys((400, 401, 403, 404, 409, 413, 503))
"""Statuses of failures; `web.openapi` says what they hold."""

OF_WORK = RESPONSES | dict.fromkeys((500, 504))
"""Of an endpoint that waits for work: it failed, or did not end in time."""


def install(app: Flask) -> None:
    """Answer every error of this app in the one shape."""
    app.register_error_handler(GenieError, of_genie)
    app.register_error_handler(HTTPException, of_http)
    app.register_error_handler(Exception, of_anything)


def body(fault: Fault, status: int) -> ErrorBody:
    """A fault as the body a client expects.

    >>> body(Fault(code="no_capacity", message="No worker."), 503).error.type
    'server_error'
    """
    kind = "server_error" if status >= 500 else TYPES.get(status)
    return ErrorBody(
        error=ApiError(
            message=fault.message,
            type=kind or "invalid_request_error",
            param=fault.param,
            code=fault.code,
        )
    )


def fault_of(error: GenieError) -> Fault:
    """What a product error says, as data."""
    return Fault(
        code=error.error_code,
        message=error.message,
        param=error.param,
        retryable=error.retryable,
    )


def answer(fault: Fault, status: int, retry_after_s: float | None = None) -> Response:
    """A fault as an HTTP response; 503 says when to come again."""
    response = json_response(body(fault, status), status)
    if status == 503:
        wait = min(MAX_RETRY_AFTER_S, max(1, round(retry_after_s or 2)))
        response.headers["Retry-After"] = str(wait)
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="genie"'
    return response


def of_genie(error: GenieError) -> Response:
    """The answer to an error the product raised on purpose."""
    return answer(fault_of(error), error.http_status, error.retry_after_s)


def of_http(error: HTTPException) -> ResponseReturnValue:
    """The answer to an error of the HTTP layer: no such path, body too large."""
    if error.response is not None:  # made by us: a body that failed its checks
        return error.get_response()
    status = error.code or 500
    fault = Fault(code=CODES.get(status, "invalid_request"), message=_sentence(error))
    response = answer(fault, status)
    for name, value in error.get_headers():
        if name == "Allow":
            response.headers[name] = value
    return response


def _sentence(error: HTTPException) -> str:
    if error.code == 404:
        return f"There is nothing at {request.path}; see /openapi for what there is."
    if error.code == 405:
        return f"{request.path} does not take {request.method}; see /openapi."
    if error.code == 413:
        limit = request.max_content_length
        return f"The body is larger than {limit} bytes; send less in one request."
    return error.description or error.name


def of_anything(error: Exception) -> Response:
    """The answer to a mistake of ours: logged with its id, shown without a detail."""
    return answer(unforeseen(error, g.get("request_id", "-")), 500)


def unforeseen(error: Exception, request_id: str) -> Fault:
    """Log a mistake of ours and say what the caller may know of it."""
    log.error("unforeseen", request_id=request_id, exc_info=error)
    return Fault(
        code="internal_error",
        message=f"Something broke on our side; it is logged as request {request_id}.",
    )


def of_validation(error: ValidationError) -> Response:
    """The answer to a body that does not have the shape its endpoint takes."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "model_type" and not first["loc"]:
        return answer(_malformed(), 400)
    return answer(fault_of_body(error), 400)


def fault_of_body(error: ValidationError) -> Fault:
    """The first mistake of a body, as data."""
    first = error.errors(include_url=False, include_input=False)[0]
    param = path(first)
    message = f"{param}: {_message(first)}" if param else _message(first)
    code = "invalid_request"
    if first["type"] == "unsupported":
        code = "unsupported_parameter"
    return Fault(code=code, message=message, param=param)


def _message(error: "ErrorDetails") -> str:
    text = error["msg"]
    return text if text.endswith((".", "?")) else f"{text}."


def _malformed() -> Fault:
    try:
        loads(request.get_data())
    except ValueError as error:
        return Fault(code="invalid_json", message=f"The body is not JSON: {error}.")
    return Fault(code="invalid_json", message="The body must be a JSON object.")


def path(error: "ErrorDetails") -> str | None:
    """Where in the body an error is, like ``messages[0].content[1].type``."""
    text = ""
    for part in error["loc"]:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part != "[key]":
            text += f".{part}" if text else part
    return f"{text}{error.get('ctx', {}).get('at', '')}" or None
