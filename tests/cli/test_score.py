"""``mlops doctor --score`` as a user calls it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlops_assets.cli.main import mlops
from tests.conftest import ROOT

PROJECT = str(ROOT / "tests/projects/scored.py")


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(mlops, ["doctor", *arguments])


def test_the_score_of_each_model_is_printed_with_what_to_do_next(call) -> None:
    result = call("--score", "-f", PROJECT)
    assert result.exit_code == 0, result.output
    assert "ML Test Score of buys: 0 (data 1.5, model 1, infrastructure 0.5, monitoring 0) of 7" in result.output
    assert "ML Test Score of padded_buys: 0 (data 0, model 0, infrastructure 0, monitoring 0) of 7" in result.output
    assert "mlops run" in result.output


def test_the_score_of_one_model_as_json(call, tmp_path) -> None:
    assert call("--score", "--model", "buys", "--json", "score.json", "-f", PROJECT).exit_code == 0
    (report,) = json.loads(Path("score.json").read_text())
    assert (report["model"], report["score"], len(report["tests"])) == ("buys", 0, 28)
    assert report["sections"] == {"data": 1.5, "model": 1.0, "infrastructure": 0.5, "monitoring": 0.0}
    row = next(row for row in report["tests"] if row["test"] == "data_privacy")
    assert (row["points"], row["evidence"]) == (0.5, "declared: by hand, https://wiki.example.com/privacy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--score", "--model", "buyz", "-f", PROJECT], "there is no model 'buyz'"),
        (["--score", "--fix", "-f", PROJECT], "--score cannot be combined with --fix"),
        (["--model", "buys", "-f", PROJECT], "add --score"),
    ],
)
def test_options_that_do_not_fit_are_refused(call, arguments, message) -> None:
    result = call(*arguments)
    assert result.exit_code != 0
    assert message in result.output + str(result.exception)
