"""Files over HTTP: uploaded in pieces, read back, another org's unseen."""

import hashlib
import io
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from openai.types import FileDeleted, FileObject

from cloud_app.batches import batches
from cloud_app.context import Context
from cloud_app.files import files
from cloud_app.orgs import auth
from cloud_app.store.records import KeyRecord
from fixtures import web
from fixtures.batches import jsonl, line
from genie.errors import TooLarge

DATA = jsonl(line(n) for n in range(3))


def send(client: FlaskClient, data: bytes = DATA, purpose: str = "batch") -> Any:
    form = {"file": (io.BytesIO(data), "work.jsonl"), "purpose": purpose}
    return client.post("/v1/files", data=form)


@pytest.fixture
def stranger(app: Flask, ctx: Context) -> FlaskClient:
    """A client of another org."""
    auth.ensure_org(ctx, "rival", "Rival")
    _key, secret = auth.create_key(ctx, "rival", "theirs", is_admin=True)
    made = app.test_client()
    made.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {secret}"
    return made


def test_an_uploaded_file_reads_back_the_same(client: FlaskClient) -> None:
    response = send(client)
    assert response.status_code == 200
    file = FileObject.model_validate(response.get_json())
    assert (file.filename, file.bytes, file.purpose) == (
        "work.jsonl",
        len(DATA),
        "batch",
    )
    assert response.get_json()["sha256"] == hashlib.sha256(DATA).hexdigest()

    content = client.get(f"/v1/files/{file.id}/content")
    assert content.data == DATA
    assert content.headers["Content-Length"] == str(len(DATA))
    again = client.get(f"/v1/files/{file.id}").get_json()
    assert FileObject.model_validate(again) == file


def test_files_are_listed_newest_first_page_by_page(client: FlaskClient) -> None:
    sent = [send(client).get_json()["id"] for _ in range(3)]
    page = client.get("/v1/files?limit=2").get_json()
    assert page["has_more"]
    rest = client.get(f"/v1/files?limit=2&after={page['last_id']}").get_json()
    ids = [file["id"] for file in (*page["data"], *rest["data"])]
    assert sorted(ids) == sorted(sent)
    assert not rest["has_more"]
    assert client.get("/v1/files?purpose=batch_output").get_json()["data"] == []


def test_a_deleted_file_is_gone(client: FlaskClient, ctx: Context) -> None:
    file_id = send(client).get_json()["id"]
    gone = client.delete(f"/v1/files/{file_id}")
    assert FileDeleted.model_validate(gone.get_json()).deleted
    assert client.get(f"/v1/files/{file_id}").status_code == 404
    assert client.get(f"/v1/files/{file_id}/content").status_code == 404


def test_another_org_sees_none_of_it(
    client: FlaskClient, stranger: FlaskClient
) -> None:
    file_id = send(client).get_json()["id"]
    for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
        assert stranger.get(path).status_code == 404
    assert stranger.delete(f"/v1/files/{file_id}").status_code == 404
    assert stranger.get("/v1/files").get_json()["data"] == []
    body = batch_body(file_id)
    assert stranger.post("/v1/batches", json=body).status_code == 404


def batch_body(file_id: str, **more: object) -> dict[str, object]:
    return {
        "input_file_id": file_id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        **more,
    }


def test_a_file_a_batch_reads_is_kept(client: FlaskClient) -> None:
    file_id = send(client).get_json()["id"]
    assert client.post("/v1/batches", json=batch_body(file_id)).status_code == 200
    refused = client.delete(f"/v1/files/{file_id}")
    assert refused.status_code == 409
    assert refused.get_json()["error"]["code"] == "file_in_use"


def test_a_file_over_the_limit_is_refused_and_leaves_nothing(ctx: Context) -> None:
    key = some_key(ctx)
    small = replace(ctx, settings=replace(ctx.settings, max_file_bytes=2500))
    with pytest.raises(TooLarge, match="split it"):
        files.upload(
            small, key, filename="big", purpose="batch", pieces=[b"x" * 1000] * 3
        )
    assert files.find(ctx, key) == ()
    assert files.of(ctx).names(f"{key.org.id}/files") == ()


def some_key(ctx: Context) -> KeyRecord:
    return web.key(ctx)[0]


def test_an_upload_without_a_file_or_a_purpose_says_what_is_missing(
    client: FlaskClient, visitor: FlaskClient
) -> None:
    missing = client.post("/v1/files", data={"purpose": "batch"})
    assert missing.status_code == 400
    assert missing.get_json()["error"]["param"] == "file"
    other = send(client, purpose="fine-tune")
    assert other.status_code == 400
    assert other.get_json()["error"]["param"] == "purpose"
    assert send(visitor).status_code == 401


def test_files_past_their_time_are_forgotten(client: FlaskClient, ctx: Context) -> None:
    send(client)
    key = some_key(ctx)
    (file,) = files.find(ctx, key)
    assert files.expire(ctx) == 0
    ctx.now.pass_s(ctx.settings.files_retain_h * 3600 + 1)  # type: ignore[attr-defined]  # the tests' clock
    assert files.expire(ctx) == 1
    assert files.find(ctx, key) == ()
    assert files.of(ctx).names(f"{key.org.id}/files") == ()
    assert file.purpose == batches.PURPOSE


def test_files_are_listed_oldest_first_when_asked(client: FlaskClient) -> None:
    sent = sorted(send(client).get_json()["id"] for _ in range(3))
    page = client.get("/v1/files?order=asc&limit=2").get_json()
    assert [one["id"] for one in page["data"]] == sent[:2]
    after = client.get(f"/v1/files?order=asc&after={page['last_id']}").get_json()
    assert [one["id"] for one in after["data"]] == sent[2:]


@pytest.mark.parametrize(("seconds", "kept_s"), [(3600, 3600), (2_592_000, None)])
def test_a_file_goes_when_its_owner_says_but_no_later_than_the_cloud_says(
    client: FlaskClient, ctx: Context, seconds: int, kept_s: int | None
) -> None:
    form = {
        "file": (io.BytesIO(DATA), "work.jsonl"),
        "purpose": "batch",
        "expires_after[anchor]": "created_at",
        "expires_after[seconds]": str(seconds),
    }
    file = client.post("/v1/files", data=form).get_json()
    most_s = ctx.settings.files_retain_h * 3600
    assert file["expires_at"] - file["created_at"] == min(kept_s or most_s, most_s)


def test_an_expiry_that_is_too_short_names_its_field(client: FlaskClient) -> None:
    form = {
        "file": (io.BytesIO(DATA), "work.jsonl"),
        "purpose": "batch",
        "expires_after[seconds]": "60",
    }
    answer = client.post("/v1/files", data=form)
    assert answer.status_code == 400
    assert answer.get_json()["error"]["param"] == "expires_after[seconds]"
