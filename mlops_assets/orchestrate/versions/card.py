"""The card of a version: made of what is recorded of it, when it is registered, and kept as it was then."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from mlops_assets.compute.features.on_demand import apply, columns_as_arrays
from mlops_assets.compute.features.signature import signature_of
from mlops_assets.compute.pages.card import Card, Section
from mlops_assets.compute.pages.card_forms import render_html, render_markdown
from mlops_assets.compute.pages.card_sections import (
    calibration_section,
    data_section,
    features_section,
    format_interval,
    gates_section,
    importance_section,
    limits_section,
    metrics_section,
    pairs_section,
    slices_section,
)
from mlops_assets.compute.training.classes import positive_class
from mlops_assets.compute.training.evaluate import evaluate
from mlops_assets.compute.training.fitted_rows import FittedRows
from mlops_assets.compute.training.importance import permutation_importance
from mlops_assets.compute.training.probabilities import kind_of, trust
from mlops_assets.compute.training.responses import Remembered
from mlops_assets.compute.training.split import in_canonical_order, parts_of
from mlops_assets.errors import ArtifactError, LakeError
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.reproduction.checks import chances_of
from mlops_assets.orchestrate.training.evaluation import pair_intervals
from mlops_assets.orchestrate.training.refit import refit_run
from mlops_assets.orchestrate.training.training_set import leakage
from mlops_assets.serving.formats.judged_fit import judged_fit
from mlops_assets.serving.formats.packaging import POSITIVE, Bundle, form_of, unpack
from mlops_assets.stores.lake.damage import read_verified
from mlops_assets.stores.lake.protocol import Part
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.stores.registry.records import Version
from mlops_assets.stores.registry.version_files import open_version_files
from mlops_assets.stores.tracker.tracker import Run
from mlops_assets.values.features import FeatureView, on_demand
from mlops_assets.values.model import Model

MARKDOWN, PAGE = "card.md", "card.html"
_LATE = 3600  # seconds after its registration from which a card says that it was made later


@dataclass(frozen=True, eq=False)
class _About:
    """A version and all that is recorded of it: the fit that serves, and the one that the gates have judged."""

    project: Project
    stores: Stores
    model: Model[..., Any]
    version: Version
    run: Run
    bundle: Bundle
    judged: Bundle

    @property
    def facts(self) -> Mapping[str, Any]:
        """Of the training; empty when a program recorded it that knew none."""
        return self.run.record.get("facts", {})  # type: ignore[no-any-return]

    @property
    def reads(self) -> Mapping[str, Any]:
        """Which table and columns it learned from."""
        declared = self.model.training_set
        now = {"table": declared.key, "label": declared.label, "event_timestamp": declared.event_timestamp, "metrics": self.model.metrics}
        return now | dict(self.facts.get("reads", {})) | {"X": self.bundle.columns}

    @property
    def positive(self) -> Any:  # noqa: ANN401  (any label)
        """The positive class, where one is declared."""
        return self.bundle.manifest.get(POSITIVE)


def card_of(project: Project, stores: Stores, model: Model[..., Any], version: Version) -> dict[str, str]:
    """Return the forms of a version's card, name → text; it is made and stored when the version has none yet.

    Parameters
    ----------
    project
        Which declares the model.
    stores
        The platform's.
    model, version
        Of which.

    Raises
    ------
    ArtifactError
        The version, or its card, is damaged.
    """
    files, artifacts = open_version_files(stores.platform.registry), stores.artifacts
    known = files.of(version.model, version.version)
    if not {MARKDOWN, PAGE} <= set(known):
        card = made_card(project, stores, model, version)
        forms = {MARKDOWN: render_markdown(card), PAGE: render_html(card)}
        known = files.add(version.model, version.version, {name: artifacts.put(text.encode()) for name, text in forms.items()})
    return {name: artifacts.get(known[name]).decode() for name in (MARKDOWN, PAGE)}


def made_card(project: Project, stores: Stores, model: Model[..., Any], version: Version) -> Card:
    """Return the card of a version as things are now.

    Parameters
    ----------
    project, stores, model, version
        As in :func:`card_of`.
    """
    run, bundle = stores.tracker.get(version.run_id), unpack(stores.artifacts, version.artifact, model.trusted_types)
    fit = judged_fit(stores.artifacts, version.artifact, version.digest)
    judged = unpack(stores.artifacts, fit.artifact, model.trusted_types) if fit.refitted else bundle
    about = _About(project, stores, model, version, run, bundle, judged)
    rows, why = _rows(about)
    measured = list(_of_record(about, why) if rows is None else _of_rows(about, rows))
    return Card(
        f"{version.model}, version {version.version}",
        tuple(filter(None, (" ".join(part.split()) for part in model.function.description.split("\n\n")))),
        tuple(_headline(about)),
        (*measured, *_of_registry(about), _lineage(about), _reproduce(about)),
    )


def _headline(about: _About) -> Iterator[tuple[str, str]]:
    version, now = about.version, datetime.now(UTC)
    yield "kind", kind_of(about.bundle.estimator)
    positive = positive_class(getattr(about.bundle.estimator, "classes_", ()), about.positive)
    if positive is not None:
        yield "positive class", str(positive)
    yield "estimator", _estimator(about.bundle.estimator)
    yield "stored as", form_of(about.bundle.manifest)
    if about.judged is not about.bundle:
        yield "refit", f"after its gates it was fitted again on {_fitted(about)}; the metrics below are of the fit before, which was judged"
    yield "registered", f"{version.created_at:%Y-%m-%d %H:%M} UTC"
    if (now - version.created_at).total_seconds() > _LATE:
        yield "this card was made", f"{now:%Y-%m-%d %H:%M} UTC, later than the version"
    yield "state", f"{version.state} in {about.stores.platform.environment} when this card was made"
    yield "aliases", ", ".join(version.aliases) or "none"
    yield "candidate", version.digest
    if about.model.options.owners:
        yield "owners", ", ".join(about.model.options.owners)


def _fitted(about: _About) -> str:
    """Return which rows the fit that serves was fitted on, in words."""
    fitted = FittedRows.from_manifest(about.bundle.manifest)
    if fitted is None:
        return "all rows"
    until = f" until {fitted.last:%Y-%m-%d %H:%M} UTC" if fitted.last else ""
    return f"all {fitted.rows:,} rows of {', '.join(fitted.parts[:-1])} and {fitted.parts[-1]}{until}"


def _estimator(estimator: Any) -> str:  # noqa: ANN401
    steps = getattr(estimator, "steps", None)
    return type(estimator).__name__ if steps is None else " → ".join(type(step).__name__ for _, step in steps)


def _rows(about: _About) -> tuple[pl.DataFrame | None, str]:
    """Return the rows that it learned from, or why there are none any more; those of now are never taken for them."""
    reads, lake, snapshot = about.reads, about.stores.lake, about.version.snapshot
    try:
        rows = read_verified(
            lake, reads["table"], [Part("", None)], window=None, event_timestamp=reads["event_timestamp"], snapshot=snapshot
        )
    except (LakeError, ArtifactError) as error:
        return None, error.message
    was, now = about.run.record.get("training_set"), lake.records(reads["table"], snapshot=snapshot)[""].content_hash
    if was and was != now:
        return None, f"{reads['table']} held {was[:16]} then and holds {now[:16]} in the same snapshot now: rows were erased"
    return in_canonical_order(rows, reads["event_timestamp"]), ""


def _of_record(about: _About, why: str) -> Iterator[Section]:
    """Yield what can be said without the rows."""
    problem = f"The rows that it learned from cannot be read any more, so that nothing is measured here: {why}"
    yield Section("Data", (f"It learned from {about.reads['table']}; the label is {about.reads['label']}.",), problems=(problem,))
    yield features_section(about.bundle.manifest.get("signature", ()), {})
    yield pairs_section(
        "Metrics", ("As they were recorded.",), (("metric", "value"), [(n, f"{v:.5g}") for n, v in about.run.metrics.items()])
    )
    yield limits_section(about.model.limits, chances_of(dict(about.facts)), looked_for=())


def _of_rows(about: _About, rows: pl.DataFrame) -> Iterator[Section]:
    """Yield what is measured on the rows of then."""
    reads, estimator, seed = about.reads, about.judged.estimator, about.version.digest
    metrics, kind = tuple(reads["metrics"]), kind_of(estimator)
    parts = parts_of(rows, reads["X"], reads["label"])
    holdout = parts["holdout"]
    answers = Remembered(estimator, holdout.X)
    intervals = pair_intervals(about.model.training_set, answers, None, holdout, seed, about.positive)
    evaluation = evaluate(
        answers, holdout, metrics, [c for c in about.model.slices if c in rows.columns], train=parts["train"], positive=about.positive
    )
    yield data_section(reads["table"], parts, reads["event_timestamp"], reads["label"], kind, refitted=about.judged is not about.bundle)
    yield features_section(about.bundle.manifest.get("signature") or signature_of(parts["train"].X), _sources(about, rows))
    yield metrics_section(
        evaluation, {name: intervals.value(name) for name, value in evaluation.metrics if math.isfinite(value)}, intervals.method
    )
    yield from filter(None, (slices_section(evaluation),))
    yield calibration_section(trust(answers, kind, holdout.y, about.positive))
    yield importance_section(permutation_importance(estimator, holdout.X, holdout.y, metrics[0], seed, positive=about.positive))
    found = [*_leaking(about, rows), *chances_of(dict(about.facts))]
    yield limits_section(
        about.model.limits, found, looked_for=("leakage", *(("unseeded random numbers", "unsorted rows") if about.facts else ()))
    )


def _sources(about: _About, rows: pl.DataFrame) -> dict[str, str]:
    """Return where each column of X comes from, as the project declares it now."""
    declared, few = about.model.training_set, rows.head(8)
    found = dict.fromkeys(declared.columns, f"a column of {declared.key}")
    for view in declared.features:
        if isinstance(view, FeatureView):
            found |= dict.fromkeys(view.renamed_features, view.key)
    for step, stored in zip(on_demand(declared.features), about.bundle.functions, strict=False):
        made = apply([stored], columns_as_arrays(few, few.columns))
        found |= dict.fromkeys(made, f"{step.name}, on demand")
    return found


def _leaking(about: _About, rows: pl.DataFrame) -> Iterator[str]:
    declared, lake = about.model.training_set, about.stores.lake
    if declared.label not in rows.columns:
        return
    found = leakage(about.project, lambda ref: lake.read(ref.key, snapshot=about.version.snapshot), declared, rows, about.reads["X"])
    if not found.passed:
        yield f"{found.message}: {found.hint}"


def _of_registry(about: _About) -> Iterator[Section]:
    """Yield gates and approvals, as they are at this moment."""
    registry, version = about.stores.registry, about.version
    evidence = registry.evidence(version.model, version.digest)
    yield gates_section((e.gate, e.passed, e.value, e.threshold, format_interval(e.low, e.high), e.reason) for e in evidence)
    approvals = [
        (f"{a.at:%Y-%m-%d %H:%M}", a.environment, "approved" if a.approved else "rejected", a.approver, a.reason)
        for a in registry.approvals(version.model, version.version)
    ]
    asked = about.model.approval
    needs = ("A person must approve it before it becomes champion." if asked else "No approval is asked for.",)
    nobody = ("Nobody has decided yet.",) if asked and not approvals else ()
    yield pairs_section("Approvals", (*needs, *nobody), (("at", "environment", "", "who", "why"), approvals))


def _lineage(about: _About) -> Section:
    """Return where it comes from: state of the lake, tables with hashes, run, code."""
    run, facts, version = about.run, about.facts, about.version
    inputs = {one["table"]: one for one in run.record.get("inputs", ())}
    hashes = {**{table: one["content_hash"] for table, one in inputs.items()}, **facts.get("tables", {})}
    tables = [
        (name, f"{inputs[name]['rows']:,}" if name in inputs else "–", str(inputs[name]["partitions"]) if name in inputs else "–", sha[:16])
        for name, sha in hashes.items()
    ]
    git = facts.get("git", {})
    told = [
        ("lake snapshot", str(version.snapshot)),
        ("run", run.id),
        *_refit_lineage(about),
        ("Dagster run", run.dagster_run_id),
        (
            "trained",
            f"{run.started_at:%Y-%m-%d %H:%M} UTC" + (f", {(run.ended_at - run.started_at).total_seconds():.1f} s" if run.ended_at else ""),
        ),
        ("commit", git.get("commit", "none") + (", with changes that were not committed" if "diff" in git else "")),
        ("Python", str(run.record.get("python", "unknown"))),
        ("libraries", ", ".join(f"{n} {v}" for n, v in dict(about.bundle.manifest.get("libraries", {})).items())),
        *((f"view {name}", f"version {held}") for name, held in facts.get("views", {}).items()),
    ]
    params = [(name, json.dumps(value, default=str)) for name, value in dict(facts.get("params", run.params)).items()]
    words = ("Every table that it comes from, with a hash of what the table held.",) if tables else ()
    of_tables, of_params = ("table", "rows", "partitions", "content"), ("parameter", "value")
    return pairs_section("Lineage", words, (of_tables, tables), (("", "value"), told), (of_params, params))


def _refit_lineage(about: _About) -> list[tuple[str, str]]:
    if about.judged is about.bundle:
        return []
    run = refit_run(about.stores, about.version.run_id, about.version.artifact)
    judged = judged_fit(about.stores.artifacts, about.version.artifact, about.version.digest)
    return [("run of the refit", run.id if run else "unknown"), ("judged fit", judged.digest)]


def _reproduce(about: _About) -> Section:
    """Return the commands that train it again and compare."""
    name = f"{about.version.model}@{about.version.version}"
    if not about.facts:
        return Section("How to reproduce", ("It was trained before records were complete enough to train it again.",))
    words = (
        "Trains it again from its record, in a process of its own, and compares data, code, predictions and metrics; nothing is promoted."
    )
    return Section(
        "How to reproduce", (words,), code=f"mlops reproduce {name}\nmlops reproduce {name} --env locked  # in the library versions of then"
    )
