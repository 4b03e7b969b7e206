from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from cloud_app.api import errors
from cloud_app.jobs import lifecycle
from genie.errors import (
    Conflict,
    Forbidden,
    GenieError,
    NoCapacity,
    Unauthorized,
    UnknownModel,
)


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (Unauthorized("x"), 401, "authentication_error"),
        (Forbidden("x"), 403, "permission_error"),
        (UnknownModel("x", param="model"), 404, "invalid_request_error"),
        (Conflict("x"), 409, "invalid_request_error"),
        (NoCapacity("x"), 503, "server_error"),
    ],
)
def test_every_product_error_has_openais_four_keys(
    app: Flask, error: GenieError, status: int, kind: str
) -> None:
    with app.test_request_context():
        response = errors.of_genie(error)

    assert response.status_code == status
    assert response.get_json()["error"] == {
        "message": "x",
        "type": kind,
        "param": error.param,
        "code": error.code,
    }


@pytest.mark.parametrize(("seconds", "header"), [(None, "2"), (0.2, "1"), (999, "120")])
def test_a_wait_is_never_longer_than_clients_are_ready_to_wait(
    app: Flask, seconds: float | None, header: str
) -> None:
    with app.test_request_context():
        response = errors.of_genie(NoCapacity("x", retry_after_s=seconds))

    assert response.headers["Retry-After"] == header


def test_paths_and_methods_that_do_not_exist_are_errors_of_the_same_shape(
    client: FlaskClient,
) -> None:
    missing = client.get("/v2/nothing")
    wrong = client.get("/v1/chat/completions")

    assert (missing.status_code, wrong.status_code) == (404, 405)
    assert missing.get_json()["error"]["code"] == "not_found"
    assert "POST" in wrong.headers["Allow"]
    assert missing.headers["x-request-id"]


def test_a_mistake_of_ours_is_500_with_an_id_and_no_detail(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(lifecycle, "find", broken)
    response = client.get("/v1/jobs", headers={"X-Request-Id": "mine"})

    assert response.status_code == 500
    assert "mine" in response.get_json()["error"]["message"]
    assert "secret" not in response.text


@pytest.mark.parametrize(
    "url", ["/v1/jobs?persona=%00", "/v1/jobs/%00", "/v1/files?after=a%00b", "/%00"]
)
def test_a_nul_in_the_url_is_a_400(visitor: FlaskClient, url: str) -> None:
    answer = visitor.get(url)
    assert answer.status_code == 400
    error = answer.get_json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert "%00" in error["message"]


def test_a_compressed_body_is_refused_by_its_header(client: FlaskClient) -> None:
    answer = client.post(
        "/v1/chat/completions", data=b"\x1f\x8b", headers={"Content-Encoding": "gzip"}
    )
    assert answer.status_code == 400
    assert answer.get_json()["error"]["param"] == "Content-Encoding"


@pytest.mark.parametrize("body", [b'"a text"', b"[]", b"null", b"7", b"true"])
def test_a_body_that_is_no_object_is_said_to_be_none(
    client: FlaskClient, body: bytes
) -> None:
    answer = client.post("/v1/chat/completions", data=body)
    assert answer.status_code == 400
    assert answer.get_json()["error"]["code"] == "invalid_json"
