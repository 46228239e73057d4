"""The model's steps: train and judge a candidate, register it, promote it."""

import getpass
import hashlib
import json
import platform as machine
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import dagster as dg
import polars as pl

from mlops_assets.compute.evaluate import as_rows, evaluate
from mlops_assets.compute.gates import function_definition, judge, judge_function
from mlops_assets.compute.on_demand import apply, columns_as_arrays
from mlops_assets.compute.plots import plots
from mlops_assets.compute.profile import reference_profile
from mlops_assets.compute.request import example_row, request_fields, serving_steps
from mlops_assets.compute.source_code import source_hash
from mlops_assets.compute.split import PARTS
from mlops_assets.errors import ArtifactError, DataError, MlopsError
from mlops_assets.orchestrate.loop import data_time, sources
from mlops_assets.orchestrate.metadata import markdown, picture, table
from mlops_assets.orchestrate.partitions import step_of
from mlops_assets.orchestrate.project import row_key
from mlops_assets.orchestrate.scope import Scope
from mlops_assets.orchestrate.steps import asset_key
from mlops_assets.orchestrate.training import SPLIT, x_columns
from mlops_assets.serving.batch import model_input
from mlops_assets.serving.packaging import Bundle, Module, pack, unpack
from mlops_assets.stores.decisions import PASSED, PROMOTED, REJECTED, STARTED, TrainingRecord
from mlops_assets.stores.lock import exclusive
from mlops_assets.stores.records import CandidateRecord, Evidence, Version
from mlops_assets.stores.tracker import Run
from mlops_assets.values.decisions import DECISION_TAG, REASON_TAG
from mlops_assets.values.evaluation import Candidate, Evaluation, GateResult, Split
from mlops_assets.values.features import on_demand
from mlops_assets.values.function import Injection
from mlops_assets.values.model import GateFunction, Model
from mlops_assets.values.training import TrainingSet

Gates = Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Trained:
    """A candidate that is stored and recorded."""

    run: Run
    estimator: Any
    splits: Mapping[str, Split]
    reused: bool

    @property
    def digest(self) -> str:
        """Identifies the candidate: what it was trained on and what it predicts."""
        return str(self.run.record["digest"])

    @property
    def snapshot(self) -> int:
        """The state of the lake that a training always reads."""
        return cast("int", self.run.snapshot)

    @property
    def artifact(self) -> str:
        """The sha256 of its manifest."""
        return str(self.run.record["artifact"])


def gates_of(model: Model[..., Any], functions: tuple[GateFunction[..., Any], ...]) -> dict[str, str]:
    """Return gate → hash of its definition, as declared now."""
    return {g.name: g.definition for g in model.gates} | {f.name: function_definition(f) for f in functions}


def model_checks(model: Model[..., Any], functions: tuple[GateFunction[..., Any], ...]) -> list[dg.AssetCheckSpec]:
    """Return the declarations of a model's gates as asset checks."""
    described = {g.name: f"{g.metric} {g.rule.replace('_', ' ')} {g.threshold:g}" for g in model.gates} | {
        f.name: f.function.description for f in functions
    }
    return [
        dg.AssetCheckSpec(name, asset=asset_key(model.key), blocking=True, description=text or None) for name, text in described.items()
    ]


def model_body(model: Model[..., Any], functions: tuple[GateFunction[..., Any], ...]) -> Callable[[Scope], Iterator[object]]:
    """Return the body of a model's step."""

    def body(scope: Scope) -> Iterator[object]:
        begun = _training(scope, model, STARTED)
        scope.places.decisions.training(begun)
        with exclusive(_lock_of(scope, model)):  # two that train at once would train the same twice
            trained = _trained(scope, model)
        rival = scope.places.registry.champion(model.name)
        candidate = _candidate(scope, model, trained, rival)
        results = _judged(scope, model, functions, candidate, rival)
        scope.places.registry.submit(_record(model, trained), _evidence(results, model, functions, candidate, rival))
        scope.places.decisions.training(replace(begun, outcome=PASSED if all(r.passed for r in results.values()) else REJECTED))
        yield dg.MaterializeResult(
            asset_key(model.key),
            check_results=[_check(model, name, result) for name, result in results.items()],
            metadata=_metadata(trained, candidate),
            data_version=dg.DataVersion(trained.digest),
        )

    return body


def _training(scope: Scope, model: Model[..., Any], outcome: str, version: int | None = None) -> TrainingRecord:
    """Return what is recorded of the training that this run is."""
    run, as_of = scope.context.run, data_time(scope.places, sources(scope.project, model.training_set))
    return TrainingRecord(model.name, run.run_id, run.tags.get(DECISION_TAG), as_of, version, outcome)


def _lock_of(scope: Scope, model: Model[..., Any]) -> Path:
    folder = Path(scope.places.platform.home) / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"train_{model.name}"


def _trained(scope: Scope, model: Model[..., Any]) -> Trained:
    """Train, or take the stored result of the same data, code, parameters and libraries."""
    declared, lake = model.training_set, scope.places.lake
    rows = _in_canonical_order(scope.read(scope.project.by_key[declared.key]), declared.event_timestamp)
    content = lake.records(declared.key, snapshot=scope.snapshot)[""].content_hash
    columns = x_columns(declared, rows)
    splits = {part: _part(rows.filter(pl.col(SPLIT) == part), columns, declared.label) for part in PARTS}
    decides = {
        "training_set": content,
        "X": list(columns),
        "params": scope.config,
        "code": source_hash(model.function.function),
        "on_demand": [source_hash(f.function) for f in on_demand(declared.features)],
        "steps": serving_steps(declared),
        "key": list(row_key(scope.project, model)),
        "trusted_types": list(model.trusted_types),
        "libraries": dict(libraries()),
    }
    fingerprint = hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()
    known = scope.places.tracker.find(model.name, fingerprint)
    if known is not None and (bundle := _stored(scope, model, str(known.record["artifact"]))) is not None:
        scope.context.log.info(
            f"nothing that decides the result has changed since run {known.id[:8]}: its candidate is judged again, not trained again"
        )
        return Trained(known, bundle.estimator, splits, reused=True)
    return _train(scope, model, splits, decides, fingerprint)


def _in_canonical_order(rows: pl.DataFrame, event_timestamp: str | None) -> pl.DataFrame:
    """Sort by time and then by every column: equal content must train equal models, and content has no order of its own."""
    first = [event_timestamp] if event_timestamp else []
    return rows.sort(*first, *(c for c in sorted(rows.columns) if c not in first and not rows[c].dtype.is_nested()))


def _part(rows: pl.DataFrame, columns: tuple[str, ...], label: str) -> Split:
    return Split(rows.select(columns), rows[label].to_numpy(), rows)


def _stored(scope: Scope, model: Model[..., Any], artifact: str) -> Bundle | None:
    try:
        return unpack(scope.places.artifacts, artifact, model.trusted_types)
    except ArtifactError as error:
        scope.context.log.warning(f"the stored candidate cannot be used, so it is trained again: {error.message}")
        return None


def _train(scope: Scope, model: Model[..., Any], splits: Mapping[str, Split], decides: Mapping[str, Any], fingerprint: str) -> Trained:
    begun = datetime.now(UTC)
    wanted = {p.name: splits[p.name] for p in model.function.receiving(Injection.SPLIT)}
    estimator = scope.call(model.function, **wanted)
    if not hasattr(estimator, "predict"):
        raise DataError(
            f"'{model.key}' returned {type(estimator).__name__}, which cannot predict",
            hint="return the fitted estimator: `return pipeline.fit(train.X, train.y)`",
        )
    declared = model.training_set
    functions = on_demand(declared.features)
    fields = request_fields(declared, splits["train"].rows, row_key(scope.project, model))
    artifact = pack(
        scope.places.artifacts,
        estimator,
        X=splits["train"].X,
        modules=[Module(f.module_source, f.name) for f in functions],
        trusted_types=model.trusted_types,
        facts={
            "model": model.name,
            "fingerprint": fingerprint,
            "label": declared.label,
            "libraries": decides["libraries"],
            "event_timestamp": declared.event_timestamp,
            "request": fields,
            "example": example_row(fields, splits["train"].rows),
            "steps": serving_steps(declared),
            "profile": scope.places.artifacts.put(_profile(scope, splits, declared)),
        },
    )
    evaluation = evaluate(estimator, splits["holdout"], model.metrics)
    # Two trainings on the same facts are the same candidate exactly when they predict the same.
    bundle_probe = json.loads(scope.places.artifacts.get(artifact))["probe_predictions"]
    digest = hashlib.sha256(f"{fingerprint}:{bundle_probe}".encode()).hexdigest()
    run = Run(
        id=uuid.uuid4().hex,
        model=model.name,
        fingerprint=fingerprint,
        dagster_run_id=scope.context.run.run_id,
        started_at=begun,
        ended_at=datetime.now(UTC),
        snapshot=scope.snapshot,
        params=scope.config,
        metrics=dict(evaluation.metrics),
        record={
            **decides,
            "digest": digest,
            "artifact": artifact,
            "python": machine.python_version(),
            "rows": {p: len(s.y) for p, s in splits.items()},
        },
    )
    scope.places.tracker.add(run)
    return Trained(run, estimator, splits, reused=False)


def _profile(scope: Scope, splits: Mapping[str, Split], declared: TrainingSet[..., Any]) -> bytes:
    """Return the reference that monitors compare with: every row that was known when the version was trained, in windows of its data's own days."""
    X = pl.concat([split.X for split in splits.values()])
    if declared.event_timestamp is None:
        return json.dumps(reference_profile(X), sort_keys=True).encode()
    partitions = next((ref.partitions for ref in sources(scope.project, declared) if ref.partitions is not None), None)
    times = pl.concat([split.rows[declared.event_timestamp] for split in splits.values()])
    local = times.dt.convert_time_zone(getattr(partitions, "timezone", None) or "UTC")
    return json.dumps(reference_profile(X, local, window=step_of(partitions)), sort_keys=True).encode()


@cache
def libraries() -> tuple[tuple[str, str], ...]:
    """Return the versions of the libraries that decide what a training gives."""
    installed = {d.metadata["Name"].lower(): d.version for d in metadata.distributions() if d.metadata["Name"]}
    deciding = ("numpy", "polars", "pandas", "scikit-learn", "scipy", "skops", "lightgbm", "xgboost", "catboost", "mlops_assets")
    return tuple((name, installed[name]) for name in deciding if name in installed)


def _candidate(scope: Scope, model: Model[..., Any], trained: Trained, rival: Version | None) -> Candidate:
    holdout = trained.splits["holdout"]
    evaluation = evaluate(trained.estimator, holdout, model.metrics, model.slices, train=trained.splits["train"])
    theirs = None if rival is None else evaluation if rival.digest == trained.digest else _rival(scope, model, holdout, rival)
    return Candidate(model.name, trained.digest, trained.estimator, holdout, evaluation, theirs)


def _rival(scope: Scope, model: Model[..., Any], holdout: Split, rival: Version) -> Evaluation:
    """Evaluate the champion on the candidate's holdout; what cannot be evaluated is undefined, so that no relative gate passes on it."""
    try:
        bundle = unpack(scope.places.artifacts, rival.artifact, model.trusted_types)
        rows = holdout.rows
        for function in bundle.functions:
            made = apply([function], columns_as_arrays(rows, rows.columns))
            rows = rows.with_columns(pl.Series(name, values) for name, values in made.items())
        X = model_input(bundle, rows, f"the holdout of '{model.training_set.key}'")
        return evaluate(bundle.estimator, Split(X, holdout.y, holdout.rows), model.metrics, model.slices)
    except MlopsError as error:
        reason = f"champion version {rival.version} cannot be evaluated: {error.message}"
        return Evaluation(
            len(holdout.y), tuple((m, float("nan")) for m in model.metrics), problems=tuple((m, reason) for m in model.metrics)
        )


def _judged(
    scope: Scope, model: Model[..., Any], functions: tuple[GateFunction[..., Any], ...], candidate: Candidate, rival: Version | None
) -> dict[str, GateResult]:
    if rival is not None and rival.digest == candidate.digest:
        relative = GateResult(passed=True, reason=f"this is the champion, version {rival.version}")
        declared = {g.name: relative if g.relative else judge(g, candidate) for g in model.gates}
    else:
        declared = {g.name: judge(g, candidate) for g in model.gates}
    resources = {p.name: getattr(scope.context.resources, p.name) for f in functions for p in f.function.receiving(Injection.RESOURCE)}
    return declared | {f.name: judge_function(f, candidate, **resources) for f in functions}


def _evidence(
    results: Mapping[str, GateResult],
    model: Model[..., Any],
    functions: tuple[GateFunction[..., Any], ...],
    candidate: Candidate,
    rival: Version | None,
) -> list[Evidence]:
    """Bind what each gate found to this candidate; a function may have looked at the champion, so its answer counts against that one only."""
    definitions = gates_of(model, functions)
    relative = {g.name for g in model.gates if g.relative} | {f.name for f in functions}
    met = rival.digest if rival else ""
    return [
        Evidence(
            name,
            definitions[name],
            candidate.digest,
            r.passed,
            name in relative,
            met if name in relative else "",
            r.value,
            r.threshold,
            r.reason,
        )
        for name, r in results.items()
    ]


def _record(model: Model[..., Any], trained: Trained) -> CandidateRecord:
    return CandidateRecord(model.name, trained.digest, trained.run.id, trained.artifact, trained.snapshot, datetime.now(UTC))


def _check(model: Model[..., Any], name: str, result: GateResult) -> dg.AssetCheckResult:
    figures = {"value": result.value, "threshold": result.threshold}
    return dg.AssetCheckResult(
        passed=result.passed,
        asset_key=asset_key(model.key),
        check_name=name,
        description=result.reason,
        metadata={k: float(v) for k, v in figures.items() if v is not None},
    )


def _metadata(trained: Trained, candidate: Candidate) -> dict[str, Any]:
    evaluation = candidate.evaluation
    slices = [{"slice": f"{s.column} = {s.value}", "rows": s.rows, **dict(s.metrics)} for s in evaluation.slices]
    headline = {name: value for name, value in evaluation.metrics if value == value}  # noqa: PLR0124  (NaN has no place in a chart)
    return {
        **headline,
        "metrics": table(as_rows(evaluation, candidate.champion)),
        **({"slices": markdown(slices)} if slices else {}),
        **({"undefined": markdown([{"metric": m, "why": why} for m, why in evaluation.problems])} if evaluation.problems else {}),
        "candidate": trained.digest,
        "run": trained.run.id,
        "trained": "no: the same data, code, parameters and libraries as before" if trained.reused else "yes",
        "train rows": len(trained.splits["train"].y),
        "holdout rows": len(trained.splits["holdout"].y),
        "params": dict(trained.run.params),
        "lake snapshot": trained.snapshot,
        **{title: picture(png, title) for title, png in plots(trained.estimator, trained.splits["holdout"]).items()},
    }


def version_body(model: Model[..., Any], gates: Gates) -> Callable[[Scope], Iterator[object]]:
    """Return the body of the step that registers the candidate."""

    def body(scope: Scope) -> Iterator[object]:
        version = scope.places.registry.register(model.name, gates)
        scope.places.decisions.training(_training(scope, model, PASSED, version.version))
        yield dg.MaterializeResult(
            asset_key(f"version/{model.name}"), metadata=_version_metadata(version), data_version=dg.DataVersion(version.digest)
        )

    return body


def champion_body(model: Model[..., Any], gates: Gates) -> Callable[[Scope], Iterator[object]]:
    """Return the body of the step that promotes the newest version."""

    def body(scope: Scope) -> Iterator[object]:
        registry = scope.places.registry
        before = registry.champion(model.name)
        version = registry.promote(model.name, gates, actor=_actor(scope), reason=_reason(scope), approval=model.approval)
        if before is None or before.version != version.version:
            scope.places.decisions.training(_training(scope, model, PROMOTED, version.version))
        was = "the same" if before and before.version == version.version else f"version {before.version}" if before else "none"
        metadata = {**_version_metadata(version), "champion before": was, "environment": scope.places.platform.environment}
        yield dg.MaterializeResult(asset_key(f"champion/{model.name}"), metadata=metadata, data_version=dg.DataVersion(version.digest))

    return body


def _reason(scope: Scope) -> str:
    why = scope.context.run.tags.get(REASON_TAG)
    return f"Dagster run {scope.context.run.run_id}" + (f": {why}" if why else "")


def _actor(scope: Scope) -> str:
    tags = scope.context.run.tags
    return tags.get("dagster/schedule_name") or tags.get("dagster/sensor_name") or tags.get("user") or getpass.getuser()


def _version_metadata(version: Version) -> dict[str, Any]:
    return {
        "version": version.version,
        "candidate": version.digest,
        "run": version.run_id,
        "artifact": version.artifact,
        "lake snapshot": version.snapshot,
    }
