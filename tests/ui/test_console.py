"""The console next to the Dagster UI, in a real browser: every page by keyboard, wide and narrow, and the links both ways."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser import PATIENCE, browser_page, free_port, web_ui
from tests.conftest import ROOT, clean_environment
from tests.orchestrate.console.conftest import fill, open_site
from tests.projects import watched_shop

SECTIONS = ("Overview", "Models", "Runs", "Monitors", "Services", "Features", "Replays")
DOCUMENTS = ("/card", "/report")
MAX_PER_KIND = 2  # pages that differ in names only
NAMES = """() => [...document.querySelectorAll('a[href], button, input, [tabindex]')]
    .filter(e => e.tabIndex >= 0)
    .map(e => (e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent || '').trim())"""
FOCUSED = (
    "() => { const all = [...document.querySelectorAll('a[href], button, input, [tabindex]')]; return all.indexOf(document.activeElement) }"
)


class Servers:
    """The addresses of both servers."""

    def __init__(self, dagster: str, console: str) -> None:
        self.dagster, self.console = dagster, console


@pytest.fixture(scope="module")
def servers(tmp_path_factory) -> Iterator[Servers]:
    home = tmp_path_factory.mktemp("console_ui") / "home"
    for site in open_site(home, watched_shop.NOUNS):
        fill(site)
    port = free_port()
    with web_ui(ROOT / "tests" / "projects" / "watched_shop.py", clean_environment(home), console_port=port) as url:
        yield Servers(url, f"http://127.0.0.1:{port}")


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    with browser_page(1280, 900) as opened:
        yield opened.context


@pytest.fixture
def page(servers, browser) -> Iterator[Page]:
    with _watch_page(servers, browser) as opened:
        yield opened


@pytest.fixture(scope="module")
def paths(servers, browser) -> list[str]:
    """The addresses that links of the console lead to."""
    with _watch_page(servers, browser) as page:
        found = _crawl(page, servers.console)
        assert page.problems == []
    return found


@contextmanager
def _watch_page(servers: Servers, browser: BrowserContext) -> Iterator[Page]:
    """Open a page that remembers errors and requests to other origins."""
    opened = browser.new_page()
    opened.problems = []
    opened.on("console", lambda message: opened.problems.append(message.text) if message.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: opened.problems.append(str(error)))
    opened.on("request", lambda request: opened.problems.append(request.url) if not _is_own(request.url, servers.console) else None)
    yield opened
    opened.close()


def _is_own(url: str, console: str) -> bool:
    return url.startswith((f"{console}/", "data:"))


def _kind(path: str) -> str:
    """Return an address without names: pages of one kind look alike."""
    parts = urlsplit(path).path.strip("/").split("/")
    return "/".join(part if index % 2 == 0 else "*" for index, part in enumerate(parts))


def _crawl(page: Page, console: str) -> list[str]:
    """Return the addresses that links of the console lead to, some of each kind."""
    found, waiting, kinds = [], ["/"], {}
    while waiting:
        path = waiting.pop(0)
        if path in found or kinds.get(_kind(path), 0) >= MAX_PER_KIND:
            continue
        found.append(path)
        kinds[_kind(path)] = kinds.get(_kind(path), 0) + 1
        if not path.endswith(DOCUMENTS):
            page.goto(console + path)
            links = page.eval_on_selector_all("a[href]", "links => links.map(link => link.getAttribute('href'))")
            waiting += [link for link in links if link.startswith("/")]
    return found


@pytest.mark.parametrize("width", [1280, 360])
def test_every_page_fits_and_each_control_has_a_name_and_is_reached_by_tab(servers, page, paths, width: int) -> None:
    assert {_kind(path) for path in paths} >= {"models/*", "runs/*", "monitors/*/windows/*", "services/*", "features/*", "predictions/*"}
    page.set_viewport_size({"width": width, "height": 900})
    for path in paths:
        page.goto(servers.console + path)
        if path.endswith(DOCUMENTS):
            continue
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} is wider than {width} px"
        names = page.evaluate(NAMES)
        assert all(names), f"{path}: a control has no name: {names}"
        reached = set()
        for _ in range(len(names)):
            page.keyboard.press("Tab")
            reached.add(page.evaluate(FOCUSED))
        assert reached == set(range(len(names))), f"{path}: Tab does not reach {sorted(set(range(len(names))) - reached)}"
    assert page.problems == []


def _press_until(page: Page, name: str) -> None:
    """Press Tab until the control with a name has the focus, then Enter."""
    for _ in range(200):
        page.keyboard.press("Tab")
        if page.evaluate("(document.activeElement.getAttribute('aria-label') || document.activeElement.textContent).trim()") == name:
            with page.expect_navigation():
                page.keyboard.press("Enter")
            return
    raise AssertionError(f"Tab does not reach '{name}' on {page.url}")


def test_a_person_walks_from_the_breach_to_the_report_with_the_keyboard(servers, page) -> None:
    page.goto(servers.console)
    for section in SECTIONS[1:]:
        _press_until(page, section)
        expect(page.locator("nav a[aria-current=page]")).to_have_text(section)
    _press_until(page, "Overview")
    _press_until(page, "batch_watch: performance is too low")
    expect(page.get_by_role("heading", level=1)).to_have_text("batch_watch, 2024-03-07")
    _press_until(page, "open")
    expect(page.get_by_role("heading", level=1)).to_have_text("batch_watch, 2024-03-07")
    expect(page.get_by_text("Most drifted columns")).to_be_visible()
    assert page.problems == []


def test_runs_are_filtered_and_compared_with_the_keyboard(servers, page) -> None:
    page.goto(f"{servers.console}/runs")
    page.get_by_label("Filter").focus()
    page.keyboard.type("metrics.roc_auc > 0.5")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("where=metrics"))
    boxes = page.locator("tbody input")
    assert boxes.count() == 2
    for index in range(2):
        boxes.nth(index).focus()
        page.keyboard.press("Space")
    _press_until(page, "Compare selected runs")
    expect(page.get_by_role("heading", level=1)).to_have_text("2 runs")
    expect(page.get_by_role("heading", name="Metrics")).to_be_visible()
    assert page.problems == []


def test_links_lead_from_the_console_to_the_dagster_ui_and_back(servers, page) -> None:
    page.goto(f"{servers.console}/monitors/batch_watch")
    assert page.get_by_role("link", name="Dagster UI").get_attribute("href") == servers.dagster
    page.get_by_role("link", name="performance_report/batch_watch").click()
    page.wait_for_url(f"{servers.dagster}/assets/performance_report/batch_watch_performance**")
    back = page.locator(f'a[href="{servers.console}/monitors/batch_watch"]').first
    expect(back).to_be_visible(timeout=PATIENCE * 1000)
    page.goto(f"{servers.dagster}/assets/features/crowds_features")
    expect(page.locator(f'a[href="{servers.console}/features/crowds"]').first).to_be_visible()
