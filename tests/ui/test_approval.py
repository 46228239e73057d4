"""A person approves exactly one version in the Dagster web UI, in a real browser; what the person writes is shown and never run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from mlops_assets.stores.registry.history import model_history
from mlops_assets.stores.registry.registry import open_registry
from tests.browser import browser_page, launch, runs_end, web_ui
from tests.cli.test_cli import good, mlops
from tests.conftest import clean_environment

REASON = 'slices [red] <img src=x onerror="window.ran=1"> <script>window.ran=1</script>\'; DROP TABLE mlops_versions; --'
CONFIG = """ops:
  approval__benign_approval:
    config:
      version: 1
      approver: grace
      reason: |-
        {reason}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project whose first version waits for a person."""
    folder = tmp_path_factory.mktemp("ui_approval") / "tumours"
    good(mlops(folder.parent, "init", "tumours"))
    file = folder / "definitions.py"
    file.write_text(file.read_text().replace('metrics=["roc_auc"]', 'metrics=["roc_auc"], approval=True'))
    said = good(mlops(folder, "run", "--select", 'not key:"predictions/*"'))
    assert "version 1 of benign waits for approval: mlops models approve benign 1 --approver NAME --reason WHY" in said
    return folder


@pytest.fixture(scope="module")
def ui(project) -> Iterator[tuple[Page, str]]:
    with (
        web_ui(project / "definitions.py", clean_environment(project / ".mlops")) as url,
        browser_page() as page,
    ):
        yield page, url


def test_a_person_approves_in_the_launchpad_and_the_check_shows_it(ui, project) -> None:
    page, url = ui
    refused = mlops(project, "models", "promote", "benign", "--version", "1", "--reason", "x")
    assert refused.returncode == 1
    assert "version 1 of 'benign' is not approved" in refused.stderr
    home = project / ".mlops"
    launch(page, url, "approval/benign_approval", CONFIG.format(reason=REASON))
    runs_end(page, home, after=1)
    registry = open_registry(f"sqlite:///{project / '.mlops' / 'registry.sqlite'}")
    (said,) = registry.approvals("benign", 1)
    assert (said.approved, said.approver, said.reason, said.digest) == (True, "grace", REASON, registry.versions("benign")[0].digest)
    page.goto(f"{url}/assets/version/benign_version?view=checks&checkDetail=approved")
    expect(page.get_by_text("version 1 approved by grace").first).to_be_visible()
    page.goto(f"{url}/assets/approval/benign_approval")
    expect(page.get_by_text("DROP TABLE mlops_versions").first).to_be_visible()
    assert page.evaluate("window.ran") is None
    assert page.locator('img[src="x"]').count() == 0
    assert "version 1" in good(mlops(project, "models", "promote", "benign", "--version", "1", "--reason", "approved"))
    assert registry.champion("benign").state == "champion"
    assert [e.kind for e in registry.history("benign")] == ["promotion"]
    assert [e.kind for e in model_history(f"sqlite:///{home / 'registry.sqlite'}", "benign")] == ["registration", "approval", "promotion"]
    shown = good(mlops(project, "models", "history", "benign"))
    assert "slices [red] <img" in shown
