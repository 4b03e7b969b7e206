import re
from dataclasses import replace
from pathlib import Path

import pytest
from flask.testing import FlaskClient

import cloud_app.web
from cloud_app.app import create_app
from cloud_app.context import Context
from cloud_app.orgs import auth
from cloud_app.web.pages import sessions
from fixtures import web
from genie.errors import DatabaseDown

HOME = "http://localhost"


def csrf(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found is not None
    return found[1]


def post(
    client: FlaskClient, path: str, origin: str | None = HOME, **form: str
) -> tuple[int, str]:
    headers = {"Origin": origin} if origin else {}
    response = client.post(path, data=form, headers=headers)
    return response.status_code, response.text


def log_in(client: FlaskClient, secret: str) -> str:
    token = csrf(client.get("/admin/login").text)
    status, _ = post(client, "/admin/login", csrf=token, key=secret)
    assert status == 303
    return csrf(client.get("/admin/").text)


def test_visitors_are_led_to_the_login(visitor: FlaskClient) -> None:
    assert visitor.get("/").headers["Location"] == "/admin/"
    assert visitor.get("/admin/").headers["Location"] == "/admin/login"
    live = visitor.get("/admin/live", headers={"HX-Request": "true"})
    assert (live.status_code, live.headers["HX-Redirect"]) == (401, "/admin/login")


def test_every_page_is_guarded_against_foreign_content(visitor: FlaskClient) -> None:
    response = visitor.get("/admin/login")

    assert "default-src 'self'" in response.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "no-store"


def test_pages_hold_no_inline_style_or_script() -> None:
    pages = list((Path(cloud_app.web.__file__).parent / "templates").glob("*.html"))
    assert pages
    for page in pages:
        text = page.read_text()
        assert " style=" not in text, page
        assert not re.search(r"<script(?![^>]*\bsrc=)", text), page
        assert not re.search(r"\son\w+=", text), page


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(
    visitor: FlaskClient, secret: str
) -> None:
    log_in(visitor, secret)
    cookie = visitor.get_cookie("genie")

    assert cookie is not None
    assert cookie.http_only
    assert cookie.same_site == "Lax"
    assert secret not in cookie.value


def test_over_https_the_cookie_is_bound_to_this_host(tmp_path: Path) -> None:
    url = "https://fleet.example.com"
    settings = web.cloud_settings(tmp_path, public_url=url)
    ctx = web.context(tmp_path, settings=settings)
    client = create_app(ctx).test_client()
    response = client.get("/admin/login", base_url=url)

    cookie = response.headers["Set-Cookie"]
    assert cookie.startswith("__Host-genie=")
    assert "Secure" in cookie
    assert "Path=/" in cookie
    assert "Domain" not in cookie


@pytest.mark.parametrize("origin", ["http://evil.example", "null", None])
def test_a_form_from_elsewhere_is_refused(
    visitor: FlaskClient, secret: str, origin: str | None
) -> None:
    token = log_in(visitor, secret)
    status, page = post(visitor, "/admin/join-tokens", origin, csrf=token)

    assert status == 403
    assert "gj-" not in page


@pytest.mark.parametrize("token", ["", "guess", "ünïcode"])
def test_a_form_without_its_token_is_refused(
    visitor: FlaskClient, secret: str, token: str
) -> None:
    log_in(visitor, secret)

    assert post(visitor, "/admin/join-tokens", csrf=token)[0] == 403


@pytest.mark.parametrize("is_admin", [True, False])
def test_only_a_good_admin_key_logs_in(
    visitor: FlaskClient, ctx: Context, is_admin: bool
) -> None:
    _, secret = web.key(ctx, is_admin=is_admin)
    key = f"{secret}x" if is_admin else secret
    token = csrf(visitor.get("/admin/login").text)
    status, page = post(visitor, "/admin/login", csrf=token, key=key)

    assert status == (401 if is_admin else 403)
    assert 'role="alert"' in page
    assert visitor.get("/admin/").status_code == 302


def test_a_join_command_is_shown_once(visitor: FlaskClient, secret: str) -> None:
    token = log_in(visitor, secret)
    _, page = post(visitor, "/admin/join-tokens", csrf=token)

    assert "genie worker join http://localhost --token gj-" in page
    assert "gj-" not in visitor.get("/admin/").text


def test_a_revoked_key_and_an_old_session_are_out(
    visitor: FlaskClient, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, secret = web.key(ctx)
    log_in(visitor, secret)
    monkeypatch.setattr(sessions, "LIFETIME_S", -1.0)
    assert visitor.get("/admin/").status_code == 302
    monkeypatch.undo()
    assert visitor.get("/admin/").status_code == 200

    auth.revoke_key(ctx, web.ORG, key.id)

    assert visitor.get("/admin/").status_code == 302


def test_logging_out_ends_the_session(visitor: FlaskClient, secret: str) -> None:
    token = log_in(visitor, secret)

    assert post(visitor, "/admin/logout", csrf=token)[0] == 303
    assert visitor.get("/admin/").status_code == 302


def test_names_from_outside_are_shown_as_text(
    visitor: FlaskClient, ctx: Context, secret: str
) -> None:
    web.join(ctx, "<img src=x>")
    log_in(visitor, secret)

    page = visitor.get("/admin/").text
    assert "&lt;img src=x&gt;" in page
    assert "<img" not in page


def test_a_page_says_when_the_database_is_away(
    visitor: FlaskClient, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(visitor, secret)

    def down(*_: object) -> None:
        raise DatabaseDown("the database cannot be reached; start it")

    monkeypatch.setattr(auth, "list_keys", down)
    response = visitor.get("/admin/")

    assert response.status_code == 503
    assert "the database cannot be reached" in response.text


def test_a_fleet_in_one_process_offers_no_join_command(
    ctx: Context, secret: str
) -> None:
    alone = replace(ctx, settings=replace(ctx.settings, broker_url="memory://"))
    visitor = create_app(alone).test_client()
    token = log_in(visitor, secret)
    page = visitor.get("/admin/").get_data(as_text=True)
    assert "no other machine can reach its queue" in page
    assert "Make a join command" not in page
    assert post(visitor, "/admin/join-tokens", csrf=token)[0] == 409


def test_the_navigation_names_the_page_that_is_shown(
    visitor: FlaskClient, secret: str
) -> None:
    log_in(visitor, secret)
    page = visitor.get("/admin/").text
    assert '<a href="/admin/" aria-current="page">Fleet</a>' in page
