"""Prepare a replay: its model, windows, policies and tables; run it, and summarise the result."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np

from mlops_assets.cli import project as projects
from mlops_assets.cli.replay.progress import ProgressLines
from mlops_assets.cli.replay.replay_tables import provide_stores
from mlops_assets.compute.replay.advice import advise
from mlops_assets.compute.replay.grid import build_grid, choose_period, round_span
from mlops_assets.compute.replay.policies import LOOP, NEVER, ReplayPolicy, parse_policy
from mlops_assets.compute.text import describe_span, format_number
from mlops_assets.compute.training.evaluate import check_metrics
from mlops_assets.errors import DefinitionError, suggest_name
from mlops_assets.orchestrate.replay.candidate_gates import select_gates
from mlops_assets.orchestrate.replay.drift import plan_drift
from mlops_assets.orchestrate.replay.fits import FitCache
from mlops_assets.orchestrate.replay.history import History, read_history
from mlops_assets.orchestrate.replay.run import run_policies, write_result
from mlops_assets.orchestrate.replay.simulation import ReplayPlan
from mlops_assets.orchestrate.replay.windows import group_windows, list_windows
from mlops_assets.orchestrate.training.gates import gather_gates
from mlops_assets.orchestrate.training.train_windows import check_policy
from mlops_assets.orchestrate.training.training_record import find_data_start, list_source_tables
from mlops_assets.values.decisions import Retrain
from mlops_assets.values.model import ESTIMATOR, GateFunction, Model
from mlops_assets.values.monitoring import Monitor, check_triggers
from mlops_assets.values.training import TimeSplit

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dagster as dg
    from rich.console import Console

    from mlops_assets.cli.project import LoadedProject
    from mlops_assets.compute.replay.result import PolicyResult, ReplayResult
    from mlops_assets.orchestrate.core.project import Project

REPLAYS = "replays"  # the folder in the platform's home
MAX_NAMED = 5  # columns in a line


@dataclass(frozen=True)
class ReplayRequest:
    """The options of `mlops replay`."""

    start: str
    end: str
    policies: tuple[str, ...]
    suggest: bool
    model: str
    by: str | None
    metric: str
    processes: int
    refresh: bool


@dataclass(frozen=True)
class FinishedReplay:
    """The result of a replay, the rows of its table, and the lines after it."""

    result: ReplayResult
    rows: list[dict[str, Any]]
    lines: list[str]


def run(loaded: LoadedProject, location: str, request: ReplayRequest, out: Console) -> FinishedReplay:
    """Run a replay and write its result.

    Parameters
    ----------
    loaded, location
        The project, and its name on the command line.
    request
        The options.
    out
        The console that shows progress.

    Raises
    ------
    DefinitionError
        The model, a policy, a metric or the period cannot be used.
    """
    project, model = choose_model(loaded, request.model)
    monitors = [m for m in project.select(Monitor) if m.model.key == model.key]
    monitor = next((m for m in monitors if m.on_failure is not None), monitors[0] if monitors else None)
    policies = read_policies(request, monitor) if request.policies or not request.suggest else []
    check_policies(policies, model, monitor)  # before tables are loaded
    partitions = find_partitions(project, model, monitor)
    start, end = (parse_time(text, partitions) for text in (request.start, request.end))
    windows = list_windows(partitions, start, end)
    by, units = group_windows(windows, request.by, getattr(partitions, "timezone", None) or "UTC")
    gates, skipped = select_gates(gather_gates(model, project.select(GateFunction)))
    metrics = tuple(dict.fromkeys([*([request.metric] if request.metric else []), *model.metrics]))
    check_metrics(metrics, "--metric")
    folder = Path(loaded.platform.home) / REPLAYS
    stores = provide_stores(loaded, project, model, folder, windows[-1][1].end, out, refresh=request.refresh)
    with out.status("reading the history"):
        history = read_history(stores, project, model)
    began, drift = find_data_start(stores, project, model), plan_drift(project, monitor)
    plan = ReplayPlan(model, gates, monitor, history, windows, units, metrics, began, drift)
    if request.suggest:
        suggested = suggest_policies(plan)
        policies = [*suggested, *(policy for policy in policies if policy not in suggested)]
    fits = FitCache(history, model, folder, request.processes, partial(load_model, location, str(Path.cwd()), model.name))
    try:
        with out.status("replaying") as status:
            show = status.update if out.is_terminal else ProgressLines().show
            result = run_policies(plan, policies, fits, by=by, notes=list_notes(plan, policies, skipped), show=show)
    finally:
        fits.close()
    page = write_result(result, folder / name_replay(result, history.digest))
    return FinishedReplay(result, summarise(result), [*describe_drift(result), *describe_advice(result), f"page: {page}"])


def choose_model(loaded: LoadedProject, name: str) -> tuple[Project, Model[..., Any]]:
    """Return the project part and the model with a name; without a name, the only model."""
    models = {m.name: (part.project, m) for part in loaded.parts for m in part.project.select(Model) if m.kind == ESTIMATOR}
    if not name and len(models) == 1:
        return next(iter(models.values()))
    if name not in models:
        known = ", ".join(sorted(models)) or "none"
        why = f"there is no model '{name}'" if name else "the project has several models" if models else "the project has no model"
        raise DefinitionError(why, hint=suggest_name(name, models) + f"name one with --model; there are {known}")
    return models[name]


def read_policies(request: ReplayRequest, monitor: Monitor | None) -> list[ReplayPolicy]:
    """Return the policies of the command line, or the default ones.

    Raises
    ------
    DefinitionError
        A policy cannot be read, or is given twice.
    """
    loop = monitor is not None and monitor.on_failure is not None
    texts = request.policies or (NEVER, "every:30d", *([LOOP] if loop else []))
    return [policy for text in texts for policy in _read_policy(text, monitor)]


def check_policies(policies: Sequence[ReplayPolicy], model: Model[..., Any], monitor: Monitor | None) -> None:
    """Raise DefinitionError for a policy that is given twice, or that the model, its training set or its monitor does not allow."""
    names = [policy.name for policy in policies]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise DefinitionError(f"the policy '{repeated[0]}' is given twice", hint="give each policy once")
    for policy in policies:
        if policy.retrain is not None:
            check_policy(policy.retrain, model, f"the policy '{policy.name}'")
            check_triggers(policy.retrain, monitor, f"the policy '{policy.name}'")


def suggest_policies(plan: ReplayPlan) -> list[ReplayPolicy]:
    """Return the grid of policies for `--suggest`."""
    start, end = plan.windows[0][1].start, plan.windows[-1][1].end
    if start <= (began := plan.history.data_start):
        raise DefinitionError(f"there are no data before {start}, on which the first version could train", hint="choose a later --from")
    shortest = min(span.end - span.start for _, span in plan.windows)
    by_time = isinstance(plan.model.training_set.split, TimeSplit)
    return build_grid(choose_period(end - start, shortest), start - began, by_time=by_time, tunes=plan.model.function.takes_validation)


def _read_policy(text: str, monitor: Monitor | None) -> list[ReplayPolicy]:
    if text == LOOP:
        if monitor is None or monitor.on_failure is None:
            raise DefinitionError(
                "the policy 'loop' needs a monitor of the model with on_failure=ml.Retrain(…)",
                hint="declare one, or replay FILE.py:NAME of an ml.Retrain(…)",
            )
        return [ReplayPolicy(LOOP, retrain=monitor.on_failure, drift=True)]
    path, colon, name = text.rpartition(":")
    if colon and path.endswith(".py"):
        return [ReplayPolicy(text, retrain=_import_policy(Path(path), name))]
    return [parse_policy(text)]


def _import_policy(path: Path, name: str) -> Retrain:
    if not path.is_file():
        raise DefinitionError(f"there is no file '{path}' with a policy", hint="give FILE.py:NAME of an ml.Retrain(…)")
    spec = importlib.util.spec_from_file_location(f"replay_policies_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # noqa: PT018, S101  (a file that ends in .py)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    value = getattr(module, name, None)
    if not isinstance(value, Retrain):
        known = [n for n, v in vars(module).items() if isinstance(v, Retrain)]
        raise DefinitionError(
            f"'{path}' has no ml.Retrain(…) named '{name}'", hint=suggest_name(name, known) + f"there are {', '.join(known) or 'none'}"
        )
    return value


def find_partitions(project: Project, model: Model[..., Any], monitor: Monitor | None) -> dg.PartitionsDefinition:
    """Return the windows after which policies decide: those of the monitor, or else of the training set's first partitioned table.

    Raises
    ------
    DefinitionError
        There are no windows, or the training set cannot be cut by time. The error names everything that is missing.
    """
    training_set = model.training_set
    if monitor is None:
        found = next((ref.partitions for ref in list_source_tables(project, training_set) if ref.partitions is not None), None)
    else:
        found = monitor.partitions
    missing: dict[str, str] = {}  # what is wrong → what to declare
    if found is None:
        missing["no dataset that it reads has partitions"] = (
            "declare partitions=dg.DailyPartitionsDefinition(…) and event_timestamp= of a dataset"
        )
    if training_set.event_timestamp is None:
        missing["it has no event time"] = "declare event_timestamp= of the training set, a column with the time of each row"
    if training_set.features and not training_set.as_known:
        missing["it uses features that were not known at the event time"] = "remove as_known=False"
    if missing:
        raise DefinitionError(f"'{training_set.key}' cannot be replayed: {', and '.join(missing)}", hint="; ".join(missing.values()))
    assert found is not None  # noqa: S101  (for the type checker)
    return found


def parse_time(text: str, partitions: dg.PartitionsDefinition) -> datetime:
    """Parse a time of the command line; a time without a zone is in the time zone of the partitions."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise DefinitionError(f"'{text}' is not a time", hint="give it as ISO 8601, e.g. 2013-05-01") from error
    return time if time.tzinfo else time.replace(tzinfo=ZoneInfo(getattr(partitions, "timezone", None) or "UTC"))


def load_model(location: str, folder: str, name: str) -> Model[..., Any]:
    """Import the project in a worker process, and return a model."""
    return choose_model(projects.load(location, Path(folder)), name)[1]


def list_notes(plan: ReplayPlan, policies: Sequence[ReplayPolicy], skipped: Sequence[str]) -> list[str]:
    """Return sentences on the labels of a replay, and on its differences from production."""
    model = plan.model
    notes = [
        describe_label_delay(plan.history),
        "`never` and `every:` fit on every known row and have no gates. Other policies keep a holdout, which trains too if they declare a refit.",
        "Versions of `never` and `every:` have no holdout: expectations that compare with it raise no alarm for them.",
        "The line for the project of an `every:` policy has the same times and rows, and also a holdout and the gates of the model.",
    ]
    if skipped:
        notes.append(f"The gates {', '.join(skipped)} are left out, because they measure the machine.")
    if model.approval:
        notes.append("Versions are promoted without the approval that production waits for.")
    if model.cron_schedule:
        notes.append(f"The schedule '{model.cron_schedule}' of the model is not replayed; every: policies are similar to schedules.")
    if plan.drift is not None and (watched := [policy.name for policy in policies if policy.drift]):
        notes.append(
            f"The drift of `{watched[0]}` is evaluated with all options of the monitor's ml.Drift, on the rows of the training set. "
            "Production also evaluates predicted rows that the training set leaves out. The drift of other policies is not evaluated."
        )
    return notes


def describe_label_delay(history: History) -> str:
    """Return a sentence on the time between events and their labels."""
    if history.training_set.label_known_at is None:
        return "Each label counts as known at the time of its event, because the training set declares no label_known_at=."
    known = history.label_times < np.iinfo(np.int64).max
    if not known.any():
        return "No label is known."
    delays = np.quantile(history.label_times[known] - history.times[known], [0.5, 0.95])
    median, late = (describe_span(round_span(timedelta(microseconds=float(delay)))) for delay in delays)
    return f"A label is known about {median} after its event (median; 95 % of the labels within {late})."


def name_replay(result: ReplayResult, digest: str) -> str:
    """Return the folder name of a replay: model, period, and a hash of data and policies."""
    policies = (policy.policy + result.declarations.get(policy.policy, "") for policy in result.policies)
    text = "\n".join([digest, result.by, result.metric, *policies])
    return f"{result.model}-{result.start:%Y%m%d}-{result.end:%Y%m%d}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def summarise(result: ReplayResult) -> list[dict[str, Any]]:
    """Return one row for each policy."""
    with_drift = any(policy.drift is not None for policy in result.policies)
    return [
        _summarise(result, policy) | ({"drift alarms": _describe_drift_count(policy)} if with_drift else {}) for policy in result.policies
    ]


def _describe_drift_count(policy: PolicyResult) -> str:
    return "" if policy.drift is None else f"{len(policy.drift_alarms)} of {policy.evaluated_windows}"


def _summarise(result: ReplayResult, policy: PolicyResult) -> dict[str, Any]:
    first = result.policies[0]
    found = result.compare(policy.policy, first.policy)
    interval = "" if found is None else f"{format_number(found.difference)} ({format_number(found.low)} to {format_number(found.high)})"
    return {
        "policy": policy.policy,
        f"mean {result.metric}": format_number(policy.mean(result.metric), 4),
        f"difference from {first.policy} (95 % CI)": interval,
        "trainings": len(policy.retrainings),
        "promoted": policy.promotions,
        "alarms": len(policy.performance_alarms),
        "CPU s": f"{policy.seconds:.0f}",
    }


def describe_drift(result: ReplayResult) -> list[str]:
    """Return a line on the columns that drift alarms name first, for each policy with such alarms."""
    lines = []
    for policy in result.policies:
        named = ", ".join(f"{column.name} in {column.first}" for column in policy.drifted_columns[:MAX_NAMED] if column.first)
        if named:
            lines.append(
                f"drift alarms of {policy.policy}: {len(policy.drift_alarms)} of {policy.evaluated_windows} windows; most drifted column: {named}"
            )
    return lines


def describe_advice(result: ReplayResult) -> list[str]:
    """Return the advice as lines for the console."""
    advice = advise(result)
    line = result.declarations.get(advice.policy)
    return [f"{advice.headline}. {advice.text}", *([f"to use it, declare in the ml.Monitor: on_failure={line}"] if line else [])]
