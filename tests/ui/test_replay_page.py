"""The page of a replay in a real browser, wide and narrow: names are whole, no column is cut off, and the key names each line."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page

from mlops_assets.compute.pages.replay_page import render_replay
from tests.browser import browser_page
from tests.compute.replay.test_comparison import policy, result

NAMES = ("never", "every:30d", "every:40d", "every:30d,window=121d", "every:30d,window=40d", "grow", "follow", "prove")
LINES = """names => names.map(name => {
    const text = document.createRange(); text.selectNodeContents(name.lastChild); return text.getClientRects().length })"""


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    values = 0.7 + np.random.default_rng(0).normal(0, 0.02, (len(NAMES), 30))
    path: Path = tmp_path_factory.mktemp("replay") / "replay.html"
    path.write_text(render_replay(result(*(policy(name, values[i], trainings=4) for i, name in enumerate(NAMES)))))
    return path.as_uri()


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser_page() as opened:
        yield opened


@pytest.mark.parametrize("width", [1920, 1280, 360])
def test_names_are_whole_and_only_tables_scroll(page: Page, address: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(address)

    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert set(page.eval_on_selector_all("tbody th", LINES)) == {1}
    assert set(page.eval_on_selector_all(".key span", LINES)) == {1}
    cut = page.eval_on_selector_all(".table", "tables => tables.slice(0, 3).filter(t => t.scrollWidth > t.clientWidth).length")
    assert cut == 0 or width < 1280


def test_a_head_stands_over_its_column(page: Page, address: str) -> None:
    aligned = """tables => tables.flatMap(table => [...table.tHead.rows[0].cells].map((head, i) =>
        [head.textContent, getComputedStyle(head).textAlign === getComputedStyle(table.tBodies[0].rows[0].cells[i]).textAlign]))"""
    page.set_viewport_size({"width": 1600, "height": 900})
    page.goto(address)

    assert [head for head, equal in page.eval_on_selector_all("table", aligned) if not equal] == []
