"""Every error the product raises on purpose.

    GenieError
    ├── SettingsError          a wrong or missing environment variable (all at once)
    ├── CatalogError           a catalog file with a mistake: file, line, field
    ├── CodecError             a message that is not what its contract says
    ├── BadRequest        400  invalid_request, names the field
    │   ├── ContextTooLong     context_length_exceeded, with both numbers
    │   └── TooLarge      413  message_too_large
    ├── Unauthorized      401  invalid_api_key
    ├── Forbidden         403  permission_denied
    ├── NotFound          404  not_found
    │   ├── UnknownModel       model_not_found, with suggestions
    │   └── UnknownJob         job_not_found
    ├── Conflict          409  idempotency_conflict
    ├── RateLimited       429  rate_limited (retryable)
    ├── Unavailable       503  unavailable (retryable)
    │   ├── NoCapacity         no_capacity: no machine can serve it now
    │   ├── BrokerDown         broker_unavailable
    │   ├── DatabaseDown       database_unavailable
    │   └── CloudUnreachable   cloud_unreachable, seen from the SDK
    └── JobError          500  the work itself did not succeed
        ├── JobFailed          job_failed
        │   └── AnswerMismatch answer_mismatch, with the text; seen from the SDK
        ├── JobCancelled  409  job_cancelled
        └── JobTimeout    504  job_timeout

Each class knows its ``code``, its ``http_status`` and whether a retry can help.

>>> try:
...     genie.ask("Hello", model="no-such-model")
... except genie.errors.UnknownModel as error:
...     print(error.code, error.param, error.request_id[:4])
model_not_found model req_
"""

from typing import Any, ClassVar


class GenieError(Exception):
    """Base of all; ``str(error)`` is one sentence that ends with the next step."""

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.error_code = code or self.code
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class SettingsError(GenieError):
    """One or more environment variables are wrong or missing."""

    code = "invalid_settings"


class CatalogError(GenieError):
    """A catalog file has a mistake."""

    code = "invalid_catalog"


class CodecError(GenieError):
    """A message does not match its contract."""

    code = "invalid_message"
    http_status = 400


class BadRequest(GenieError):
    """The request cannot be served as it is; ``param`` names the field."""

    code = "invalid_request"
    http_status = 400


class ContextTooLong(BadRequest):
    """The prompt does not fit the model's context."""

    code = "context_length_exceeded"


class TooLarge(BadRequest):
    """The message is over the size limit."""

    code = "message_too_large"
    http_status = 413


class Unauthorized(GenieError):
    """The key is missing, wrong or revoked."""

    code = "invalid_api_key"
    http_status = 401


class Forbidden(GenieError):
    """The key is valid but may not do this."""

    code = "permission_denied"
    http_status = 403


class NotFound(GenieError):
    """It does not exist, or it belongs to another org."""

    code = "not_found"
    http_status = 404


class UnknownModel(NotFound):
    """Neither a model, a tier nor a persona has this name."""

    code = "model_not_found"


class UnknownJob(NotFound):
    """There is no such job in this org."""

    code = "job_not_found"


class Conflict(GenieError):
    """The idempotency key was used for another body."""

    code = "idempotency_conflict"
    http_status = 409


class RateLimited(GenieError):
    """Too many requests for this key."""

    code = "rate_limited"
    http_status = 429
    retryable = True


class Unavailable(GenieError):
    """Temporarily unavailable; ``retry_after_s`` says when to try again."""

    code = "unavailable"
    http_status = 503
    retryable = True


class NoCapacity(Unavailable):
    """No machine of the fleet can serve this now."""

    code = "no_capacity"


class BrokerDown(Unavailable):
    """The message broker cannot be reached or refuses publishes."""

    code = "broker_unavailable"


class DatabaseDown(Unavailable):
    """The database cannot be reached."""

    code = "database_unavailable"


class CloudUnreachable(Unavailable):
    """The SDK cannot reach the cloud."""

    code = "cloud_unreachable"


class JobError(GenieError):
    """The work itself did not succeed."""

    code = "job_error"


class JobFailed(JobError):
    """The job ended with a fault."""

    code = "job_failed"


class AnswerMismatch(JobFailed):
    """The answer does not match the requested schema; ``text`` is the answer."""

    code = "answer_mismatch"

    def __init__(self, message: str, *, text: str = "", **details: Any) -> None:
        super().__init__(message, **details)
        self.text = text


class JobCancelled(JobError):
    """The job was cancelled before it completed."""

    code = "job_cancelled"
    http_status = 409


class JobTimeout(JobError):
    """The job passed its deadline."""

    code = "job_timeout"
    http_status = 504
