"""Pictures of the reference project for the documentation: the real web UI, in a real browser.

`make pictures` runs it after `make demo` and `make demo-llm`.
"""

import os
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.browser import MLOPS, browser_page, free_port, open_graph, web_ui  # noqa: E402  (the repository's own, found from its root)

PICTURES = ROOT / "docs" / "pictures"


def _page(page: Page, url: str, name: str, wait_for: str) -> None:
    page.goto(url)
    page.get_by_text(wait_for).first.wait_for()
    page.wait_for_timeout(2500)
    page.screenshot(path=PICTURES / f"{name}.png")


def _zoom_out(page: Page, times: int) -> None:
    for _ in range(times):
        page.locator('[class*="SVGViewport_iconButton"]').nth(1).click()
        page.wait_for_timeout(800)
    page.wait_for_timeout(2000)


def _report_days(environment: dict[str, str]) -> None:
    """Predict and report five more days over HTTP, for a timeline of more than one window."""
    days = [f"2013-04-0{day}" for day in range(2, 7)]
    tables = 'key:"dataset/*" or key:"features/*" or key:"online/*"'
    reports = 'key:"predictions/lateness_api_predictions" or key:"*_report/lateness_watch_*"'
    for command in (
        ["run", "--select", tables, "--partitions", f"{days[0]}...{days[-1]}"],
        ["serve", "start", "lateness_api"],
        *(["predict", "lateness_api", "--partitions", day] for day in days),
        ["run", "--select", reports, "--partitions", f"{days[0]}...{days[-1]}"],
    ):
        subprocess.run([*MLOPS, *command], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)


def _console(page: Page, url: str) -> None:
    """Take pictures of the console's front page and of a monitor."""
    page.set_viewport_size({"width": 1180, "height": 760})
    for path, name in (("/", "console"), ("/monitors/lateness_watch", "console-monitor")):
        page.goto(url + path)
        page.screenshot(path=PICTURES / f"{name}.png")


def main() -> None:
    """Take every picture."""
    home = ROOT / ".mlops"
    reports = sorted((home / "reports" / "lateness_watch").glob("*.html"))
    if not reports or not (home / "services" / "delay_answer_api").is_dir():
        sys.exit("there is nothing to take pictures of: run `make demo` and `make demo-llm` first")
    environment = os.environ | {"MLOPS_HOME": str(home)}
    if len(reports) == 1:
        _report_days(environment)
    port = free_port()
    with web_ui(ROOT / "definitions.py", environment, console_port=port) as url, browser_page(2300, 1450) as page:
        open_graph(page, url, ["data", "lateness"])
        _zoom_out(page, 2)  # until both groups are in view
        page.screenshot(path=PICTURES / "graph.png", clip={"x": 750, "y": 340, "width": 1350, "height": 880})
        page.set_viewport_size({"width": 1500, "height": 900})
        _page(page, f"{url}/assets/model/lateness_candidate?view=checks", "gates", "roc_auc_at_least")
        _page(page, f"{url}/assets/model/lateness_candidate", "model", "neg_log_loss")
        _page(page, f"{url}/automation", "automation", "retrain_lateness_schedule")
        page.set_viewport_size({"width": 1100, "height": 1500})
        page.goto(reports[-1].as_uri())
        page.screenshot(path=PICTURES / "report.png")
        _console(page, f"http://127.0.0.1:{port}")
    with web_ui(ROOT / "delay_answers.py", environment) as url, browser_page(2300, 1250) as page:
        open_graph(page, url, ["delay_answer"])
        page.screenshot(path=PICTURES / "llm-graph.png", clip={"x": 600, "y": 480, "width": 1650, "height": 330})


if __name__ == "__main__":
    main()
