"""What orchestration costs: five steps that do next to nothing, imports, and a dbt step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.harness import BIN, OUT, ROOT, Contender, ContenderError, Samples, Worker, alternate, environment, output, peer, scratch, timed
from bench.harness import versions as installed
from bench.report import Comparison, Facts, Report

DAGSTER = "dagster==1.13.27"
METAFLOW = "metaflow==2.19.39"
PROJECTS = ROOT / "bench" / "projects"
PYTHON = str(BIN / "python")
ROUNDS, WARM_ROUNDS, IMPORT_ROUNDS, DBT_ROUNDS = 4, 15, 15, 3
HEAVY = ("pandas", "polars", "sklearn", "evidently", "bentoml", "mlflow", "dagster")
OURS = "mlops run, 5 datasets"


@dataclass(frozen=True)
class Command:
    """A way to run five steps from the command line.

    Parameters
    ----------
    line
        The command.
    env
        Its environment; all its state is in one scratch folder.
    answer
        Reads back, after the runs, what the last of five steps left; must be 5.
    """

    line: tuple[str, ...]
    env: Mapping[str, str]
    answer: Callable[[], int]

    def run(self) -> float:
        """Run the command and return its seconds."""
        return timed(self.line, cwd=PROJECTS, env=self.env)


def run(*, full: bool) -> Report:  # noqa: ARG001  (nothing here grows)
    """Run the whole benchmark."""
    dagster, metaflow = peer("dagster", DAGSTER), peer("metaflow", METAFLOW)
    tables = [_command_line(dagster, metaflow), _warm(dagster), _imports(), _loaded(), _dbt()]
    versions = {f"{name} (ours)": v for name, v in installed(BIN / "python", "mlops_assets", "dagster", "dbt-core").items()}
    versions |= installed(dagster, "dagster") | installed(metaflow, "metaflow")
    return Report("overhead", "Orchestration overhead", tables, versions)


def _command_line(dagster: Path, metaflow: Path) -> Comparison:
    commands = {
        OURS: _ours("five_datasets.py", _lake_answer),
        "mlops run, 5 plain assets": _ours("ours_plain.py", _pickled),
        "dagster asset materialize, default executor": _dagster(dagster, "dagster_default.py"),
        "dagster asset materialize, in-process executor": _dagster(dagster, "dagster_in_process.py"),
        "metaflow run": _metaflow(metaflow),
    }
    samples = alternate({name: command.run for name, command in commands.items()}, rounds=ROUNDS)
    for name, command in commands.items():
        _judge(samples[name], command.answer)
    notes = [
        "Each step takes the number of the step before and adds one; the last must have left 5, read back from where each keeps it.",
        "Ours, as datasets: each step verifies one row, hashes it and commits it to the lake in a transaction of its own; the row is new in each run.",
        "The same five plain Dagster assets go to `mlops run` and to `dagster asset materialize`; every contender keeps its state on disk between runs.",
        "Metaflow runs each step in a process of its own, with its local metadata and datastore; pylint is off.",
        "Each contender's first run, which makes its folders, does not count.",
    ]
    return Comparison("5 steps from the command line", OURS, {"start to exit": samples}, notes)


def _judge(samples: Samples, answer: Callable[[], int]) -> None:
    """Let figures count only when five steps were really done."""
    if samples.failure is not None:
        return
    try:
        found = answer()
    except (ContenderError, OSError, ValueError) as error:
        samples.failure = f"its answer cannot be read: {error}"
        return
    if found != 5:
        samples.failure = f"the last step left {found}, not 5"


def _ours(file: str, answer: Callable[[Path], int]) -> Command:
    home = scratch(f"overhead-{Path(file).stem}")
    return Command((str(BIN / "mlops"), "run", "-f", file), environment(MLOPS_HOME=str(home)), partial(answer, home))


def _lake_answer(home: Path) -> int:
    code = "import sys; from mlops_assets.stores.lake.ducklake import DuckLake; print(DuckLake.open(sys.argv[1]).read('dataset/fifth')['n'][0])"
    return int(output([PYTHON, "-c", code, str(home / "lake")]))


def _pickled(home: Path) -> int:
    """Return what Dagster's own IO manager keeps of the last asset."""
    (file,) = home.rglob("storage/fifth")
    return int(output([PYTHON, "-c", "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')))", str(file)]))


def _dagster_home(name: str) -> Path:
    home = scratch(name)
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n", encoding="utf-8")
    return home


def _dagster(python: Path, file: str) -> Command:
    home = _dagster_home(f"overhead-{Path(file).stem}")
    line = (str(python.parent / "dagster"), "asset", "materialize", "-f", file, "--select", "*")
    return Command(line, environment(DAGSTER_HOME=str(home)), partial(_pickled, home))


def _metaflow(python: Path) -> Command:
    home = scratch("overhead-metaflow")
    stores = {"METAFLOW_HOME": str(home / "config"), "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(home)}
    env = environment(METAFLOW_USER="bench", **stores)
    return Command((str(python), "five_flow.py", "--no-pylint", "--quiet", "run"), env, partial(_flow_answer, python, env))


def _flow_answer(python: Path, env: Mapping[str, str]) -> int:
    code = "from metaflow import Flow; r = Flow('FiveFlow').latest_successful_run; assert len(list(r)) == 5; print(r['end'].task['n'].data)"
    return int(output([str(python), "-c", code], env=env))


def _warm(dagster: Path) -> Comparison:
    """Time runs in a process that has already imported and loaded everything."""
    plain, rows = scratch("overhead-warm-plain"), scratch("overhead-warm-datasets")
    peer_env = environment(DAGSTER_HOME=str(_dagster_home("overhead-warm-dagster")))
    workers = {
        "5 datasets": _warm_ours("five_datasets.py", rows),
        "5 plain assets, built by us": _warm_ours("ours_plain.py", plain),
        "5 plain assets, Dagster alone": Worker([str(dagster), "-m", "bench.projects.warm_dagster"], env=peer_env),
    }
    contenders: dict[str, Contender] = {name: partial(_ask, worker) for name, worker in workers.items()}
    samples = alternate(contenders, rounds=WARM_ROUNDS, warm=2)
    _judge(samples["5 datasets"], lambda: workers["5 datasets"].ask(do="last")["n"])
    for worker in workers.values():
        worker.close()
    notes = [
        "One process with everything imported and the instance open; each run is one `execute_in_process`, persisted in SQLite on disk. Metaflow has no such mode.",
        "Each run is checked to have made its five assets.",
    ]
    return Comparison("5 steps in a warm process", "5 datasets", {"one run": samples}, notes)


def _warm_ours(file: str, home: Path) -> Worker:
    return Worker([PYTHON, "-m", "bench.projects.warm_ours", str(PROJECTS / file)], env=environment(MLOPS_HOME=str(home)))


def _ask(worker: Worker) -> float:
    return worker.ask(do="run")["seconds"]


def _imports() -> Comparison:
    codes = {
        "import dagster, mlops_assets": "import dagster, mlops_assets",
        "import dagster": "import dagster",
        "import mlops_assets": "import mlops_assets",
        "import dagster; build_definitions": "import dagster; from mlops_assets import build_definitions",
        "python": "pass",
    }
    contenders: dict[str, Contender] = {name: partial(timed, [PYTHON, "-c", code], env=environment()) for name, code in codes.items()}
    samples = alternate(contenders, rounds=IMPORT_ROUNDS)
    beyond = _difference(samples["import dagster, mlops_assets"], samples["import dagster"])
    compiling = _difference(samples["import dagster; build_definitions"], samples["import dagster"])
    notes = [
        f"`import mlops_assets` adds {beyond} to `import dagster`, the median of the rounds' differences (target: at most 100 ms).",
        f"`build_definitions`, which a project file needs besides, adds {compiling}: it imports the stores with polars, DuckDB and SQLAlchemy.",
        "Whole processes from start to exit.",
    ]
    return Comparison("Imports", "import dagster, mlops_assets", {"start to exit": samples}, notes)


def _difference(more: Samples, less: Samples) -> str:
    gaps = sorted(a - b for a, b in zip(more.seconds, less.seconds, strict=False))
    return f"{gaps[len(gaps) // 2] * 1000:.0f} ms" if gaps else "an unknown time"


def _loaded() -> Facts:
    """Say which heavy packages an import brings along."""
    rows, wrong = [], []
    for code in ("import mlops_assets", "import mlops_assets; mlops_assets.build_definitions"):
        script = f"{code}; import sys, json; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
        found = json.loads(output([PYTHON, "-c", script]))
        rows.append((code, ", ".join(found) or "none"))
        if found and not rows[:-1]:
            wrong.append(f"{code} loads {', '.join(found)}")
    return Facts("Heavy packages that an import loads", ("", f"of {', '.join(HEAVY)}"), rows, wrong=wrong)


def _dbt() -> Comparison:
    """Time the dbt step of the flights project against dbt itself on the same lake."""
    home = scratch("overhead-dbt")
    env = environment(MLOPS_HOME=str(home))
    ours: tuple[str, ...] = (str(BIN / "mlops"), "run", "--partitions")
    features = ("2013-01-08", "--select", 'key:"features/carrier_punctuality_features" or key:"features/origin_punctuality_features"')
    label = "mlops run of the dbt step"
    try:
        output([*ours, "2013-01-01...2013-01-08", "--select", 'key:"dataset/flights"'], env=env)
        output([*ours, *features], env=env)
        rows = _feature_rows(home)
    except ContenderError as error:
        return Comparison("The dbt step", label, {"start to exit": {label: Samples(failure=str(error))}})
    plain = partial(timed, _plain_dbt(home), env=env | _window())
    contenders: dict[str, Contender] = {label: partial(timed, [*ours, *features], env=env), "dbt build": plain}
    samples = alternate(contenders, rounds=DBT_ROUNDS)
    _same_rows(samples, rows, home)
    shutil.rmtree(home)
    notes = [
        "Two models and six tests on one day of the flights project, on the same lake and with the same profile; dbt's own partial parsing is warm.",
        f"What `mlops run` adds to dbt: {_difference(samples[label], samples['dbt build'])}: loading the project, recording both tables, checks and events.",
        "The rows that both leave were compared.",
    ]
    return Comparison("The dbt step", label, {"start to exit": samples}, notes)


def _plain_dbt(home: Path) -> list[str]:
    target = str(OUT / "scratch" / "overhead-dbt" / "plain-target")
    stores = {"project-dir": str(ROOT / "dbt_features"), "profiles-dir": str(home / "dbt" / "dbt_features")}
    stores |= {"target-path": target, "log-path": target}
    return [str(BIN / "dbt"), "build", *(word for name, place in stores.items() for word in (f"--{name}", place))]


def _window() -> dict[str, str]:
    """Return the window of 2013-01-08 in New York, as our step hands it to the models."""
    return {"MLOPS_WINDOW_START": "2013-01-08T05:00:00+00:00", "MLOPS_WINDOW_END": "2013-01-09T05:00:00+00:00"}


def _feature_rows(home: Path) -> Any:
    code = (
        "import sys, json; from mlops_assets.stores.lake.ducklake import DuckLake; lake = DuckLake.open(sys.argv[1]);"
        "print(json.dumps([sorted(map(str, lake.read(f'features/{t}_punctuality').rows())) for t in ('carrier', 'origin')]))"
    )
    return json.loads(output([PYTHON, "-c", code, str(home / "lake")]))


def _same_rows(samples: Mapping[str, Samples], expected: Any, home: Path) -> None:
    """Compare what plain dbt, which ran last, left in the lake with what our first run had left."""
    if not expected[0] or _feature_rows(home) != expected:
        samples["dbt build"].failure = "it left other rows than our step"
