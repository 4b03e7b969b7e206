"""A real application on a free port, and Debian's chromium to look at it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from cloud_app.context import Context, utc_now
from fixtures import web
from fixtures.site import Site, serve

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture
def ctx(tmp_path: Path) -> Iterator[Context]:
    """A context on a SQLite file and the clock on the wall."""
    made = web.context(tmp_path, clock=utc_now)
    yield made
    made.db.dispose()


@pytest.fixture
def site(ctx: Context) -> Iterator[Site]:
    """The application, served as in production."""
    with serve(ctx) as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's chromium without a window.

    It ends with its module: Playwright keeps an event loop running in this thread, in
    which no test of the awaiting client could start one.
    """
    program = shutil.which("chromium")
    if program is None:
        pytest.fail(
            "chromium is not installed; run: apt-get install chromium", pytrace=False
        )
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page; a violation of the content security policy fails the test."""
    opened = browser.new_page(
        viewport={"width": 1360, "height": 760}, color_scheme="dark"
    )
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        complaints.append(message.text)

    opened.on("console", note)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    yield opened
    opened.close()
    assert [text for text in complaints if "Security Policy" in text] == []
