"""The page in a real browser: every screen, live, deep links, keys, dark, narrow, hostile names, broken servers."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote

import pytest

pytestmark = [
    pytest.mark.browser,
    # A plugin that pytest-playwright brings has a fixture of the kind that pytest 10 will refuse.
    pytest.mark.filterwarnings("ignore:.*instance method"),
]

PICTURES = Path(__file__).parents[2] / "docs" / "_static"
HOSTILE = "<img src=x onerror=alert(1)>"
SCREENS = {
    "/": "pricing-page",
    "/flag?key=pricing-page": "Users by variant",
    "/flag?key=pricing-page&outcome=purchase": "Less a, points",
    "/events": "pricing-page",
    "/delivery": "13 accepted",
    "/configuration": "InMemoryAnalyticsCollector",
}
TOKEN = "a-token-of-many-characters"


@pytest.fixture
def expect():
    from playwright.sync_api import expect

    expect.set_options(timeout=20_000)
    return expect


def some_events(shown) -> None:
    for number in range(12):
        shown.record("pricing-page", age=number * 120.0, variant=("a", "b")[number % 2], targeting_key=f"u{number}")
    shown.record("failing", reason="ERROR", error_type="GENERAL", variant=None)


@pytest.mark.parametrize("path", SCREENS)
def test_a_screen_shows_its_figures_and_has_no_flaw_that_axe_finds_in_light_and_dark(view, shown, expect, path):
    from axe_playwright_python.sync_playwright import Axe

    some_events(shown)
    for scheme in ("light", "dark"):
        view.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        view.goto(shown.url + path)
        expect(view.locator("main")).to_contain_text(SCREENS[path])
        expect(view.locator("#state")).to_have_text("All delivered")
        found = Axe().run(view)
        assert not found.violations_count, found.generate_report()


@pytest.mark.parametrize("path", SCREENS)
def test_a_screen_is_readable_at_360_pixels(view, shown, expect, path):
    some_events(shown)
    shown.record("a-flag-with-a-very-long-key-" * 8)
    view.set_viewport_size({"width": 360, "height": 740})
    view.goto(shown.url + path.replace("pricing-page", quote("a-flag-with-a-very-long-key-" * 8)))
    expect(view.locator("main")).not_to_contain_text("Loading")
    assert view.evaluate("document.documentElement.scrollWidth") <= 360


def test_new_events_appear_by_themselves(view, shown, expect):
    shown.record("first", age=30.0)
    view.goto(f"{shown.url}/events")
    expect(view.locator("tbody tr")).to_have_count(1)
    expect(view.locator("#state")).to_have_text("All delivered")
    shown.record("second")
    expect(view.locator("tbody tr").first).to_contain_text("second")
    view.goto(f"{shown.url}/delivery")
    expect(view.locator("main")).to_contain_text("2 accepted = 2 delivered")
    shown.record("third")
    expect(view.locator("main")).to_contain_text("3 accepted = 3 delivered")


def test_the_overview_follows_by_itself(view, shown, expect):
    shown.record("first")
    view.goto(shown.url)
    expect(view.locator("tbody tr")).to_have_count(1)
    shown.record("second")
    expect(view.locator("tbody tr")).to_have_count(2)


def test_live_events_can_be_paused_and_are_filtered(view, shown, expect):
    shown.record("wanted", reason="STATIC")
    view.goto(f"{shown.url}/events?reason=STATIC")
    expect(view.locator("tbody tr")).to_have_count(1)
    expect(view.locator("#state")).to_have_text("All delivered")
    shown.record("unwanted", reason="ERROR")
    shown.record("also-wanted", reason="STATIC")
    expect(view.locator("tbody tr").first).to_contain_text("also-wanted")
    expect(view.locator("tbody")).not_to_contain_text("unwanted")
    view.keyboard.press("p")
    expect(view.get_by_role("button", name="Paused")).to_be_visible()


def test_older_events_come_by_pages(view, shown, expect):
    for number in range(120):
        shown.record(age=float(number))
    view.goto(f"{shown.url}/events")
    expect(view.locator("tbody tr")).to_have_count(50)
    view.get_by_role("button", name="Older events").click()
    expect(view.locator("tbody tr")).to_have_count(120)
    expect(view.get_by_role("button", name="Older events")).to_have_count(0)


def test_search_sort_and_window_are_in_the_address_and_the_way_back_leads_back(view, shown, expect):
    for number in range(30):
        shown.record(f"flag-{number:02}", age=number * 60.0)
    view.goto(shown.url)
    expect(view.locator("tbody tr")).to_have_count(20)
    view.get_by_role("button", name="Flag", exact=True).click()
    expect(view).to_have_url(re.compile(r"sort=-key"))
    expect(view.locator("tbody tr").first).to_contain_text("flag-29")
    view.get_by_role("button", name="15 min").click()
    expect(view).to_have_url(re.compile(r"window=15m"))
    expect(view.locator("tbody tr").first).to_contain_text("flag-14")
    view.go_back()
    expect(view.locator("tbody tr").first).to_contain_text("flag-29")
    view.keyboard.press("/")
    view.keyboard.type("flag-07")
    expect(view).to_have_url(re.compile(r"search=flag-07"))
    expect(view.locator("tbody tr")).to_have_count(1)
    view.goto(f"{shown.url}/?search=flag-1&sort=key&window=24h")
    expect(view.locator("tbody tr")).to_have_count(10)
    expect(view.locator("tbody tr").first).to_contain_text("flag-10")
    expect(view.get_by_role("button", name="24 hours")).to_have_attribute("aria-pressed", "true")


def test_a_flag_is_found_from_the_list_and_shown_by_any_dimension(view, shown, expect):
    some_events(shown)
    shown.record("pricing-page", context_attributes={"environment": "staging"}, targeting_key="u0", variant="b")
    view.goto(shown.url)
    view.get_by_role("link", name="pricing-page").click()
    expect(view.get_by_role("heading", name="pricing-page")).to_be_visible()
    expect(view.locator(".legend")).to_contain_text("a")
    expect(view.locator("main")).to_contain_text("1 users saw another variant later")
    view.get_by_label("Group by", exact=True).select_option("environment")
    expect(view).to_have_url(re.compile(r"by=environment"))
    expect(view.locator(".legend")).to_contain_text("staging")
    expect(view.locator(".legend")).to_contain_text("(none)")


def test_outcomes_are_asked_for_by_name_and_compared(view, shown, expect):
    some_events(shown)
    for number in range(200):
        variant = "treatment" if number % 2 else "control"
        shown.record("checkout", age=30, variant=variant, targeting_key=f"u{number}")
        if number % 2 and number < 120:
            shown.record("purchase", age=20, variant=None, kind="outcome", targeting_key=f"u{number}", value=9.5)
    view.goto(f"{shown.url}/flag?key=checkout")
    view.get_by_label("Outcome").fill("purchase")
    view.get_by_label("Outcome").press("Enter")
    expect(view).to_have_url(re.compile(r"outcome=purchase"))
    treatment = view.locator("tr", has_text="treatment").filter(has_text="60.0 %")
    expect(treatment).to_contain_text("+60.0 (+49.5 to +69.1)")
    view.goto(f"{shown.url}/flag?key=pricing-page&outcome=purchase")
    expect(view.get_by_label("Outcome")).to_have_value("purchase")
    expect(view.locator("main")).to_contain_text("0.0 %")
    view.goto(f"{shown.url}/flag?key=failing&outcome=purchase")
    expect(view.locator("main")).to_contain_text("No user saw this flag in the window")


def test_an_unfinished_step_is_drawn_as_unfinished_and_not_as_a_fall(view, shown, expect):
    for minutes in range(30):
        shown.record(age=minutes * 60.0 + 30.0)
    view.goto(f"{shown.url}/flag?key=checkout&by=none&window=1h")
    expect(view.locator("main")).to_contain_text("the hatched one is unfinished")
    view.get_by_text("As a table").click()
    expect(view.locator("details tbody tr").first).to_contain_text("(unfinished)")
    canvas = view.locator("canvas")
    box = canvas.bounding_box()
    view.mouse.move(box["x"] + box["width"] - 16, box["y"] + box["height"] / 2)
    expect(view.locator(".tip")).to_contain_text("unfinished")


def test_a_hostile_key_is_only_text(view, shown, expect):
    shown.record(HOSTILE, variant=HOSTILE, reason=HOSTILE, value=HOSTILE)
    view.goto(shown.url)
    view.get_by_role("link", name=HOSTILE).click()
    expect(view.get_by_role("heading", name=HOSTILE)).to_be_visible()
    expect(view.locator(".bars").first).to_contain_text(HOSTILE)
    view.get_by_role("link", name="Its events").click()
    expect(view.locator("tbody tr").first).to_contain_text(HOSTILE)
    assert view.locator("main img").count() == 0


@pytest.mark.parametrize("key", ["a/b", "..", "~x", "", "\u202eevil", "%2e", "a&b=c#d?e"])
def test_a_flag_with_any_key_has_a_page(view, shown, expect, key):
    shown.record(key)
    view.goto(shown.url)
    view.locator("tbody a").click()
    expect(view.locator("main")).to_contain_text("Evaluations by variant")


def test_a_page_without_events_says_what_to_do(view, shown, expect):
    view.goto(shown.url)
    expect(view.locator("main")).to_contain_text("No evaluations yet")
    expect(view.locator("main")).to_contain_text("AnalyticsHook(pipeline)")
    view.goto(f"{shown.url}/flag?key=unknown")
    expect(view.locator("main")).to_contain_text("Not evaluated in this window")
    view.goto(f"{shown.url}/events")
    expect(view.locator("main")).to_contain_text("None in this window passes the filters")


def test_a_server_that_does_not_answer_is_said_and_asked_again(page, shown, expect):
    shown.record("checkout")
    page.goto(shown.url)
    expect(page.locator("tbody tr")).to_have_count(1)
    page.route("**/api/v1/flags*", lambda route: route.abort())
    page.get_by_role("button", name="24 hours").click()
    expect(page.locator("#notices")).to_contain_text("The server does not answer")
    page.unroute("**/api/v1/flags*")
    page.get_by_role("button", name="Ask again").click()
    expect(page.locator("#notices")).not_to_contain_text("does not answer")


def test_a_mistake_in_the_address_is_explained(page, shown, expect):
    page.goto(f"{shown.url}/?window=forever")
    expect(page.locator("#notices")).to_contain_text("Window is not usable (expected: How far back: 90s, 15m")


def test_keys_lead_everywhere(view, shown, expect):
    some_events(shown)
    view.goto(shown.url)
    expect(view.locator("tbody tr")).to_have_count(2)
    view.keyboard.press("?")
    expect(view.get_by_role("dialog")).to_contain_text("A longer window")
    view.keyboard.press("Escape")
    expect(view.get_by_role("dialog")).to_have_count(0)
    view.keyboard.press("]")
    expect(view).to_have_url(re.compile("window=24h"))
    view.keyboard.press("z")
    expect(view).to_have_url(re.compile("tz=utc"))
    view.keyboard.press("2")
    expect(view).to_have_url(re.compile(r"/events\?window=24h&tz=utc"))
    view.keyboard.press("t")
    assert view.evaluate("document.documentElement.dataset.theme") == "dark"
    view.keyboard.press("Tab")
    expect(view.get_by_role("link", name="Skip to the content")).to_be_focused()


@pytest.fixture
def browser_context_args(browser_context_args):
    return {**browser_context_args, "timezone_id": "Asia/Tokyo", "viewport": {"width": 1280, "height": 800}}


def test_times_are_in_the_readers_zone_with_utc_at_hand(view, shown, expect):
    event = shown.record()
    view.goto(f"{shown.url}/events")
    moment = view.locator("tbody time").first
    expect(moment).to_have_text(f"{(event.timestamp.hour + 9) % 24:02}:{event.timestamp:%M:%S}")
    expect(moment).to_have_attribute("title", re.compile(f"{event.timestamp:%Y-%m-%d %H:%M:%S}.* UTC"))
    view.get_by_role("button", name="Local").click()
    expect(moment).to_have_text(f"{event.timestamp:%H:%M:%S}")


def test_files_hold_what_the_picture_shows(view, shown, expect):
    some_events(shown)
    view.goto(f"{shown.url}/flag?key=pricing-page")
    with view.expect_download() as found:
        view.locator("section").first.get_by_role("link", name="CSV").click()
    rows = Path(found.value.path()).read_text("utf-8").splitlines()
    assert rows[0] == "group,start,end,count,errors,users,unfinished"
    assert sum(int(row.split(",")[3]) for row in rows[1:]) == 12


def test_the_token_is_asked_for_once(page, locked, expect):
    locked.record("secret-flag")
    page.goto(f"{locked.url}/events")
    expect(page).to_have_url(f"{locked.url}/login")
    page.get_by_label("Token").fill("another-token-of-characters")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("This is not the token")
    page.get_by_label("Token").fill(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("tbody tr")).to_contain_text("secret-flag")
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_url(f"{locked.url}/login")
    assert not page.context.cookies()


def test_a_backends_panel_is_drawn(page, shown_with_panel, expect):
    shown_with_panel.record("checkout")
    page.goto(shown_with_panel.url)
    card = page.locator("section", has_text="Busiest flags")
    expect(card.locator(".bars")).to_contain_text("checkout")


def test_what_is_missing_is_said_above_the_figures(page, forgetful, expect):
    for age in range(30, 0, -1):
        forgetful.record(age=float(age))
    page.goto(forgetful.url)
    expect(page.locator("#notices")).to_contain_text("The memory has forgotten events before")


@pytest.mark.parametrize(("scheme", "name"), [("light", "dashboard"), ("dark", "dashboard-dark")])
def test_the_pictures_of_the_documentation_are_the_products_own(page, shown, expect, scheme, name, tmp_path):
    shown.record_an_hour()
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": 1200, "height": 780})
    keep = os.environ.get("FLAG_ANALYTICS_WRITE_PICTURES") == "1"
    directory = PICTURES if keep else tmp_path
    for path, part in {"/": "overview", "/flag?key=pricing-page": "flag"}.items():
        page.goto(shown.url + path)
        expect(page.locator("main")).to_contain_text("pricing-page")
        expect(page.locator("#state")).to_have_text("All delivered")
        expect(page.locator(".waiting")).to_have_count(0)
        picture = directory / f"{name}-{part}.png"
        page.screenshot(path=picture)
        kept = PICTURES / picture.name
        assert kept.exists(), "run this test with FLAG_ANALYTICS_WRITE_PICTURES=1"
        assert picture.stat().st_size > 20_000
