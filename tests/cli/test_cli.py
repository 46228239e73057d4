"""The command line, and Dagster's own commands on the same projects."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.datasets import load_diabetes

from mlops_assets.stores.lake.ducklake import DuckLake
from tests.commands import run_program
from tests.conftest import ROOT, clean_environment

BIN = Path(sys.executable).parent


def command(folder: Path, *arguments: str, home: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    program = (
        [str(BIN / arguments[0]), *arguments[1:]]
        if (BIN / arguments[0]).exists()
        else [sys.executable, "-m", "mlops_assets.cli.main", *arguments[1:]]
    )
    return subprocess.run(
        program,
        cwd=folder,
        env=clean_environment(home or folder / ".mlops", PYTHONWARNINGS="ignore", **environment),
        capture_output=True,
        text=True,
        check=False,
    )


def warm(folder: Path, *line: str, home: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    return run_program(line, cwd=folder, env=clean_environment(home or folder / ".mlops", PYTHONWARNINGS="ignore", **environment))


def mlops(folder: Path, *arguments: str, home: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    return warm(folder, "mlops", *arguments, home=home, **environment)


def good(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A project of 25 lines, begun and run."""
    folder = tmp_path_factory.mktemp("projects")
    assert "wrote tumours/definitions.py" in good(command(folder, "mlops", "init", "tumours"))
    good(command(folder / "tumours", "mlops", "run"))
    return folder / "tumours"


def test_init_writes_a_small_project_that_runs_at_once(begun) -> None:
    assert len([line for line in (begun / "definitions.py").read_text().splitlines() if line.strip()]) <= 25
    assert DuckLake.open(begun / ".mlops" / "lake").read("predictions/screening").height == 569
    again = good(mlops(begun, "run"))
    assert "champion of benign: version 1 (before: the same)" in again
    assert "✓ model/benign_candidate" in again


def test_init_overwrites_nothing(begun) -> None:
    done = mlops(begun.parent, "init", "tumours")
    assert done.returncode == 1
    assert "exists already" in done.stderr
    assert "Hint:" in done.stderr


def test_status_models_and_validate_describe_the_project(begun) -> None:
    status = json.loads(good(mlops(begun, "status", "--json", "-")))
    assert {row["table"]: row["stale partitions"] for row in status["tables"]} == {
        "dataset/diagnoses": 0,
        "training_set/examples": 0,
        "predictions/screening": 0,
    }
    versions = json.loads(good(mlops(begun, "models", "list", "--json", "-")))
    assert [(v["version"], v["state"]) for v in versions] == [(1, "champion")]
    assert "roc_auc_at_least" in json.loads(good(mlops(begun, "models", "history", "benign", "--json", "-")))[0]["gates"]
    assert "definitions.py is valid: 6 assets" in good(mlops(begun, "validate"))
    assert "diagnoses" in good(mlops(begun, "status"))
    unknown = mlops(begun, "models", "list", "bening")
    assert (unknown.returncode, "did you mean 'benign'" in unknown.stderr) == (1, True)


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in ("init", "run", "status", "validate", "models", "ui"))])
def test_every_command_has_help_with_an_example(arguments, tmp_path) -> None:
    text = good(mlops(tmp_path, *arguments))
    assert arguments == ["models", "--help"] or "Example:" in text


def test_dagsters_own_commands_run_the_same_project(begun) -> None:
    home = {"DAGSTER_HOME": str(begun / ".mlops" / "dagster")}
    good(warm(begun, "dagster", "asset", "materialize", "-f", "definitions.py", "--select", "kind:scikitlearn", **home))
    good(warm(begun, "dagster", "asset", "materialize", "-f", "definitions.py", "--select", 'key:"model/benign_candidate"+1', **home))
    good(warm(begun, "dagster", "definitions", "validate", "-f", "definitions.py", **home))
    good(warm(begun, "dg", "check", "defs", **home))
    launched = good(warm(begun, "dg", "launch", "--assets", 'key:"training_set/examples" or kind:model', **home))
    assert "RUN_SUCCESS" in launched or launched is not None
    runs = json.loads(good(mlops(begun, "status", "--json", "-")))["runs"]
    assert {row["status"] for row in runs} == {"SUCCESS"}
    assert len(runs) >= 4


def test_the_workspace_of_the_repository_is_valid(tmp_path) -> None:
    done = command(
        ROOT,
        "dagster",
        "definitions",
        "validate",
        "-w",
        "workspace.yaml",
        home=tmp_path / "home",
        DAGSTER_HOME=str(_dagster_home(tmp_path)),
    )
    good(done)


def _dagster_home(folder: Path) -> Path:
    (folder / "dagster").mkdir(exist_ok=True)
    (folder / "dagster" / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    return folder / "dagster"


def test_bad_arguments_are_named_with_a_hint(begun, tmp_path) -> None:
    cases = {
        ("run", "--select", 'key:"model/benin_candidate"'): "did you mean 'model/benign_candidate'",
        ("run", "--select", "((("): "cannot be read",
        ("run", "-f", "nothing.py"): "no project file 'nothing.py'",
    }
    for arguments, words in cases.items():
        done = mlops(begun, *arguments)
        assert done.returncode == 1, arguments
        assert words in done.stderr
        assert "Hint:" in done.stderr
    (tmp_path / "empty.py").write_text("x = 1\n")
    assert "builds no definitions" in mlops(tmp_path, "run", "-f", "empty.py").stderr
    (tmp_path / "broken.py").write_text("import mlops_assets as ml\n@ml.dataset()\ndef a(b): ...\n")
    assert "parameter 'b' has no annotation" in mlops(tmp_path, "validate", "-f", "broken.py").stderr
    (tmp_path / "metric.py").write_text((begun / "definitions.py").read_text().replace("roc_auc", "roc_acu"))
    assert "did you mean 'roc_auc'" in mlops(tmp_path, "validate", "-f", "metric.py").stderr


def test_a_home_that_cannot_be_written_is_named(begun, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    done = mlops(begun, "run", home=tmp_path / "file" / "home")
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "MLOPS_HOME" in done.stderr


def test_a_second_run_is_refused_while_the_first_one_works(begun, tmp_path) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text(
        f"import time, pathlib\nimport mlops_assets as ml, polars as pl\n@ml.dataset()\ndef slow() -> pl.DataFrame:\n    pathlib.Path({str(tmp_path / 'begun')!r}).touch()\n"
        f"    while not pathlib.Path({str(tmp_path / 'end')!r}).exists(): time.sleep(0.05)\n    return pl.DataFrame({{'a': [1]}})\ndefs = ml.build_definitions([slow])\n"
    )
    environment = clean_environment(tmp_path / "home", PYTHONWARNINGS="ignore")
    first = subprocess.Popen(
        [str(BIN / "mlops"), "run", "-f", str(slow)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not (tmp_path / "begun").exists():
        assert first.poll() is None, first.stdout.read()
        time.sleep(0.05)
    second = mlops(tmp_path, "run", "-f", str(slow), home=tmp_path / "home")
    (tmp_path / "end").touch()
    assert first.wait() == 0, first.stdout.read()
    first.stdout.close()
    assert second.returncode == 1
    assert f"another `mlops run` (process {first.pid}) is running" in second.stderr
    assert DuckLake.open(tmp_path / "home" / "lake").read("dataset/slow").height == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_in_the_background_ends_on_request(number, tmp_path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time, pathlib\nimport mlops_assets as ml, polars as pl\n"
        "@ml.dataset()\ndef first() -> pl.DataFrame:\n    return pl.DataFrame({'a': [1]})\n"
        "@ml.dataset()\ndef slow(first: pl.DataFrame) -> pl.DataFrame:\n    pathlib.Path('begun').touch()\n    time.sleep(600)\n    return first\n"
        "defs = ml.build_definitions([first, slow])\n"
    )
    # As bash starts what ends in `&` in a script: SIGINT is ignored.
    script = f"{BIN / 'mlops'} run -f slow.py > said 2>&1 & echo $!; wait $!; exit $?"
    shell = subprocess.Popen(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=clean_environment(tmp_path / "home", PYTHONWARNINGS="ignore"),
        stdout=subprocess.PIPE,
        text=True,
    )
    pid = int(shell.stdout.readline())
    while not (tmp_path / "begun").exists():
        assert shell.poll() is None, (tmp_path / "said").read_text()
        time.sleep(0.05)
    os.kill(pid, number)
    assert shell.wait() == 1
    shell.stdout.close()
    said = (tmp_path / "said").read_text()
    assert "✗ dataset/slow: it was interrupted; what earlier steps committed stays" in said
    assert "Traceback" not in said
    found = json.loads(good(mlops(tmp_path, "status", "-f", "slow.py", "--json", "-", MLOPS_HOME=str(tmp_path / "home"))))
    assert [run["status"] for run in found["runs"]] == ["FAILURE"]
    assert DuckLake.open(tmp_path / "home" / "lake").read("dataset/first").height == 1


def test_a_second_project_of_monthly_regression(tmp_path) -> None:
    data = load_diabetes()
    rng = np.random.default_rng(0)
    n = 4000
    picked = rng.integers(0, len(data.target), n)
    sold = np.datetime64("2024-01-01", "us") + np.sort(rng.integers(0, 366 * 86_400, n)).astype("timedelta64[s]").astype("timedelta64[us]")
    frame = pl.DataFrame(
        {
            "sale": range(n),
            "sold_at": sold,
            "booked_at": sold + np.timedelta64(2, "D"),
            "region": [f"r{i % 3}" for i in picked],
            "rooms": data.data[picked, 2],
            "age": data.data[picked, 8],
            "price": data.target[picked] / 100,
        }
    )
    as_text = frame.with_columns(pl.col("sold_at", "booked_at").dt.strftime("%Y-%m-%dT%H:%M:%S"))
    as_text.write_csv(tmp_path / "sales.csv")
    project = str(ROOT / "tests" / "projects" / "sales.py")
    where = {"home": tmp_path / "home", "SALES_FILE": str(tmp_path / "sales.csv")}
    missing = mlops(tmp_path, "run", "-f", project, **where)
    assert "'dataset/sales' is partitioned: name the partitions" in missing.stderr
    assert "no partition '2024-13-01'" in mlops(tmp_path, "run", "-f", project, "--partitions", "2024-13-01", **where).stderr
    assert "are reversed" in mlops(tmp_path, "run", "-f", project, "--partitions", "2024-03-01...2024-01-01", **where).stderr
    out = good(mlops(tmp_path, "run", "-f", project, "--partitions", "2024-01-01...2024-12-01", **where))
    assert "champion of price: version 1" in out
    found = DuckLake.open(tmp_path / "home" / "lake").read("predictions/price_estimates")
    assert found.height == n
    assert found["probability"].null_count() == n
    truth = found.join(frame.select("sale", "price"), on="sale")
    assert np.corrcoef(truth["prediction"], truth["price"])[0, 1] > 0.5
    assert (tmp_path / "home" / "artifacts").exists()
