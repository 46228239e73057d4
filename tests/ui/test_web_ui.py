"""What a person sees and does in the Dagster web UI, in a real browser against the real web server."""

import re
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from playwright.sync_api import Page, expect

from mlops_assets.stores.registry.registry import open_registry
from tests.browser import PATIENCE, browser_page, open_graph, web_ui
from tests.cli.test_cli import good, mlops
from tests.conftest import clean_environment

LIMIT = 'Not for <b>children</b> | <img src=x onerror="window.ran=1"> [here](javascript:window.ran=1).'
CALENDAR = f'metrics=["roc_auc"], cron_schedule="0 4 * * 1", limits=[{LIMIT!r}]'


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project with a champion; then its gate was raised, and the next candidate did not pass."""
    folder = tmp_path_factory.mktemp("ui") / "tumours"
    good(mlops(folder.parent, "init", "tumours"))
    file = folder / "definitions.py"
    file.write_text(file.read_text().replace('metrics=["roc_auc"]', CALENDAR))
    good(mlops(folder, "run"))
    file.write_text(file.read_text().replace("at_least=0.9", "at_least=0.9999"))
    failed = mlops(folder, "run", "--select", 'key:"model/benign_candidate"')
    assert failed.returncode == 1
    assert "the champion stays version 1" in failed.stdout
    return folder


@pytest.fixture(scope="module")
def ui(project) -> Iterator[tuple[Page, str]]:
    with (
        web_ui(project / "definitions.py", clean_environment(project / ".mlops")) as url,
        browser_page() as page,
    ):
        yield page, url


@pytest.fixture
def instance(project) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(project / ".mlops" / "dagster")) as opened:
        yield opened


def test_the_graph_shows_every_asset_in_its_group(ui) -> None:
    page, url = ui
    open_graph(page, url, ["data", "benign"])
    # Dagster shortens a label of more than 18 characters in the middle.
    for name in ("diagnoses", "examples", "benign_candidate", "benign_version", "benign_champion", "scree…_predictions"):
        expect(page.locator("foreignObject").filter(has_text=name).first).to_be_visible()
    for group in ("data", "benign"):
        expect(page.get_by_text(group, exact=True).first).to_be_visible()


def test_a_model_shows_its_gates_metrics_and_plots(ui) -> None:
    page, url = ui
    page.goto(f"{url}/assets/model/benign_candidate?view=checks")
    expect(page.get_by_text("roc_auc_at_least").first).to_be_visible()
    expect(page.get_by_text("blocking").first).to_be_visible()
    page.goto(f"{url}/assets/model/benign_candidate")
    for key in ("metrics", "ROC", "calibration", "importance"):
        expect(page.get_by_text(key, exact=True).first).to_be_visible()
    page.get_by_role("button", name="Show Markdown").or_(page.get_by_text(re.compile("show markdown", re.IGNORECASE))).first.click()
    picture = page.locator('img[src^="data:image/png"]').first
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 100


def test_a_version_shows_its_card_and_what_it_says_literally(ui) -> None:
    page, url = ui
    page.goto(f"{url}/assets/version/benign_version")
    page.get_by_role("button", name="Show Markdown").or_(page.get_by_text(re.compile("show markdown", re.IGNORECASE))).first.click()
    expect(page.get_by_role("heading", name="benign, version 1")).to_be_visible()
    expect(page.get_by_role("heading", name="Calibration")).to_be_visible()
    expect(page.get_by_role("cell", name="mean_radius").first).to_be_visible()
    expect(page.get_by_text(LIMIT)).to_be_visible()
    assert page.evaluate("window.ran") is None


def test_a_schedule_is_switched_on_in_the_ui(ui, instance) -> None:
    page, url = ui
    page.goto(f"{url}/automation")
    # The row itself, once it has its switch: rows fill one by one, and another's switch may be there first.
    switch, name = ".//label[contains(@class, 'formatSwitch')]", "contains(., 'retrain_benign_schedule')"
    row = page.locator(f"xpath=//*[{switch} and {name} and not(contains(., 'mlops_'))]").last
    row.locator('label[class*="formatSwitch"]').click()
    for _ in range(2 * PATIENCE):
        states = {state.name: state.status.value for state in instance.all_instigator_state()}
        if states.get("retrain_benign_schedule") == "RUNNING":
            return
        page.wait_for_timeout(500)
    raise AssertionError(states)


def test_a_version_materialised_alone_after_a_failed_gate_is_refused(ui, instance, project) -> None:
    page, url = ui
    known = {run.run_id for run in instance.get_runs()}
    page.goto(f"{url}/assets/version/benign_version")
    page.get_by_role("button", name="Materialize").first.click()
    run = _ended(page, instance, known)
    assert run.status is dg.DagsterRunStatus.FAILURE
    logs = [
        entry.dagster_event.step_failure_data.error.to_string()
        for entry in instance.all_logs(run.run_id)
        if entry.is_dagster_event and entry.dagster_event.is_step_failure
    ]
    assert "GateError" in logs[0]
    assert "cannot be registered: gate 'roc_auc_at_least' failed" in logs[0]
    page.goto(f"{url}/runs/{run.run_id}")
    expect(page.get_by_text("cannot be registered").first).to_be_visible()
    registry = open_registry(f"sqlite:///{project / '.mlops' / 'registry.sqlite'}")
    assert [v.version for v in registry.versions("benign")] == [1]
    assert registry.champion("benign").version == 1


def _ended(page: Page, instance: dg.DagsterInstance, known: set[str]) -> dg.DagsterRun:
    for _ in range(2 * PATIENCE):
        new = [run for run in instance.get_runs() if run.run_id not in known]
        if new and new[0].is_finished:
            return new[0]
        page.wait_for_timeout(500)
    raise AssertionError("the run that the button launched has not ended")
