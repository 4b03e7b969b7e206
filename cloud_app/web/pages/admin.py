"""The Fleet page: one look at the machines, the work, and why it goes where it goes."""

from flask import Blueprint, Response, make_response, redirect, render_template, request
from werkzeug.wrappers import Response as BaseResponse

from cloud_app.orgs import auth
from cloud_app.settings import ALONE
from cloud_app.store.records import KeyRecord
from cloud_app.web.pages import fleet as fleet_page
from cloud_app.web.pages import sessions
from cloud_app.web.pages.commands import join_command
from cloud_app.web.request import context
from genie.errors import Conflict, Forbidden, GenieError, Unauthorized

CSP = (
    "default-src 'self'; base-uri 'none'; object-src 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)

HEADERS = {
    "Content-Security-Policy": CSP,
    "Referrer-Policy": "same-origin",  # no-referrer would hide a form's Origin
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}

pages = Blueprint("admin", __name__)


@pages.after_request
def _guard(response: Response) -> Response:
    response.headers.update(HEADERS)
    return response


@pages.errorhandler(GenieError)
def _failed(error: GenieError) -> BaseResponse:
    if isinstance(error, Unauthorized):
        return _to_login(error.message)
    page = render_template("error.html", message=error.message)
    return make_response(page, error.http_status)


@pages.get("/")
def home() -> BaseResponse:
    """The first page is the Fleet page."""
    return redirect("/admin/")


@pages.get("/admin/login")
def login_form() -> str:
    """Ask for an admin key."""
    return render_template("login.html", csrf=sessions.csrf_token(), message=None)


@pages.post("/admin/login")
def log_in() -> BaseResponse:
    """Start a session."""
    sessions.check_form(context().settings)
    try:
        sessions.log_in(context(), request.form.get("key", ""))
    except (Unauthorized, Forbidden) as error:
        csrf = sessions.csrf_token()
        page = render_template("login.html", csrf=csrf, message=error.message)
        return make_response(page, error.http_status)
    return redirect("/admin/", 303)


@pages.post("/admin/logout")
def log_out() -> BaseResponse:
    """End the session."""
    sessions.check_form(context().settings)
    sessions.log_out()
    return redirect("/admin/login", 303)


@pages.get("/admin/")
def fleet() -> BaseResponse:
    """The whole page."""
    return make_response(_whole(sessions.current_key(context())))


@pages.get("/admin/live")
def live() -> BaseResponse:
    """Only what changes by itself."""
    page = fleet_page.fleet_page(context(), sessions.current_key(context()))
    return make_response(render_template("live.html", page=page))


@pages.post("/admin/join-tokens")
def add_worker() -> BaseResponse:
    """Make a join token and show, once, the command that uses it."""
    sessions.check_form(context().settings)
    key = sessions.current_key(context())
    if not context().settings.takes_machines:
        raise Conflict(ALONE, code="embedded_fleet")
    token = auth.create_join_token(context(), key.org.slug)
    command = join_command(context().settings, request.host_url, token)
    if request.headers.get("HX-Request"):
        csrf = sessions.csrf_token()
        return make_response(render_template("join.html", command=command, csrf=csrf))
    return make_response(_whole(key, command))


def _whole(key: KeyRecord, command: str | None = None) -> str:
    page = fleet_page.fleet_page(context(), key)
    csrf = sessions.csrf_token()
    alone = None if context().settings.takes_machines else ALONE
    return render_template(
        "fleet.html", page=page, csrf=csrf, command=command, alone=alone
    )


def _to_login(message: str) -> BaseResponse:
    """Send a browser to the login page; a polling page is told to go there whole."""
    if request.headers.get("HX-Request"):
        return Response("", 401, {"HX-Redirect": "/admin/login"})
    if request.method == "GET":
        return redirect("/admin/login")
    page = render_template("error.html", message=message)
    return make_response(page, 401)
