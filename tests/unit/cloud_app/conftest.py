"""A cloud on a SQLite file, and a web application, for every test that asks."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from flask import Flask
from flask.testing import FlaskClient

from cloud_app.app import create_app
from cloud_app.context import Context
from fixtures import web
from fixtures.clouds import Cloud
from fixtures.web import TwinBus


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    """A cloud with an empty database, an org ``acme`` and a clock that stands still."""
    made = Cloud(f"sqlite:///{tmp_path / 'genie.db'}")
    yield made
    made.close()


@pytest.fixture
def ctx(tmp_path: Path) -> Iterator[Context]:
    """A context with one live worker that serves the small echo model."""
    made = web.context(tmp_path)
    web.join(made, models=(web.ready(),))
    yield made
    made.db.dispose()


@pytest.fixture
def bus(ctx: Context) -> TwinBus:
    """The bus of `ctx`; set its ``work``."""
    return cast(TwinBus, ctx.bus)


@pytest.fixture
def app(ctx: Context) -> Flask:
    """The application under test."""
    return create_app(ctx)


@pytest.fixture
def secret(ctx: Context) -> str:
    """The secret of an admin key."""
    return web.key(ctx)[1]


@pytest.fixture
def client(app: Flask, secret: str) -> FlaskClient:
    """A client that sends the admin key with every request."""
    made = app.test_client()
    made.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {secret}"
    return made


@pytest.fixture
def visitor(app: Flask) -> FlaskClient:
    """A client without a key."""
    return app.test_client()
