"""Build the report on a pull request's candidate from the registry, the tracker and the lake."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from mlops_assets.compute.drift.column_drift import ColumnDrift
from mlops_assets.compute.drift.drift_report import measure_drift
from mlops_assets.compute.pages.ci_report import CiReport, FieldChange, MetricRow, SliceRow
from mlops_assets.compute.training.fitted_rows import FITTED
from mlops_assets.compute.training.plots import plot_model
from mlops_assets.compute.training.split import apply_choice, sort_canonically, split_rows
from mlops_assets.errors import DataError, RegistryError
from mlops_assets.orchestrate.training.candidate_kind import TrainedModel
from mlops_assets.orchestrate.training.evaluation import find_champion, find_compared_fit
from mlops_assets.orchestrate.training.kinds import find_kind
from mlops_assets.orchestrate.training.refit import find_refit
from mlops_assets.orchestrate.training.training_set import list_x_columns
from mlops_assets.serving.formats.judged_fit import read_judged_fit
from mlops_assets.serving.formats.packaging import read_manifest
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.stores.registry.records import CandidateRecord, Evidence, Version
from mlops_assets.stores.tracker.tracker import Run
from mlops_assets.values.evaluation import Candidate, Evaluation, Split
from mlops_assets.values.gates.gate import Gate
from mlops_assets.values.model import ESTIMATOR, Model

# Record fields and facts shown in the report; the others are redundant, change on every run, or are in the report's section on data.
_SHOWN_FIELDS = ("X", "code", "search", "refit", "on_demand", "steps", "key", "trusted_types")
_SHOWN_FACTS = ("params", "seeds", "packages", "threads", "hardware", "views", "git.commit")


@dataclass(frozen=True, eq=False)
class _Facts:
    """A candidate and the champion that it is compared with, both evaluated on the candidate's holdout.

    ``splits`` are those of the candidate's training set, ``comparison`` is the comparison, and ``champion`` is the champion or None.
    """

    stores: Stores
    model: Model[..., Any]
    record: CandidateRecord
    run: Run
    splits: Mapping[str, Split]
    comparison: Candidate
    champion: Version | None

    @property
    def champion_run(self) -> Run | None:
        return None if self.champion is None else self.stores.tracker.get(self.champion.run_id)


def build_ci_report(stores: Stores, model: Model[..., Any], pictures: Path | None = None) -> CiReport:
    """Return the report on the model's pending candidate in this environment; the metrics of candidate and champion are computed again.

    Parameters
    ----------
    stores
        The stores of the platform.
    model
        The declaration of the model.
    pictures
        The folder for the PNG files of an estimator's plots; it is created when it is missing. With None, nothing is drawn.

    Raises
    ------
    RegistryError
        The registry has no pending candidate of the model.
    """
    candidate_with_evidence = stores.registry.candidate(model.name)
    if candidate_with_evidence is None:
        raise RegistryError(
            f"model '{model.name}' has no candidate in '{stores.platform.environment}'",
            hint="run `mlops ci train` first; if it failed, its output says why",
        )
    record, evidence = candidate_with_evidence
    fit = read_judged_fit(stores.artifacts, record.artifact, record.digest)  # the fit that the gates judged, not its refit on all rows
    kind = find_kind(model.kind)
    fitted = kind.open(stores, model, fit.artifact)
    run, champion = stores.tracker.get(record.run_id), find_champion(stores, model.name)
    splits = _read_splits(stores, model, record.snapshot, run.record.get("facts", {}).get("reads", {}))
    comparison = kind.compare(stores, model, TrainedModel(run, fitted, splits, reused=True), champion)
    facts = _Facts(stores, model, record, run, splits, comparison, champion)
    return CiReport(
        model=model.name,
        candidate=record.digest,
        compared=_describe_champion(stores, champion, splits["holdout"], model.training_set.event_timestamp),
        metrics=_compare_metrics(facts, evidence),
        gates={item.gate: (item.passed, item.reason) for item in evidence},
        slices=_compare_slices(facts),
        data=_compare_data(facts),
        record=_compare_records(facts),
        cost=_describe_cost(facts),
        reproduce=_list_commands(facts),
        pictures={}
        if pictures is None or model.kind != ESTIMATOR
        else _write_pictures(
            plot_model(fitted, splits["holdout"], model.metrics[0], record.digest, positive=model.positive), pictures, model.name
        ),
        problems=[f"{metric}: {why}" for metric, why in comparison.evaluation.problems],
        intervals=comparison.intervals.method if comparison.intervals else "",
    )


def _read_splits(stores: Stores, model: Model[..., Any], snapshot: int, reads: Mapping[str, Any]) -> Mapping[str, Split]:
    declared = model.training_set
    stored = sort_canonically(stores.lake.read(declared.key, snapshot=snapshot), declared.event_timestamp)
    rows = apply_choice(stored, declared.event_timestamp, reads)
    return split_rows(rows, list_x_columns(declared, rows), declared.label)


def _describe_champion(stores: Stores, champion: Version | None, holdout: Split, event_timestamp: str | None) -> str:
    if champion is None:
        return ""
    own_champion = stores.registry.champion(champion.model)
    name = f"version {champion.version}, champion of {stores.platform.environment if own_champion is not None else stores.platform.against}"
    return name + (", by its judged fit" if find_compared_fit(stores, champion, holdout, event_timestamp).refitted else "")


def _compare_metrics(facts: _Facts, evidence: tuple[Evidence, ...]) -> list[MetricRow]:
    champion, gated = facts.comparison.champion, {item.gate for item in evidence}
    rows = []
    for metric, value in facts.comparison.evaluation.metrics:
        gates = tuple(g.name for g in facts.model.gates if isinstance(g, Gate) and g.metric == metric and g.name in gated)
        low, high = (None, None) if champion is None else _find_interval(facts.comparison, metric)
        rows.append(MetricRow(metric, value, None if champion is None else champion.metric(metric), low, high, gates))
    return rows


def _find_interval(comparison: Candidate, metric: str) -> tuple[float | None, float | None]:
    low, high = comparison.intervals.difference(metric) if comparison.intervals else (math.nan, math.nan)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else (None, None)


def _compare_slices(facts: _Facts) -> list[SliceRow]:
    return [
        SliceRow(
            f"{item.column} = {item.value}",
            item.rows,
            metric,
            value,
            _champion_metric(facts.comparison.champion, item.column, item.value, metric),
        )
        for item in facts.comparison.evaluation.slices
        for metric, value in item.metrics
    ]


def _champion_metric(champion: Evaluation | None, column: str, value: str, metric: str) -> float | None:
    return None if champion is None else champion.metric(metric, (column, value))


def _compare_data(facts: _Facts) -> list[FieldChange]:
    """Return the row counts that differ from the champion's, and the columns that drifted; without a champion, all row counts."""
    before = facts.champion_run
    if facts.champion is None or before is None:
        return [FieldChange(f"rows to {part}", "–", f"{len(split.y):,}") for part, split in facts.splits.items()]
    counted = {part: int(count) for part, count in before.record.get("rows", {}).items()}
    rows = [
        FieldChange(f"rows to {part}", f"{counted.get(part, 0):,}", f"{len(split.y):,}")
        for part, split in facts.splits.items()
        if counted.get(part) != len(split.y)
    ]
    return [*rows, *_list_drifted_columns(facts, facts.champion)]


def _list_drifted_columns(facts: _Facts, champion: Version) -> Iterator[FieldChange]:
    """Yield the new columns, and those that drifted from the champion's profile; nothing if the champion has no profile."""
    X = pl.concat([split.X for split in facts.splits.values()])
    manifest = read_manifest(facts.stores.artifacts, champion.artifact)
    if "profile" not in manifest:
        return
    profile = json.loads(facts.stores.artifacts.get(manifest["profile"]))
    known = set(profile["columns"])
    yield from (FieldChange(f"column {name}", "–", str(X[name].dtype)) for name in X.columns if name not in known)
    try:
        report = measure_drift(profile, X, columns=[name for name in X.columns if name in known])
    except DataError as error:
        yield FieldChange("columns", "–", error.message)
        return
    yield from (
        FieldChange(f"column {column.name}", "as the champion's", _describe_drift(column)) for column in report.columns if column.drifted
    )


def _describe_drift(column: ColumnDrift) -> str:
    known = column.value is not None and column.threshold is not None
    return f"{column.statistic} {column.value:.3g}, threshold {column.threshold:.3g}" if known else f"another kind ({column.kind})"


def _compare_records(facts: _Facts) -> list[FieldChange]:
    """Return the shown fields of the training record that differ from the champion's; none without a champion."""
    before = facts.champion_run
    if before is None:
        return []
    champion_fields, candidate_fields = (_select_shown(run.record) for run in (before, facts.run))
    return [
        FieldChange(name, champion_fields.get(name, "–"), candidate_fields.get(name, "–"))
        for name in {**candidate_fields, **champion_fields}
        if champion_fields.get(name) != candidate_fields.get(name)
    ]


def _select_shown(record: Mapping[str, Any]) -> dict[str, str]:
    plain = {name: _to_text(record[name]) for name in _SHOWN_FIELDS if name in record}
    return plain | {name: value for name, value in _flatten(record.get("facts", {})).items() if name.startswith(_SHOWN_FACTS)}


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, item in value.items():
        flat |= _flatten(item, f"{prefix}{name}.") if isinstance(item, Mapping) else {f"{prefix}{name}": _to_text(item)}
    return flat


def _to_text(item: object) -> str:
    return item if isinstance(item, str) else json.dumps(item, default=str)


def _describe_cost(facts: _Facts) -> dict[str, str]:
    run, costs = facts.run, facts.comparison.costs
    seconds = (run.ended_at - run.started_at).total_seconds() if run.ended_at else 0.0
    return {
        "training": f"{seconds:.1f} s",
        "rows": " + ".join(f"{len(split.y):,} {part}" for part, split in facts.splits.items()),
        "features": str(facts.splits["train"].X.width),
        **({"size of the stored artifacts": f"{costs.artifact_bytes() / 1e6:.2f} MB"} if costs else {}),
        **_refit_cost(facts),
    }


def _refit_cost(facts: _Facts) -> dict[str, str]:
    """Return the duration and the row count of the refit; empty when the model was not refitted."""
    run = find_refit(facts.stores, facts.run.id, facts.record.artifact)
    if run is None or run.ended_at is None:
        return {}
    return {"refit, on all rows": f"{(run.ended_at - run.started_at).total_seconds():.1f} s, {run.record[FITTED]['rows']:,} rows"}


def _list_commands(facts: _Facts) -> list[str]:
    commit = facts.run.record.get("facts", {}).get("git", {}).get("commit")
    return [*([f"git checkout {commit}"] if commit else []), f"mlops ci train {facts.model.name}", f"mlops ci report {facts.model.name}"]


def _write_pictures(drawn: Mapping[str, bytes | str], folder: Path, model: str) -> dict[str, str]:
    """Write the plots that could be drawn as PNG files; return title → path below the folder's parent."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for title, png in drawn.items():
        if isinstance(png, str):
            continue  # the reason why it could not be drawn
        name = f"{model}-{title.replace(' ', '-').lower()}.png"
        (folder / name).write_bytes(png)
        paths[title] = f"{folder.name}/{name}"
    return paths
