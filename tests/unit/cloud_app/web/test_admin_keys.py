"""What only an admin key may do: every such path, tried with an ordinary key."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from cloud_app.context import Context
from fixtures import web

ADMIN = {
    *("get /v1/dead-letters", "get /v1/dead-letters/{letter_id}"),
    *("delete /v1/dead-letters/{letter_id}", "get /v1/fleet"),
    *("post /v1/dead-letters/{letter_id}/replay", "post /v1/join-tokens"),
    *("get /v1/keys", "post /v1/keys", "delete /v1/keys/{key_id}"),
    *("get /v1/queues", "get /v1/retention", "put /v1/retention", "get /v1/workers"),
}
"""One that is new is added here, and so tried below."""


@pytest.fixture
def user(app: Flask, ctx: Context) -> FlaskClient:
    """A client with a key that is no admin's."""
    made = app.test_client()
    _, secret = web.key(ctx, is_admin=False)
    made.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {secret}"
    return made


def operations(document: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation["tags"]


def test_the_description_says_which_paths_need_an_admin_key(
    visitor: FlaskClient,
) -> None:
    described = operations(visitor.get("/openapi").get_json())
    assert {name for name, tags in described if "admin" in tags} == ADMIN


@pytest.mark.parametrize("operation", sorted(ADMIN))
def test_an_ordinary_key_is_refused_with_who_to_ask(
    user: FlaskClient, operation: str
) -> None:
    method, path = operation.split()
    response = user.open(path, method=method.upper())
    error = response.get_json()["error"]

    assert (response.status_code, error["type"]) == (403, "permission_error")
    assert "admin key" in error["message"]


def test_what_needs_no_admin_key_is_open_to_an_ordinary_one(
    user: FlaskClient,
) -> None:
    for name, tags in operations(user.get("/openapi").get_json()):
        method, path = name.split()
        if "admin" not in tags:
            assert user.open(path, method=method.upper()).status_code != 403, name
