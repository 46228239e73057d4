"""``mlops replay`` as users run it: on a fresh platform, on hourly data, killed and started again."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import psutil
import pytest

import mlops_assets as ml
from mlops_assets.cli.replay.preparation import describe_label_delay
from mlops_assets.cli.replay.progress import ProgressLines
from mlops_assets.orchestrate.replay.history import History
from tests.commands import ROOT, run_mlops

MLOPS = Path(sys.executable).with_name("mlops")
SPLIT = ml.TimeSplit(holdout=timedelta(days=5))
PERIOD = ("--from", "2024-01-11", "--to", "2024-02-01")
PROJECT = "import mlops_assets as ml\nfrom tests.projects.changing import ITEMS, POLICY\ndefs = ml.build_definitions(ITEMS)\n"


@pytest.fixture
def project(tmp_path) -> Path:
    (tmp_path / "definitions.py").write_text(PROJECT)
    (tmp_path / "policies.py").write_text(
        "from datetime import timedelta\nimport mlops_assets as ml\n"
        "often = ml.Retrain(every=timedelta(days=3), cooldown=timedelta(days=3), on=(), refit=True, train_windows=(None, timedelta(days=3)))\n"
        "early = ml.Retrain(on=('estimated',))\nnumber = 3\n"
    )
    return tmp_path


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "CHANGING_DAY": "18", "OMP_NUM_THREADS": "1", **changes}


def replay(folder: Path, *options: str, **changes: str) -> subprocess.CompletedProcess:
    return run_mlops(["replay", *PERIOD, *options], cwd=folder, env=environment(**changes))


def result_of(folder: Path) -> dict:
    (found,) = (folder / ".mlops" / "replays").glob("*/replay.json")
    return json.loads(found.read_text())


def test_a_fresh_platform_is_replayed_and_stays_as_it_was(project):
    options = ("--policy", "never", "--policy", "every:7d", "--policy", "loop", "--policy", "policies.py:often")
    command = [str(MLOPS), "replay", *PERIOD, *options]
    done = subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    policies = result_of(project)["policies"]
    assert list(policies) == ["never", "every:7d", "loop", "policies.py:often"]
    means = {name: sum(w["roc_auc"] for w in found["windows"]) / len(found["windows"]) for name, found in policies.items()}
    assert means["never"] < 0.75, "the label changes its meaning, so a model that is never trained again fails"
    assert means["loop"] > means["never"] + 0.02
    assert means["policies.py:often"] > means["never"] + 0.1
    assert any(alarm["window"] >= "2024-01-19" for alarm in policies["never"]["alarms"])
    assert sorted(path.name for path in (project / ".mlops").iterdir() if path.name != "lake") == ["replays"], (
        "the project's stores changed"
    )
    assert "page: " in done.stdout
    page = Path(done.stdout.rsplit("page: ", 1)[1].strip())
    assert "<script" not in page.read_text()
    assert "Which policy is better" in page.read_text()
    assert next(c for c in result_of(project)["comparisons"] if c["other"] == "policies.py:often")["difference"] < 0


def test_a_replay_that_is_killed_ends_with_the_same_json_and_repeats_no_fit(project, tmp_path_factory):
    (project / "definitions.py").write_text(
        PROJECT.replace("ITEMS, POLICY", "POLICY, list_items").replace("ITEMS", "list_items(POLICY, ml.Drift())")
    )
    options = ("--policy", "every:3d", "--policy", "loop", "--processes", "2")
    calls = project / "fits"
    done = replay(project, *options, CHANGING_FITS=str(calls), CHANGING_SPREAD="0.3")
    expected, fits = result_of(project), calls.read_text().count("\n")
    check_drift(expected["policies"], done.stdout)
    again, temporary = tmp_path_factory.mktemp("killed"), Path(tempfile.mkdtemp())
    for name in ("definitions.py", "policies.py"):
        (again / name).write_text((project / name).read_text())
    killed = again / "fits"

    for _ in range(5):
        start_and_kill(again, options, killed, TMPDIR=str(temporary))
    assert list(temporary.rglob("*")) == []
    done = replay(again, *options, CHANGING_FITS=str(killed), CHANGING_SPREAD="0.3")

    assert done.returncode == 0, done.stderr
    assert result_of(again) == expected
    # A fit that was cut off is made again, at most one for each process and kill.
    assert fits <= killed.read_text().count("\n") <= fits + 10


def check_drift(policies: dict, printed: str) -> None:
    """The monitor expects no drift, and the spread of the column `a` changes on the day 2024-01-19."""
    assert "drift" not in policies["every:3d"]
    alarms = [alarm for alarm in policies["loop"]["alarms"] if alarm["kind"] == "drift"]
    assert alarms[0]["window"] == "2024-01-19"
    assert alarms[0]["columns"] == ["a"]
    assert alarms[0]["reason"].startswith("drift in 1 of 2 columns. a: ")
    found = policies["loop"]["drift"]
    assert (found["windows"], found["evaluated"], found["alarms"]) == (21, 21, len(alarms))
    assert found["columns"] == {"a": {"windows": len(alarms), "first": len(alarms)}}
    assert f"drift alarms of loop: {len(alarms)} of 21 windows; most drifted column: a in {len(alarms)}" in printed
    page = Path(printed.rsplit("page: ", 1)[1].strip()).read_text()
    assert f"Drift in {len(alarms)} of 21 evaluated windows" in page
    assert "The drift of `loop` is evaluated with all options" in page


def start_and_kill(folder: Path, options: tuple[str, ...], calls: Path, **changes: str) -> None:
    """Start a replay, kill it at a random moment after its next fits have begun, and wait until its workers have ended too."""
    before = calls.read_text().count("\n") if calls.exists() else 0
    process = subprocess.Popen(
        [str(MLOPS), "replay", *PERIOD, *options],
        cwd=folder,
        env=environment(CHANGING_FITS=str(calls), CHANGING_SPREAD="0.3", **changes),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    more = random.randint(1, 3)
    while process.poll() is None and (calls.read_text().count("\n") if calls.exists() else 0) < before + more:
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive, "a worker has outlived its replay"


def test_no_training_is_promoted_without_drift_and_prove_is_suggested(project):
    done = replay(project, "--policy", "never", "--policy", "loop", "--suggest", CHANGING_DAY="99")

    assert done.returncode == 0, done.stderr
    found = result_of(project)
    policies = found["policies"]
    assert {name: len(policy["windows"]) for name, policy in policies.items()} == dict.fromkeys(policies, 21)
    assert [alarm for policy in policies.values() for alarm in policy["alarms"]] == []
    assert [event["reason"] for event in policies["loop"]["trainings"]] == ["the first training"]
    assert found["advice"]["policy"] == "prove"
    assert len(policies["prove"]["trainings"]) > 4
    assert sum(window["promoted"] for window in policies["prove"]["windows"]) == 1, "only the first training is promoted"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--policy", "sometimes"), "there is no policy 'sometimes'"),
        (("--policy", "every:0d"), "the policy 'every:0d' has a span of zero"),
        (("--policy", "never", "--policy", "never"), "the policy 'never' is given twice"),
        (("--policy", "policies.py:number"), "'policies.py' has no ml.Retrain(…) named 'number'"),
        (("--policy", "policies.py:early"), "the policy 'policies.py:early' retrains on estimated performance but estimates none"),
        (("--policy", "absent.py:number"), "there is no file 'absent.py' with a policy"),
        (("--metric", "roc_auk"), "names the metric 'roc_auk'"),
        (("--model", "answer"), "there is no model 'answer'"),
    ],
)
def test_an_option_that_cannot_work_is_refused_with_a_hint(project, options, message):
    done = replay(project, *options)

    assert done.returncode == 1
    assert message in done.stderr
    assert "hint" in done.stderr.lower()
    assert not (project / ".mlops" / "replays").exists()


def test_an_hourly_regression_is_replayed_from_a_fresh_platform(tmp_path):
    (tmp_path / "definitions.py").write_text(PROJECT.replace("changing import ITEMS, POLICY", "weather import ITEMS"))
    period = ("--from", "2013-02-15", "--to", "2013-05-01")
    command = ["replay", *period, "--policy", "never", "--policy", "every:30d", "--suggest", "--json", "replay.json"]

    done = run_mlops(command, cwd=tmp_path, env=environment())

    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "replay.json").read_text())
    policies, metric = found["policies"], "neg_mean_absolute_error"
    assert (found["metric"], found["by"]) == (metric, "day")
    assert {"never", "every:30d", "follow", "prove"} <= set(policies)
    days = [f"{day:%Y-%m-%d}" for day in pl.date_range(date(2013, 2, 15), date(2013, 4, 30), eager=True)]
    for policy in policies.values():
        assert [window["window"] for window in policy["windows"]] == days
        assert all(window["rows"] > 20 and window[metric] < 0 and window["version"] for window in policy["windows"][:-1])
        assert policy["windows"][-1]["rows"] == 0, "the labels of the last day are of May 1, which the replay does not load"
    errors = {name: -sum(window[metric] for window in policy["windows"][:-1]) for name, policy in policies.items()}
    errors = {name: error / (len(days) - 1) for name, error in errors.items()}
    assert errors["every:30d"] < errors["never"] - 1, "winter says nothing about the warmth of spring"
    assert len(found["comparisons"]) == len(policies) * (len(policies) - 1) // 2
    compared = next(c for c in found["comparisons"] if {c["policy"], c["other"]} == {"never", "every:30d"})
    assert compared["low"] * compared["high"] > 0, "the difference of never and every:30d is certain"
    advice = found["advice"]
    assert errors[advice["policy"]] < errors["never"] - 1
    assert isinstance(eval(advice["declaration"], {"ml": ml, "timedelta": timedelta}), ml.Retrain)  # noqa: S307  (our own text)


def test_a_project_without_time_is_refused_with_everything_that_it_lacks(tmp_path):
    template = ROOT / "mlops_assets" / "cli" / "template" / "definitions.py.txt"
    (tmp_path / "definitions.py").write_text(template.read_text())

    done = replay(tmp_path, "--suggest")

    assert done.returncode == 1
    assert "no dataset that it reads has partitions, and it has no event time" in done.stderr
    assert "declare partitions=dg.DailyPartitionsDefinition(…) and event_timestamp= of a dataset; declare event_timestamp=" in done.stderr


def test_a_period_without_partitions_is_refused(project):
    done = run_mlops(["replay", "--from", "2030-01-01", "--to", "2031-01-01"], cwd=project, env=environment())

    assert done.returncode == 1
    assert "no whole partition" in done.stderr


def test_progress_outside_of_a_terminal_is_a_line_now_and_then_on_standard_error(capsys):
    often, seldom = ProgressLines(seconds=0), ProgressLines(seconds=3600)

    for line in ("never: 2024-01-11, 2%", "never: 2024-01-12, 4%"):
        often.show(line)
        seldom.show(line)

    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "never: 2024-01-11, 2%\nnever: 2024-01-12, 4%\n")


@pytest.mark.parametrize(
    ("known_at", "sentence"),
    [
        ("known", "A label is known about 30 days after its event (median; 95 % of the labels within 40 days)."),
        (None, "Each label counts as known at the time of its event, because the training set declares no label_known_at=."),
    ],
)
def test_a_note_says_how_late_labels_are(known_at, sentence):
    @ml.training_set(columns=["x"], features=[], label="y", event_timestamp="at", label_known_at=known_at, split=SPLIT)
    def examples(events: pl.LazyFrame) -> pl.LazyFrame:
        return events

    at = pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 10), "1d", eager=True)
    late = [*[timedelta(days=30)] * 7, *[timedelta(days=40)] * 2, None]
    rows = pl.DataFrame({"at": at, "known": at + pl.Series(late)})

    assert describe_label_delay(History(examples, rows, ("x",))) == sentence
