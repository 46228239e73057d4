"""The page of a window in a real browser: the effects of columns are visible, however many columns moved together."""

from pathlib import Path

import pytest

from mlops_assets.compute.explanation.performance_drop import ColumnEffect, DropExplanation
from mlops_assets.compute.pages.monitor_page import MonitorPage, VersionReports, render_monitor
from tests.browser import browser_page

COLUMNS = tuple(f"carrier_mean_delay_of_{days}_days" for days in range(8))


@pytest.mark.parametrize("width", [1280, 1100])
def test_a_group_of_many_columns_hides_no_figure(width: int, tmp_path: Path) -> None:
    effects = tuple(ColumnEffect((name,), 0.01, -0.01, 0.03) for name in COLUMNS)
    found = DropExplanation("neg_log_loss", -0.6, -0.5, effects, (ColumnEffect(COLUMNS, 0.03, -0.01, 0.05),), 959, 0.4)
    path = tmp_path / "page.html"
    path.write_text(render_monitor(MonitorPage("watch", "2024-03-09", "m", (VersionReports(6, explanation=found),))))
    with browser_page() as page:
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(path.as_uri())

        assert page.get_by_text("together").count() == 1
        assert page.eval_on_selector_all(".table", "tables => tables.map(table => table.scrollWidth > table.clientWidth)") == [False]
