"""Whatever arrives, the answer says what is wrong in the one shape, with an id.

Against the real server: some of this never reaches the application of a unit test.
"""

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx2
import pytest

from fixtures.fleet import Fleet
from fixtures.shop import MODEL

pytestmark = pytest.mark.timeout(240)  # of the first, the fleet's start is part

CHAT = "/v1/chat/completions"
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
DEEP = b"[" * 50_000


@pytest.fixture
def http(fleet: Fleet) -> Iterator[httpx2.Client]:
    """A plain client with the admin key."""
    headers = {"Authorization": f"Bearer {fleet.api_key}"}
    with httpx2.Client(base_url=fleet.url, headers=headers, timeout=30) as opened:
        yield opened


def said(answer: httpx2.Response, status: int) -> dict[str, object]:
    """The error of an answer, whose shape and headers are checked."""
    assert answer.status_code == status, answer.text
    assert answer.headers["x-request-id"]
    error: dict[str, object] = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    if status in (429, 503):
        assert 1 <= int(answer.headers["retry-after"]) <= 120
    return error


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", CHAT),
        ("PUT", CHAT),
        ("TRACE", CHAT),
        ("POST", "/v1/models"),
        ("DELETE", "/v1/files"),
        ("GET", "/fleet/v1/register"),
    ],
)
def test_another_method_is_a_405_that_says_which_there_are(
    http: httpx2.Client, method: str, path: str
) -> None:
    answer = http.request(method, path)
    assert said(answer, 405)["code"] == "method_not_allowed"
    assert "OPTIONS" in answer.headers["allow"]
    assert method not in answer.headers["allow"]


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
@pytest.mark.parametrize("path", ["/v1/nothing", "/fleet/v1/nothing", "/nothing"])
def test_an_unknown_path_is_a_404(http: httpx2.Client, method: str, path: str) -> None:
    assert said(http.request(method, path), 404)["code"] == "not_found"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/jobs", "/v1/files", "/livez"])
def test_head_says_what_get_would_without_a_body(
    http: httpx2.Client, path: str
) -> None:
    answer = http.head(path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["x-request-id"]
    assert int(answer.headers["content-length"]) > 0


def test_options_says_what_a_path_takes(http: httpx2.Client) -> None:
    answer = http.options(CHAT)
    assert answer.status_code == 200
    assert {*answer.headers["allow"].split(", ")} == {"POST", "OPTIONS"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b'"{}"', "invalid_json"),
        (b"null", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b'{"a": NaN}', "invalid_json"),
        (DEEP, "invalid_json"),
        (b'{"model": "m", "messages": ' + DEEP, "invalid_json"),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', "invalid_json"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "invalid_json"),
        (b"{}", "invalid_request"),
        (b'{"model": "\\u0000", "messages": []}', "invalid_request"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/v1/batches"])
def test_a_body_that_makes_no_sense_is_a_400(
    http: httpx2.Client, path: str, body: bytes, code: str
) -> None:
    assert said(http.post(path, content=body), 400)["code"] == code


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_json_is_taken_whatever_it_is_called(http: httpx2.Client, kind: str) -> None:
    headers = {"Content-Type": kind}
    answer = http.post(CHAT, content=json.dumps(ASK).encode(), headers=headers)
    assert answer.status_code == 200


def test_a_file_that_is_no_form_is_a_400(http: httpx2.Client) -> None:
    assert said(http.post("/v1/files", json={}), 400)["param"] == "file"
    form = {"Content-Type": "multipart/form-data"}
    empty = http.post("/v1/files", content=b"", headers=form)
    assert said(empty, 400)["param"] == "file"


def test_a_body_that_is_too_large_is_a_413(http: httpx2.Client) -> None:
    answer = http.post(CHAT, content=b"x" * 4_000_000)
    assert said(answer, 413)["code"] == "message_too_large"


@pytest.mark.parametrize(
    "credential", ["", "Bearer", "Basic abc", "Bearer sk-genie-acme-nobody", "Bearer é"]
)
def test_a_credential_that_is_none_is_a_401(fleet: Fleet, credential: str) -> None:
    headers = httpx2.Headers([(b"Authorization", credential.encode())])
    for path in ("/v1/models", "/v1/workers"):
        answer = httpx2.get(f"{fleet.url}{path}", headers=headers)
        assert said(answer, 401)["type"] == "authentication_error"
        assert answer.headers["www-authenticate"].startswith("Bearer")
    url = f"{fleet.url}/fleet/v1/heartbeat"
    said(httpx2.post(url, headers=headers, content=b"{}"), 401)


def test_an_id_of_a_request_is_kept_and_a_bad_one_replaced(
    http: httpx2.Client,
) -> None:
    mine = http.get("/v1/models", headers={"X-Request-Id": "mine-1"})
    assert mine.headers["x-request-id"] == "mine-1"
    bad = http.get("/v1/models", headers={"X-Request-Id": "no spaces"})
    assert bad.headers["x-request-id"].startswith("req_")


def test_a_stream_has_its_id_before_its_first_event(http: httpx2.Client) -> None:
    with http.stream("POST", CHAT, json=ASK | {"stream": True}) as answer:
        assert answer.headers["x-request-id"]
        assert answer.headers["x-genie-job-id"]
        assert answer.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize(
    "head", [b"Content-Length: -1", b"Content-Length: x", b"Transfer-Encoding: no"]
)
def test_what_is_no_http_is_refused_and_the_server_lives(
    fleet: Fleet, http: httpx2.Client, head: bytes
) -> None:
    place = urlsplit(fleet.url)
    with socket.create_connection((place.hostname, place.port or 80), 10) as raw:
        raw.sendall(b"POST " + CHAT.encode() + b" HTTP/1.1\r\n" + head + b"\r\n\r\n{}")
        status = int(raw.recv(1000).split()[1])
    assert 400 <= status < 600
    assert http.get("/livez").status_code == 200
