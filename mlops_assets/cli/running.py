"""``mlops run``: materialise assets in this process on the persistent instance, and show progress."""

from __future__ import annotations

import fcntl
import os
import threading
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from rich.markup import escape

from mlops_assets.cli.partition_range import find_partitions
from mlops_assets.cli.project import LoadedProject, open_reconciled_instance
from mlops_assets.errors import DefinitionError, InstallationError, suggest_name
from mlops_assets.orchestrate.compiler.extras import find_missing_packages, refuse_missing_packages
from mlops_assets.orchestrate.core.beta import allow_beta
from mlops_assets.orchestrate.core.liveness import build_process_tags
from mlops_assets.orchestrate.training.training_set import AS_OF_CONFIG
from mlops_assets.values.asset_names import build_graph_key, find_declared_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from rich.console import Console

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
QUIET: dict[str, Any] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
_POLL = 0.2  # seconds between two reads of the event log
_SHOWN = {
    dg.DagsterEventType.STEP_START,
    dg.DagsterEventType.STEP_SUCCESS,
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.STEP_SKIPPED,
}


@dataclass
class StepProgress:
    """The state and duration of one step; while it runs, ``seconds`` is the negative time of its start."""

    name: str
    seconds: float = 0.0
    state: str = "waiting"


@dataclass
class FinishedRun:
    """The result of a run, its duration in seconds, and step key → progress."""

    result: dg.ExecuteInProcessResult
    steps: dict[str, StepProgress] = field(default_factory=dict)
    seconds: float = 0.0


def run_assets(project: LoadedProject, *, select: str, partitions: str | None, as_of: str | None, console: Console) -> FinishedRun:
    """Materialise a selection of assets in this process, without approvals; a run that fails is returned, not raised.

    Parameters
    ----------
    project
        The project.
    select
        In Dagster's selection syntax.
    partitions
        ``KEY`` or ``FIRST...LAST``, for every partitioned asset of the selection.
    as_of
        Training sets use only what was known by this time, in ISO 8601; the current time when None.
    console
        The console that shows progress.

    Raises
    ------
    DefinitionError
        The selection is empty, or the partitions do not fit it.
    InstallationError
        Another run is in progress in the platform's home.
    MissingExtraError
        An optional package that the selection needs is not installed.
    """
    assets = drop_decisions(select_assets(project.definitions, select), models_with_approval(project.definitions))
    _refuse_missing_packages(project, assets)
    tags = {**_partition_tags(project.definitions, assets, partitions), **build_process_tags(os.getpid())}
    config = _build_run_config(assets, as_of)
    with lock_home(Path(project.platform.home)):
        instance = open_reconciled_instance(project.platform)
        return execute_job(project.definitions.resolve_implicit_global_asset_job_def(), instance, assets, tags, config, console)


def _refuse_missing_packages(project: LoadedProject, assets: Sequence[dg.AssetKey]) -> None:
    """Refuse a run that would fail at an import, perhaps after hours; a missing package of the MLflow mirror never stops a run."""
    keys = {"", *(key.to_user_string() for key in assets)}
    missing = [need for part in project.parts for need in find_missing_packages(part.project, part.platform)]
    refuse_missing_packages([need for need in missing if build_graph_key(need.asset) in keys and need.extra != "mlflow"])


def select_assets(definitions: dg.Definitions, select: str) -> list[dg.AssetKey]:
    """Return the materialisable assets of a selection in topological order.

    Raises
    ------
    DefinitionError
        The selection cannot be read, or matches no asset.
    """
    graph = definitions.resolve_asset_graph()
    try:
        with allow_beta():
            selection = dg.AssetSelection.all() if select == "*" else dg.AssetSelection.from_string(select)
            keys = selection.resolve(graph)
    except Exception as error:
        raise DefinitionError(
            f"the selection {select!r} cannot be read: {str(error).splitlines()[0]}",
            hint="e.g. --select 'key:\"model/*\"' or --select 'kind:scikitlearn'",
        ) from error
    assets = [key for key in graph.toposorted_asset_keys if key in keys and key in graph.materializable_asset_keys]
    if not assets:
        known = sorted(key.to_user_string() for key in graph.materializable_asset_keys)
        pattern = select.split('"')[1] if '"' in select else select
        raise DefinitionError(
            f"the selection {select!r} matches no asset", hint=suggest_name(pattern, known) + f"there are {', '.join(known)}"
        )
    return assets


def models_with_approval(definitions: dg.Definitions) -> set[str]:
    """Return the names of the models whose versions a person approves."""
    return _find_names("approval", definitions.resolve_asset_graph().materializable_asset_keys)


def _find_names(kind: str, keys: Iterable[dg.AssetKey]) -> set[str]:
    return {find_declared_name(key.to_user_string()) for key in keys if key.path[0] == kind}


def drop_decisions(assets: Sequence[dg.AssetKey], needs_approval: AbstractSet[str]) -> list[dg.AssetKey]:
    """Return the assets that can run without a person's approval.

    Approval assets are dropped, and the champion asset of each model that needs approval and whose version asset is among the assets too.

    Parameters
    ----------
    assets
        Assets of a selection, which run together.
    needs_approval
        Models whose versions a person approves.

    Raises
    ------
    DefinitionError
        No asset is left.
    """
    unapproved = needs_approval & _find_names("version", assets)  # versions that this run makes, which no one can have approved yet
    remaining = [
        key
        for key in assets
        if key.path[0] != "approval" and not (key.path[0] == "champion" and find_declared_name(key.to_user_string()) in unapproved)
    ]
    if not remaining:
        name = min(_find_names("approval", assets))
        raise DefinitionError(
            f"'{build_graph_key(f'approval/{name}')}' cannot be run here, because a person decides it",
            hint=f"run `mlops models approve {name} VERSION --approver NAME --reason WHY`, or materialise it in the UI's launchpad",
        )
    return remaining


def _partition_tags(definitions: dg.Definitions, assets: Sequence[dg.AssetKey], partitions: str | None) -> dict[str, str]:
    """Return the tags of a run over a range of partitions; empty when no chosen asset has partitions.

    Raises
    ------
    DefinitionError
        The assets have different partitions, or the range is missing, unknown or reversed.
    """
    graph = definitions.resolve_asset_graph()
    partitioned = {key: definition for key in assets if (definition := graph.get(key).partitions_def) is not None}
    if not partitioned:
        return {}
    (first_key, definition), *rest = partitioned.items()
    for key, partitioning in rest:
        if partitioning != definition:
            raise DefinitionError(
                f"'{first_key.to_user_string()}' and '{key.to_user_string()}' have different partitions",
                hint="run them one after the other with --select",
            )
    if partitions is None:
        keys = definition.get_partition_keys()
        example = (
            f"e.g. --partitions {keys[0]}...{keys[min(6, len(keys) - 1)]}; there are {keys[0]} to {keys[-1]}" if keys else "it has none yet"
        )
        raise DefinitionError(f"'{first_key.to_user_string()}' is partitioned: name the partitions", hint=example)
    chosen = find_partitions(definition, partitions, f"'{first_key.to_user_string()}'")
    return {RANGE_START: chosen[0], RANGE_END: chosen[-1]}


def _build_run_config(assets: Sequence[dg.AssetKey], as_of: str | None) -> dict[str, Any]:
    if as_of is None:
        return dict(QUIET)
    names = ["__".join(key.path) for key in assets if key.path[0] == "training_set"]
    return QUIET | {"ops": {name: {"config": dict.fromkeys(AS_OF_CONFIG, as_of)} for name in names}}


@contextmanager
def lock_home(home: Path) -> Iterator[None]:
    """Lock a home for one run of the command line; raise InstallationError immediately if another run holds the lock."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        file = (home / "run.lock").open("a+", encoding="ascii")
    except OSError as error:
        raise InstallationError(
            f"'{home}' cannot be written: {error.strerror}", hint="make it writable, or set MLOPS_HOME to another folder"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise InstallationError(
                f"another `mlops run` (process {file.read().strip() or 'unknown'}) is running in '{home}'",
                hint="wait until it has ended; nothing was changed",
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def execute_job(  # noqa: PLR0913  (the parts of a run)
    job: dg.JobDefinition,
    instance: dg.DagsterInstance,
    assets: Sequence[dg.AssetKey] | None,
    tags: Mapping[str, str],
    config: dict[str, Any],
    console: Console,
) -> FinishedRun:
    """Run the chosen assets of a job, or with None the whole job, in this process, and show progress; a failure is not raised."""
    run_id = str(uuid.uuid4())
    started = time.monotonic()
    steps: dict[str, StepProgress] = {}
    selection = None if assets is None else list(assets)
    with _follow_events(instance, run_id, steps, console):
        result = job.execute_in_process(
            instance=instance, asset_selection=selection, tags=dict(tags), run_config=config, run_id=run_id, raise_on_error=False
        )
    return FinishedRun(result, steps, time.monotonic() - started)


@contextmanager
def _follow_events(instance: dg.DagsterInstance, run_id: str, steps: dict[str, StepProgress], console: Console) -> Iterator[None]:
    """Follow the event log in a thread, so that an interrupt reaches the run."""
    ended = threading.Event()
    with console.status("starting") as status:
        thread = threading.Thread(target=_poll_events, args=(instance, run_id, steps, console, status.update, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(timeout=10)


def _poll_events(  # noqa: PLR0913  (everything the thread shares with the run)
    instance: dg.DagsterInstance,
    run_id: str,
    steps: dict[str, StepProgress],
    console: Console,
    show: Callable[[str], None],
    ended: threading.Event,
) -> None:
    """Show the events of a run, and collect its steps in ``steps``, until the run has ended and its last event is shown."""
    cursor: str | None = None
    while True:
        last = ended.is_set()
        page = instance.get_records_for_run(run_id, cursor=cursor, of_type=_SHOWN)
        cursor = page.cursor
        for record in page.records:
            _show_event(record.event_log_entry, steps, console, show)
        if last and not page.has_more:
            return
        ended.wait(_POLL)


def _show_event(entry: Any, steps: dict[str, StepProgress], console: Console, show: Callable[[str], None]) -> None:  # noqa: ANN401
    event = entry.dagster_event
    if event is None or entry.step_key is None:
        return
    step = steps.setdefault(entry.step_key, StepProgress(entry.step_key.replace("__", "/", 1)))
    name = escape(step.name)  # dynamic steps of plain assets have names such as 'load[a]'
    match event.event_type:
        case dg.DagsterEventType.STEP_START:
            step.seconds, step.state = -entry.timestamp, "running"
            show(f"{name} …")
        case dg.DagsterEventType.STEP_SUCCESS | dg.DagsterEventType.STEP_FAILURE:
            step.seconds += entry.timestamp
            step.state = "done" if event.event_type is dg.DagsterEventType.STEP_SUCCESS else "failed"
            console.print(f"{'[green]✓[/]' if step.state == 'done' else '[red]✗[/]'} {name}  {step.seconds:.1f} s", highlight=False)
        case dg.DagsterEventType.STEP_SKIPPED:
            step.state = "skipped"
            console.print(f"[dim]– {name}  not run[/]", highlight=False)
