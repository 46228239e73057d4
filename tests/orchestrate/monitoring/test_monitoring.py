"""The pages of a monitor's windows, whichever step was the last to run."""

from pathlib import Path

import pytest

import mlops_assets as ml
from mlops_assets.cli.monitoring import reports
from mlops_assets.cli.project import LoadedProject
from mlops_assets.cli.project_target import ProjectTarget
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.compiler.build import compiled_projects
from mlops_assets.orchestrate.monitoring.reports import build_page_path
from tests.conftest import Runner, metadata
from tests.projects import visits as project

DAYS, DAY = "2024-01-01...2024-01-25", "2024-01-20"
PERFORMANCE = ml.Performance("roc_auc", at_least=0.1, min_labels=5)


def watched(run, platform, *expectations) -> Runner:
    """A champion and its predictions of one day, with a monitor of them."""
    nouns = project.nouns(project.World())
    monitor = ml.Monitor("watch", of=nouns[-1], expectations=expectations, min_rows=5)
    runner = run(ml.build_definitions([*nouns, monitor], platform=platform))
    runner(*project.DATA, partitions=DAYS)
    runner(*project.TRAIN)
    runner(project.PREDICTIONS, partitions=DAY)
    return runner


def test_a_drift_report_that_is_made_again_leaves_performance_on_the_page(run, platform) -> None:
    runner = watched(run, platform, ml.Drift(), PERFORMANCE)
    page = build_page_path(platform.home, "watch", DAY)
    runner("drift_report/watch", partitions=DAY)
    early = page.read_text()
    assert "No performance report" in early
    assert "Most drifted columns" in early
    runner("performance_report/watch", partitions=DAY)
    whole = page.read_text()
    assert "<h2>Performance</h2>" in whole
    assert "Most drifted columns" in whole
    runner("drift_report/watch", partitions=DAY)
    assert page.read_text() == whole
    assert [file.name for file in page.parent.iterdir()] == [page.name]
    (beside := page.with_name("beside")).write_text("")
    assert page.stat().st_mode & 0o044 == beside.stat().st_mode & 0o044  # who may see other files may see pages


def test_a_monitor_that_expects_nothing_of_drift_says_so_on_its_page(run, platform) -> None:
    runner = watched(run, platform, PERFORMANCE)
    shown = metadata(runner("performance_report/watch", partitions=DAY), "performance_report/watch")
    assert shown["state"] == "good"
    text = build_page_path(platform.home, "watch", DAY).read_text()
    assert "the monitor declares no drift expectation" in text
    assert "nothing was predicted" not in text


@pytest.mark.parametrize("command", [reports.describe_monitor, reports.write_evidently_report])
def test_a_window_that_is_not_there_is_named(platform, command) -> None:
    nouns = project.nouns(project.World())
    definitions = ml.build_definitions([*nouns, ml.Monitor("watch", of=nouns[-1], expectations=ml.Drift())], platform=platform)
    loaded = LoadedProject(ProjectTarget(Path("visits.py"), "visits", Path(), in_package=False), definitions, compiled_projects()[-1:])
    with pytest.raises(
        DefinitionError, match="monitor 'watch' has no window '2024-01-32'.*\nHint: did you mean '2024-01-30'.*there are 2024-01-01 to"
    ):
        command(loaded, "watch", "2024-01-32")
