"""What a pull request runs: a candidate in an environment of its own, beside the champion of prod, and a report of it; workflows that are valid."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.cli.ci import _choose_partitions
from mlops_assets.stores.registry.registry import open_registry
from tests.cli.test_cli import good, mlops
from tests.conftest import ROOT
from tests.projects import routes

SCHEMAS = Path(sys.executable).parent / "check-jsonschema"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project with workflows, whose version 1 is the champion of prod."""
    folder = tmp_path_factory.mktemp("ci") / "tumours"
    good(mlops(folder.parent, "init", "tumours", "--ci", "github"))
    file = folder / "definitions.py"
    file.write_text(
        file.read_text()
        .replace('metrics=["roc_auc"]', 'metrics=["roc_auc", "neg_log_loss"], slices=["<b>"]')
        .replace("    return diagnoses\n", '    return diagnoses.with_columns((pl.col("mean_radius") > 14).cast(pl.String).alias("<b>"))\n')
    )
    good(mlops(folder, "run", MLOPS_ENV="prod"))
    return folder


def changed(project: Path, was: str, now: str) -> None:
    file = project / "definitions.py"
    assert was in file.read_text()
    file.write_text(file.read_text().replace(was, now))


def test_a_change_that_is_worse_is_refused_and_one_that_is_not_says_so(project) -> None:
    url = f"sqlite:///{project / '.mlops' / 'registry.sqlite'}"
    champion = open_registry(url, "prod").champion("benign")
    changed(project, '"mean_radius", "mean_texture", "mean_smoothness"', '"mean_smoothness"')
    assert mlops(project, "ci", "train").returncode == 1
    told = mlops(project, "ci", "report", "--output", "report.md", "--html", "report.html")
    assert told.returncode == 1, told.stderr
    text = (project / "report.md").read_text()
    assert text.startswith("## ❌ benign: blocked by roc\\_auc\\_at\\_least\n")
    assert "compared with version 1, champion of prod on the same rows" in text
    assert "| X | \\[" in text
    assert "&lt;b&gt; = true" in text
    assert "<b>" not in text
    assert all((project / path).exists() for path in ("report_files/benign-roc.png", "report_files/benign-calibration.png"))
    assert "data:image/png;base64," in (project / "report.html").read_text()
    changed(project, 'columns=["mean_smoothness"]', 'columns=["mean_radius", "mean_texture", "mean_smoothness", "mean_area"]')
    good(mlops(project, "ci", "train", "benign"))
    text = good(mlops(project, "ci", "report", "benign", "--pictures-url", "https://example.com/"))
    assert text.splitlines()[0].startswith(("## ✅ benign: ", "## ⚠️ benign: "))
    assert "mlops ci train benign" in text
    assert open_registry(url, "prod").champion("benign") == champion
    assert open_registry(url, "ci").champion("benign") is None
    assert [v.version for v in open_registry(url, "ci").versions()] == [1], "nothing is registered before it is merged"


def test_what_cannot_be_reported_is_named(project, tmp_path) -> None:
    done = mlops(project, "ci", "report", "--environment", "staging")
    assert done.returncode == 1
    assert "model 'benign' has no candidate in 'staging'" in done.stderr
    assert "`mlops ci train`" in done.stderr
    (project / "fixed.py").write_text(
        (project / "definitions.py").read_text().replace("screening])", 'screening], platform=ml.Platform.at("here", environment="prod"))')
    )
    done = mlops(project, "ci", "train", "-f", "fixed.py")
    assert done.returncode == 1
    assert "'fixed.py' fixes its environment to 'prod'" in done.stderr
    assert not (project / "here" / "registry.sqlite").exists()


def valid(file: Path) -> None:
    kind = ["vendor.gitlab-ci", "--data-transform", "gitlab-ci"] if "gitlab" in file.name else ["vendor.github-workflows"]
    done = subprocess.run([SCHEMAS, "--builtin-schema", *kind, file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_sample_is_the_end_of_a_range(tmp_path) -> None:
    @ml.dataset(partitions=routes.DAILY, key="trip", event_timestamp="at")
    def trips(window: ml.TimeWindow) -> pl.DataFrame:
        return routes.rows(window)

    project = SimpleNamespace(definitions=ml.build_definitions([trips], platform=ml.Platform.at(tmp_path)))
    first, second, third = routes.DAYS[:3]
    assert _choose_partitions(project, "*", f"{first}...{third}", 2) == f"{second}...{third}"
    assert _choose_partitions(project, "*", f"{third}...{first}", None) == f"{third}...{first}"  # the run refuses it


def test_workflows_are_written_once_and_are_what_github_and_gitlab_take(project) -> None:
    for file in ("model", "release", "rollback", "reproduce"):
        valid(project / ".github" / "workflows" / f"{file}.yml")
    assert "mlops reproduce benign@champion" in (project / ".github" / "workflows" / "reproduce.yml").read_text()
    assert "exists already" in mlops(project, "init", ".", "--ci", "github").stderr
    before = (project / "definitions.py").read_text()
    good(mlops(project, "init", ".", "--ci", "gitlab"))
    valid(project / ".gitlab-ci.yml")
    assert (project / "definitions.py").read_text() == before
    broken = project / "broken.gitlab-ci.yml"
    broken.write_text((project / ".gitlab-ci.yml").read_text().replace("stage: candidate", "stages: candidate"))
    with pytest.raises(AssertionError):
        valid(broken)


def test_the_workflows_of_this_repository_are_valid_and_use_commands_that_there_are() -> None:
    files = [*sorted((ROOT / ".github" / "workflows").glob("*.yml")), ROOT / ".gitlab-ci.yml"]
    assert len(files) == 6
    for file in files:
        valid(file)
    lines = {line.split("run:")[-1].strip("- |").strip() for file in files for line in file.read_text().splitlines() if "mlops " in line}
    said = sorted({" ".join(line.split()[1:3]) for line in lines if line.startswith("mlops ")})
    assert said == [
        "ci report",
        "ci train",
        "models history",
        "models promote",
        "models rollback",
        "reproduce lateness@champion",
        "validate",
    ]
    for words in said:
        names = [word for word in words.split() if "@" not in word]
        assert "Usage: mlops" in good(mlops(ROOT, *names, "--help"))
