from pathlib import Path

import pytest

from cloud_app import store
from cloud_app.app import create_app
from fixtures import web
from genie.errors import DatabaseDown, SettingsError


def test_an_old_schema_stops_the_boot_with_the_command_to_run(tmp_path: Path) -> None:
    ctx = web.context(tmp_path)
    store.schema.downgrade(ctx.db, "base")

    with pytest.raises(SettingsError, match="genie db upgrade"):
        create_app(ctx)


def test_a_database_that_is_away_at_boot_is_503_until_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = web.context(tmp_path)
    _, secret = web.key(ctx)

    def down(_db: object) -> None:
        raise DatabaseDown("the database cannot be reached; start it")

    monkeypatch.setattr(store.schema, "check", down)
    client = create_app(ctx).test_client()
    headers = {"Authorization": f"Bearer {secret}"}

    refused = client.get("/v1/models", headers=headers)
    assert refused.status_code == 503
    assert refused.get_json()["error"]["code"] == "database_unavailable"
    assert client.get("/livez").status_code == 200
    monkeypatch.undo()
    assert client.get("/v1/models", headers=headers).status_code == 200


def test_a_schema_found_old_after_the_boot_is_told_to_everyone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = web.context(tmp_path)

    def down(_db: object) -> None:
        raise DatabaseDown("the database cannot be reached; start it")

    monkeypatch.setattr(store.schema, "check", down)
    client = create_app(ctx).test_client()
    monkeypatch.undo()
    store.schema.downgrade(ctx.db, "base")
    response = client.get("/v1/models")

    assert response.status_code == 503
    assert "genie db upgrade" in response.get_json()["error"]["message"]


def test_without_settings_every_missing_variable_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("GENIE_DATABASE_URL", "GENIE_BROKER_URL", "GENIE_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(SettingsError) as missing:
        create_app()

    assert "GENIE_DATABASE_URL" in missing.value.message
    assert "GENIE_SECRET_KEY" in missing.value.message
