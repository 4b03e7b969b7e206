"""What every admin page has: a session, its frame with the navigation, its guards.

A page is one module of this package with a view under `page`, one template that
extends ``frame.html``, and its name in ``pages/__init__.py``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flask import Blueprint, Response, make_response, redirect, render_template, request
from werkzeug.wrappers import Response as BaseResponse

from cloud_app.store.records import KeyRecord
from cloud_app.web.pages import sessions
from cloud_app.web.request import context
from genie.errors import Forbidden, GenieError, Unauthorized

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

Values = Mapping[str, object]
View = Callable[[KeyRecord], Values]
"""What a page's template is drawn with, for the org of this key."""

pages = Blueprint("admin", __name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageLink:
    """One page in the navigation."""

    path: str
    name: str


links: list[PageLink] = []
"""The navigation, in the order the pages were made."""


def page(path: str, name: str, template: str) -> Callable[[View], View]:
    """Make a view an admin page: at this path, by this name in the navigation."""

    def register(view: View) -> View:
        links.append(PageLink(path=path, name=name))

        def show() -> str:
            key = sessions.current_key(context())
            return draw(template, key, view(key))

        pages.add_url_rule(path, view.__name__, show)
        return view

    return register


def draw(template: str, key: KeyRecord, values: Values) -> str:
    """A page of this key's org in the frame that all pages share."""
    return render_template(
        template,
        links=links,
        org=key.org.name or key.org.slug,
        csrf=sessions.csrf_token(),
        **values,
    )


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


def _to_login(message: str) -> BaseResponse:
    """Send a browser to the login page; a polling page is told to go there whole."""
    if request.headers.get("HX-Request"):
        return Response("", 401, {"HX-Redirect": "/admin/login"})
    if request.method == "GET":
        return redirect("/admin/login")
    page = render_template("error.html", message=message)
    return make_response(page, 401)
