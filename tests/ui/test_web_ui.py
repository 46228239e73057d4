"""What a person sees and does in the Dagster web UI, in a real browser against the real web server."""

import re
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from playwright.sync_api import Page, expect

from mlops_assets.stores.registry.history import model_history
from mlops_assets.stores.registry.registry import SqlRegistry, open_registry
from tests.browser import PATIENCE, browser_page, launch, open_graph, web_ui
from tests.cli.test_cli import good, mlops
from tests.conftest import ROOT, clean_environment

LIMIT = 'Not for <b>children</b> | <img src=x onerror="window.ran=1"> [here](javascript:window.ran=1).'
CALENDAR = f'metrics=["roc_auc"], cron_schedule="0 4 * * 1", limits=[{LIMIT!r}]'
APPROVAL = re.compile(r"^```yaml approval/repays_approval\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REASON = 'slices [red] <img src=x onerror="window.ran=1"> <script>window.ran=1</script>\'; DROP TABLE mlops_versions; --'


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project with a champion; its second version waits for a person, and the next candidate did not pass its gate."""
    folder = tmp_path_factory.mktemp("ui") / "tumours"
    good(mlops(folder.parent, "init", "tumours"))
    file = folder / "definitions.py"
    file.write_text(file.read_text().replace('metrics=["roc_auc"]', CALENDAR))
    good(mlops(folder, "run"))
    file.write_text(
        file.read_text().replace("limits=", "approval=True, limits=").replace("LogisticRegression()", "LogisticRegression(C=2)")
    )
    said = good(mlops(folder, "run", "--select", 'not key:"predictions/*"'))
    assert "version 2 of benign waits for approval: mlops models approve benign 2 --approver NAME --reason WHY" in said
    file.write_text(file.read_text().replace("fit(train.X, ", "fit(train.X.reverse(), "))  # each row with the label of another
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


@pytest.fixture
def registry(project) -> SqlRegistry:
    return open_registry(f"sqlite:///{project / '.mlops' / 'registry.sqlite'}")


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
    expect(page.get_by_role("heading", name="benign, version 2")).to_be_visible()
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


def test_a_version_materialised_alone_after_a_failed_gate_is_refused(ui, instance, registry) -> None:
    page, url = ui
    champion = registry.champion("benign")
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
    assert [v.version for v in registry.versions("benign")] == [1, 2]
    assert registry.champion("benign") == champion


def _ended(page: Page, instance: dg.DagsterInstance, known: set[str]) -> dg.DagsterRun:
    for _ in range(2 * PATIENCE):
        new = [run for run in instance.get_runs() if run.run_id not in known]
        if new and new[0].is_finished:
            return new[0]
        page.wait_for_timeout(500)
    raise AssertionError("the run that the button launched has not ended")


def test_a_person_approves_one_version_in_the_launchpad_and_the_check_shows_it(ui, instance, project, registry) -> None:
    page, url = ui
    home = project / ".mlops"
    refused = mlops(project, "models", "promote", "benign", "--version", "2", "--reason", "x")
    assert refused.returncode == 1
    assert "version 2 of 'benign' is not approved" in refused.stderr
    known = {run.run_id for run in instance.get_runs()}
    launch(page, url, "approval/benign_approval", guides_approval())
    assert _ended(page, instance, known).status is dg.DagsterRunStatus.SUCCESS
    assert registry.approvals("benign", 1) == []
    (said,) = registry.approvals("benign", 2)
    assert (said.approved, said.approver, said.reason, said.digest) == (True, "grace", REASON, registry.versions("benign")[1].digest)
    page.goto(f"{url}/assets/version/benign_version?view=checks&checkDetail=approved")
    expect(page.get_by_text("version 2 approved by grace").first).to_be_visible()
    page.goto(f"{url}/assets/approval/benign_approval")
    expect(page.get_by_text("DROP TABLE mlops_versions").first).to_be_visible()
    assert page.evaluate("window.ran") is None
    assert page.locator('img[src="x"]').count() == 0
    assert "version 2" in good(mlops(project, "models", "promote", "benign", "--version", "2", "--reason", "approved"))
    champion = registry.champion("benign")
    assert (champion.version, champion.state) == (2, "champion")
    assert [(e.kind, e.version) for e in registry.history("benign")] == [("promotion", 1), ("promotion", 2)]
    kinds = [event.kind for event in model_history(f"sqlite:///{home / 'registry.sqlite'}", "benign")]
    assert kinds == ["registration", "promotion", "registration", "refusal", "approval", "promotion"]
    shown = good(mlops(project, "models", "history", "benign"))
    assert "slices [red] <img" in shown


def guides_approval() -> str:
    """Return the configuration that a guide says to type, for the version 2 of this project, with a reason that is not harmless."""
    (block,) = APPROVAL.findall((ROOT / "docs" / "guides" / "promotion.md").read_text())
    config, reason, _ = re.split("(?<=reason: )(.*)", block)
    assert reason
    return f"{config.replace('repays', 'benign')}|-\n        {REASON}\n"
