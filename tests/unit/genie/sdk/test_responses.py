"""HTTP error responses as error classes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genie import errors
from genie.api_types import ApiError
from genie.errors import GenieError
from genie.sdk.responses import error_from_body, error_of, errors_by_code


def body(code: str | None, message: str = "no") -> bytes:
    error = {"message": message, "type": "t", "param": "model", "code": code}
    return json.dumps({"error": error}).encode()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_request", errors.BadRequest),
        (400, "context_length_exceeded", errors.ContextTooLong),
        (401, "invalid_api_key", errors.Unauthorized),
        (403, "permission_denied", errors.Forbidden),
        (404, "model_not_found", errors.UnknownModel),
        (404, "job_not_found", errors.UnknownJob),
        (409, "idempotency_conflict", errors.Conflict),
        (409, "job_cancelled", errors.JobCancelled),
        (413, "message_too_large", errors.TooLarge),
        (429, "rate_limited", errors.RateLimited),
        (500, "internal_error", GenieError),
        (500, "engine_died", errors.JobFailed),
        (503, "no_capacity", errors.NoCapacity),
        (503, "broker_unavailable", errors.BrokerDown),
        (504, "job_timeout", errors.JobTimeout),
        (504, "deadline", errors.JobTimeout),
        (400, "a_new_code", errors.BadRequest),
        (503, None, errors.Unavailable),
        (504, None, errors.Unavailable),
        (418, None, GenieError),
    ],
)
def test_the_code_names_the_class_and_the_status_helps_out(
    status: int, code: str | None, kind: type[GenieError]
) -> None:
    error = error_of(status, {}, body(code))
    assert type(error) is kind
    assert error.param == "model"
    assert error.error_code == (code or kind.code)


def test_every_class_of_the_tree_is_reached_by_its_code() -> None:
    known = errors_by_code()
    assert known["cloud_unreachable"] is errors.CloudUnreachable
    assert known["job_failed"] is errors.JobFailed


def test_the_request_id_and_the_wait_come_from_the_headers() -> None:
    headers = {"x-request-id": "req_1", "retry-after": "15"}
    error = error_of(503, headers, body("no_capacity"))
    assert error.request_id == "req_1"
    assert error.retry_after_s == 15.0


@pytest.mark.parametrize("value", ["Wed, 21 Oct 2026 07:28:00 GMT", "", "-1"])
def test_a_wait_that_is_no_number_is_left_out(value: str) -> None:
    assert error_of(503, {"retry-after": value}, b"").retry_after_s is None


def test_a_message_without_a_next_step_gets_one() -> None:
    error = error_of(401, {}, body("invalid_api_key", "The key is wrong."))
    assert error.message.startswith("The key is wrong; set GENIE_API_KEY")


def test_a_message_that_says_what_to_do_stays_as_it_is() -> None:
    said = "there is no model 'qwen'; did you mean qwen3:4b?"
    assert error_of(404, {}, body("model_not_found", said)).message == said


def test_a_fault_of_a_job_becomes_the_class_of_its_code() -> None:
    trouble = ApiError(message="no", code="context_length_exceeded")
    assert type(error_from_body(trouble, errors.JobFailed)) is errors.ContextTooLong


@given(status=st.integers(400, 599), content=st.binary())
def test_any_response_becomes_an_error_with_a_sentence(
    status: int, content: bytes
) -> None:
    error = error_of(status, {}, content)
    assert isinstance(error, GenieError)
    assert error.message
