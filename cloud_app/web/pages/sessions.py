"""Admin sessions: a signed cookie that names a key, looked up on every request."""

import hmac
import secrets
import time
from urllib.parse import urlsplit

from flask import Flask, Request, request, session
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface

from cloud_app.context import Context
from cloud_app.orgs import auth
from cloud_app.settings import CloudSettings
from cloud_app.store.records import KeyRecord
from genie.errors import Forbidden, Unauthorized

LIFETIME_S = 12 * 3600.0

CSRF_FIELD = "csrf"


class CookieSessions(SecureCookieSessionInterface):
    """Flask's own, without making ready to read a cookie that was not sent."""

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        """The session of a request; an empty one where there is no cookie."""
        if "HTTP_COOKIE" not in request.environ:
            return self.session_class()
        return super().open_session(app, request)


def install(app: Flask, settings: CloudSettings) -> None:
    """Name and guard the cookie; ``__Host-`` only works over https."""
    app.session_interface = CookieSessions()
    is_https = (settings.public_url or "").startswith("https://")
    app.config.update(
        SESSION_COOKIE_NAME="__Host-genie" if is_https else "genie",
        SESSION_COOKIE_SECURE=is_https,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_PATH="/",
    )


def log_in(ctx: Context, secret: str) -> KeyRecord:
    """Start a session with an admin key; raises `Unauthorized` or `Forbidden`."""
    key = auth.authenticate(ctx, secret.strip(), remote_addr=request.remote_addr)
    if not key.is_admin:
        raise Forbidden(
            "this key is good, but it is not an admin key; use an admin key"
        )
    session.clear()  # a token from before the login is worth nothing after it
    session["org"], session["key"] = key.org.slug, key.id
    session["began"] = time.time()
    return key


def log_out() -> None:
    """End the session."""
    session.clear()


def current_key(ctx: Context) -> KeyRecord:
    """The admin key this session stands for; raises `Unauthorized`.

    It is looked up every time, so a revoked key's sessions end at once.
    """
    org, key_id = session.get("org"), session.get("key")
    if not org or not key_id:
        raise Unauthorized("log in with an admin key")
    if time.time() - session.get("began", 0.0) > LIFETIME_S:
        raise Unauthorized("this session is over; log in again")
    for key in auth.list_keys(ctx, org):
        if key.id == key_id and key.is_admin and key.revoked_at is None:
            return key
    raise Unauthorized("this session's key was revoked; log in with another one")


def csrf_token() -> str:
    """The token that forms of this session carry."""
    if CSRF_FIELD not in session:
        session[CSRF_FIELD] = secrets.token_urlsafe(32)
    return str(session[CSRF_FIELD])


def check_form(settings: CloudSettings) -> None:
    """Refuse a form that was not sent from a page of ours; raises `Forbidden`."""
    if not _is_own_origin(settings):
        raise Forbidden("this form was sent from another site; open the page and retry")
    sent = request.form.get(CSRF_FIELD, "")
    if not hmac.compare_digest(sent.encode(), csrf_token().encode()):
        raise Forbidden("this form is out of date; reload the page and try again")


def _is_own_origin(settings: CloudSettings) -> bool:
    """True when the browser says that one of our own pages sent this."""
    origin = request.headers.get("Origin")
    if origin is None:
        return request.headers.get("Sec-Fetch-Site") == "same-origin"
    public = urlsplit(settings.public_url or "").netloc
    return urlsplit(origin).netloc in {request.host, public} - {""}
