"""Collect the facts of a training that its reproduction needs: see docs/adr/0020-reproduction.md."""

import hashlib
import inspect
import json
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from mlops_assets.compute.tables.content_hash import hash_ordered_slices, ordered_hash
from mlops_assets.compute.tables.own_columns import SPLIT, TRAINING_SET_COLUMNS, rename_to_table
from mlops_assets.compute.tables.stored_types import cast_to_stored
from mlops_assets.compute.training.environment import (
    deciding_packages,
    find_root_modules,
    format_lock,
    installed_distributions,
    read_hardware,
    thread_settings,
)
from mlops_assets.compute.training.seeds import GlobalDraws, derive_seed, find_seeds
from mlops_assets.compute.training.split import JUDGED_SPLIT, REFIT_FROM, TRAIN_FROM, TRAIN_WINDOW
from mlops_assets.compute.user_code.source_slice import extract_source, imported_packages
from mlops_assets.compute.user_code.view_source import build_view_source
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.stores.artifacts.store import Artifacts
from mlops_assets.stores.lake.protocol import Lake
from mlops_assets.values.evaluation import Split
from mlops_assets.values.features import FeatureView
from mlops_assets.values.model import Model
from mlops_assets.values.training import TrainingSet

_MAX_DIFF_BYTES = 5_000_000


def collect_training_facts(  # noqa: PLR0913  (everything that describes a training)
    step: StepContext,
    model: Model[..., Any],
    rows: pl.DataFrame,
    splits: Mapping[str, Split],
    estimator: Any,  # noqa: ANN401  (any estimator)
    draws: GlobalDraws,
    deciding_facts: Mapping[str, Any],
    fingerprint: str,
) -> dict[str, Any]:
    """Return the facts of a training, and store its source, library versions and uncommitted changes as artifacts.

    The facts name each artifact by its sha256.

    Parameters
    ----------
    step, model
        The step of the model, and the model's declaration.
    rows
        The training set in its canonical order.
    splits
        The parts of the training set.
    estimator
        The estimator that the model's function returned.
    draws
        The draws from the global random generators.
    deciding_facts, fingerprint
        The hashes and values that identify the training, and one hash of them.
    """
    training_set, artifacts = model.training_set, step.stores.artifacts
    source, problem = _extract_source(model)
    views = [f for f in training_set.features if isinstance(f, FeatureView)]
    return {
        "data": {training_set.key: deciding_facts["training_set"]},
        **data_facts(rows, splits),
        "code": {"source": deciding_facts["code"]},
        "params": dict(deciding_facts["params"]),
        **result_facts(estimator, source or {"modules": {}}),
        "tables": dict(_hash_tables(step.project, step.stores.lake, training_set, step.snapshot)),
        "views": {view.name: view.version(build_view_source(view)) for view in views},
        "seed": derive_seed(fingerprint),
        "fingerprint": fingerprint,
        "drawn": list(draws.drawn),
        "source": artifacts.put(json.dumps(source, sort_keys=True).encode()) if source else None,
        "source_problem": problem,
        "git": git_facts(inspect.unwrap(model.function.function).__code__.co_filename, artifacts),
        "environment": artifacts.put(format_lock(installed_distributions()).encode()),
        "platform": platform.platform(),
        "unsorted": _explain_unsorted(training_set, rows),
        "reads": {
            "table": training_set.key,
            "label": training_set.label,
            "event_timestamp": training_set.event_timestamp,
            "X": list(deciding_facts["X"]),
            "metrics": list(model.metrics),
            **{name: deciding_facts[name] for name in (TRAIN_FROM, TRAIN_WINDOW, JUDGED_SPLIT, REFIT_FROM) if name in deciding_facts},
        },
    }


def data_facts(rows: pl.DataFrame, splits: Mapping[str, Split]) -> dict[str, dict[str, str]]:
    """Return order-dependent hashes of a training set: of all rows as ``row_order``, and part → hash of its rows as ``split``."""
    stored = cast_to_stored(rename_to_table(rows, TRAINING_SET_COLUMNS))
    bounds = {name: _find_range(rows, split, stored.columns, name) for name, split in splits.items()}
    ranges = {name: bound for name, bound in bounds.items() if bound is not None}
    all_rows, *hashes = hash_ordered_slices(stored, [(0, stored.height), *ranges.values()])
    parts = dict(zip(ranges, hashes, strict=True))
    return {
        "row_order": {"rows": all_rows},
        "split": {name: parts.get(name) or ordered_hash(cast_to_stored(split.rows)) for name, split in splits.items()},
    }


def _find_range(rows: pl.DataFrame, split: Split, columns: Sequence[str], part: str) -> tuple[int, int] | None:
    """Return the first row of a part and the row after its last if its rows are contiguous, as in a split by time; else None."""
    if SPLIT not in rows.columns or set(split.rows.columns) != set(columns):
        return None
    inside = rows[SPLIT] == part
    start, count = inside.arg_max() or 0, len(split.y)
    candidate = inside[start : start + count]
    return (start, start + count) if int(inside.sum()) == len(candidate) == count and bool(candidate.all()) else None


def result_facts(estimator: Any, source: Mapping[str, Any]) -> dict[str, dict[str, Any]]:  # noqa: ANN401
    """Return the seeds of a fitted model, and the packages, threads and hardware of this process."""
    project_packages = {name.split(".")[0] for name in source["modules"]}
    roots = (imported_packages(source) | find_root_modules(estimator)) - project_packages
    deciding = deciding_packages(roots)
    return {
        "seeds": find_seeds(estimator),
        "packages": deciding,
        "threads": thread_settings(),
        "hardware": read_hardware(),
    }


def _extract_source(model: Model[..., Any]) -> tuple[dict[str, Any] | None, str]:
    """Return the source of a model's function, and an empty text; or None, and why the source cannot be stored.

    The training continues without a stored source; a reproduction reports the reason.
    """
    try:
        return extract_source(model.function.function), ""
    except (DefinitionError, OSError, SyntaxError) as error:
        return None, getattr(error, "message", str(error))


def _hash_tables(project: Project, lake: Lake, training_set: TrainingSet[..., Any], snapshot: int) -> Iterator[tuple[str, str]]:
    """Yield the key of the training set and of every table upstream that has records, each with a hash of its contents."""
    declarations = {declaration.key: declaration for declaration in project.declarations if hasattr(declaration, "key")}
    pending, seen = [training_set.key], set[str]()
    while pending:
        key = pending.pop()
        if key in seen:
            continue
        seen.add(key)
        recorded = lake.records(key, snapshot=snapshot)
        if recorded:
            contents = json.dumps(sorted((partition, record.content_hash) for partition, record in recorded.items()))
            yield key, hashlib.sha256(contents.encode()).hexdigest()
        pending += [edge.parent for edge in _list_edges(project, declarations.get(key))]


def _list_edges(project: Project, declaration: Any) -> tuple[Any, ...]:  # noqa: ANN401  (a declaration, or None)
    try:
        return project.node(declaration).edges
    except DefinitionError:  # an external table, or a plain asset
        return ()


def _explain_unsorted(training_set: TrainingSet[..., Any], rows: pl.DataFrame) -> str:
    """Return why the rows have no unique order; empty if they have one."""
    nested = [name for name, dtype in rows.schema.items() if dtype.is_nested()]
    compared = [name for name in rows.columns if name not in nested]
    if nested and rows.height and rows.select(compared).is_duplicated().any():
        return f"rows of '{training_set.key}' differ in '{nested[0]}' alone, which cannot be sorted by"
    return ""


def git_facts(file: str, artifacts: Artifacts) -> dict[str, str]:
    """Return ``commit`` and ``branch`` of the project's repository; empty without git or outside of a repository.

    Uncommitted changes of tracked files are stored, and ``diff`` is the sha256 of their artifact. A diff is cut after 5 MB.

    Parameters
    ----------
    file
        The file of the model's function.
    artifacts
        The store that gets the diff of the uncommitted changes.
    """
    git = shutil.which("git")
    folder = Path(file).parent
    if git is None or not folder.is_dir():
        return {}

    def run_git(*arguments: str) -> bytes:
        process = subprocess.run([git, "-C", str(folder), *arguments], capture_output=True, check=False)  # noqa: S603  (fixed arguments)
        return process.stdout if process.returncode == 0 else b""

    commit = run_git("rev-parse", "HEAD").decode().strip()
    if not commit:
        return {}
    diff = run_git("diff", "HEAD")
    facts = {"commit": commit, "branch": run_git("rev-parse", "--abbrev-ref", "HEAD").decode().strip()}
    return facts | ({"diff": artifacts.put(diff[:_MAX_DIFF_BYTES])} if diff else {})
