"""The Fleet page as a person meets it, in a real browser against a real server."""

import re

import pytest
from playwright.sync_api import Page, expect

from cloud_app.api.orders import Mode, Order
from cloud_app.jobs.submit import submit
from cloud_app.orgs import auth
from cloud_app.store.records import KeyRecord
from fixtures import web
from fixtures.site import Site
from genie.contracts.fleet import ModelState, ModelStatus
from genie.contracts.inference import Message, ModelInput

LIVE_MS = 10_000
"""The page looks every two seconds; a busy machine may take longer."""


def log_in(page: Page, site: Site) -> None:
    page.goto(site.url)
    page.get_by_label("Admin API key").fill(site.secret)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#live-dot")).to_have_text("live", timeout=LIVE_MS)


def ask(site: Site, key: KeyRecord, persona: str = "review") -> None:
    order = Order(
        key=key,
        mode=Mode.ASYNC,
        persona=persona,
        input=ModelInput(messages=(Message(role="user", content="hi"),)),
        sampling={},
    )
    submit(site.ctx, order)


def row(page: Page, worker: str) -> str:
    return page.locator(f"tr[data-worker='{worker}']").inner_text()


def test_a_wrong_key_is_told_so_and_a_good_one_opens_the_page(
    page: Page, site: Site
) -> None:
    page.goto(site.url)
    page.get_by_label("Admin API key").fill("sk-genie-acme-wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("not known here")

    log_in(page, site)

    expect(page.get_by_role("heading", name="Fleet", exact=True)).to_be_visible()
    expect(page.get_by_text("all prompts stay on your machines")).to_be_visible()
    expect(page.locator(".summary strong")).to_have_text("off")


def test_only_pages_that_exist_are_offered(page: Page, site: Site) -> None:
    log_in(page, site)

    assert page.get_by_role("navigation").get_by_role("link").all_inner_texts() == [
        "Fleet"
    ]


def test_an_empty_fleet_says_what_to_do_next(page: Page, site: Site) -> None:
    log_in(page, site)

    expect(page.locator("#workers")).to_contain_text("No worker has joined yet")
    expect(page.locator("#reasons")).to_contain_text("genie worker join")


def test_workers_show_their_memory_models_and_work(page: Page, site: Site) -> None:
    loading = ModelStatus(
        model="echo:small", quant="none", state=ModelState.LOADING, progress=0.42
    )
    gpus = (web.gpu(0, 61, 80), web.gpu(1, 74, 80))
    web.join(
        site.ctx, "atlas", gpus=gpus, models=(web.ready("echo:large", in_flight=3),)
    )
    web.join(site.ctx, "dione", models=(loading,))
    log_in(page, site)

    assert re.search(r"61/80G.*74/80G.*echo:large.*3", row(page, "atlas"), re.DOTALL)
    assert re.search(r"CPU.*11/32G.*loading 42%", row(page, "dione"), re.DOTALL)
    expect(page.locator("#summary")).to_have_text("2 workers · 2 GPUs")
    expect(page.locator("tr[data-worker=atlas] .dot.online")).to_be_visible()
    expect(page.locator("tr[data-worker=atlas] rect.warn")).to_have_count(1)


def test_the_page_follows_the_fleet_without_a_reload(page: Page, site: Site) -> None:
    key = web.key(site.ctx)[0]
    secret = web.join(site.ctx, models=(web.ready(),))
    log_in(page, site)
    expect(page.locator("#tile-running .value")).to_have_text("0")

    site.ctx.bus.work = lambda task: [web.started(task)]  # type: ignore[attr-defined]  # the twin
    ask(site, key)
    site.ctx.bus.work = lambda task: []  # type: ignore[attr-defined]  # the twin
    ask(site, key)
    web.beat(site.ctx, secret, seq=1, models=(web.ready(in_flight=1),))

    expect(page.locator("#tile-running .value")).to_have_text("1", timeout=LIVE_MS)
    expect(page.locator("#tile-waiting .value")).to_have_text("1", timeout=LIVE_MS)
    expect(page.locator("#queues")).to_contain_text("genie")
    expect(page.locator("#reasons tr").nth(1)).to_contain_text("100 %")


def test_a_join_command_is_made_once_and_outlives_the_refresh(
    page: Page, site: Site
) -> None:
    log_in(page, site)
    page.get_by_role("button", name="Make a join command").click()
    command = page.locator("#join-command")
    expect(command).to_contain_text(f"genie worker join {site.url} --token gj-")
    shown = command.inner_text()

    with page.expect_response(lambda r: r.url.endswith("/admin/live")):
        pass

    expect(command).to_have_text(shown)
    token = shown.rpartition(" ")[2]
    with site.ctx.db.session() as session:
        assert auth.redeem(session, token, site.ctx.now()).org.slug == web.ORG
    page.reload()
    expect(page.locator("#join-command")).to_have_count(0)


def test_the_page_admits_that_it_is_not_live(page: Page, site: Site) -> None:
    log_in(page, site)

    page.route("**/admin/live", lambda route: route.abort())

    expect(page.locator("#live-dot")).to_contain_text("not live", timeout=LIVE_MS)


def test_a_revoked_key_ends_its_sessions(page: Page, site: Site) -> None:
    key, secret = web.key(site.ctx)
    log_in(page, Site(url=site.url, secret=secret, ctx=site.ctx))

    auth.revoke_key(site.ctx, web.ORG, key.id)

    expect(page.get_by_label("Admin API key")).to_be_visible(timeout=LIVE_MS)


def test_logging_out_closes_the_page(page: Page, site: Site) -> None:
    log_in(page, site)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Admin API key")).to_be_visible()

    page.goto(f"{site.url}/admin/")

    expect(page.get_by_label("Admin API key")).to_be_visible()


@pytest.mark.parametrize("width", [400, 1360])
def test_nothing_is_wider_than_the_window(page: Page, site: Site, width: int) -> None:
    web.join(site.ctx, "a-worker-with-quite-a-long-name", models=(web.ready(),))
    page.set_viewport_size({"width": width, "height": 760})
    log_in(page, site)

    assert page.evaluate("document.documentElement.scrollWidth") <= width
