"""The model card of a version: built from its records when it is registered, and stored."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from mlops_assets.compute.features.signature import describe_signature
from mlops_assets.compute.pages.card import Card, Section
from mlops_assets.compute.pages.card_forms import render_html, render_markdown
from mlops_assets.compute.pages.card_sections import (
    features_section,
    format_interval,
    gates_section,
    importance_section,
    limits_section,
    mention_refit,
    plain_section,
)
from mlops_assets.compute.training.classes import positive_class
from mlops_assets.compute.training.fitted_rows import FittedRows
from mlops_assets.compute.training.importance import IMPORTANCE, PermutationImportance, permutation_importance
from mlops_assets.compute.training.probabilities import detect_task
from mlops_assets.compute.training.responses import CachedPredictor
from mlops_assets.compute.training.split import apply_choice, sort_canonically, split_rows
from mlops_assets.errors import ArtifactError, LakeError
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.reproduction.checks import find_nondeterminism
from mlops_assets.orchestrate.training.card_measurements import MEASURED, CardMeasurements, find_leaks, list_sources, measure_sections
from mlops_assets.orchestrate.training.evaluation import build_intervals, evaluate_holdout
from mlops_assets.orchestrate.training.kinds import read_kind
from mlops_assets.orchestrate.training.refit import find_refit
from mlops_assets.serving.formats.judged_fit import read_judged_fit
from mlops_assets.serving.formats.packaging import POSITIVE, ModelBundle, describe_format, read_manifest, unpack
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.stores.lake.verified_reads import read_verified
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.stores.registry.records import Version
from mlops_assets.stores.registry.version_files import open_version_files
from mlops_assets.stores.tracker.tracker import Run
from mlops_assets.values.model import ESTIMATOR, Model

MARKDOWN, PAGE = "card.md", "card.html"
_LATE = 3600  # seconds after the registration from which a card says that it was made later


@dataclass(frozen=True, eq=False)
class _Subject:
    """The version that a card describes, with its records and the Dagster run that registers it."""

    project: Project
    stores: Stores
    model: Model[..., Any]
    version: Version
    run: Run
    manifest: Mapping[str, Any]
    dagster_run: str = ""

    @property
    def facts(self) -> Mapping[str, Any]:
        """The recorded facts of the training; empty when an earlier version of the package recorded none."""
        return self.run.record.get("facts", {})  # type: ignore[no-any-return]

    @property
    def reads(self) -> Mapping[str, Any]:
        """Role → the training set's table, columns and metrics: as recorded, else as declared now. ``X`` is that of the manifest."""
        declared = self.model.training_set
        now = {"table": declared.key, "label": declared.label, "event_timestamp": declared.event_timestamp, "metrics": self.model.metrics}
        return now | dict(self.facts.get("reads", {})) | {"X": self.manifest.get("columns", ())}

    @property
    def positive(self) -> Any:  # noqa: ANN401  (any label)
        """The positive class that was declared at the training; None if none was."""
        return self.manifest.get(POSITIVE)


@dataclass(frozen=True, eq=False)
class _Fits:
    """The fit that serves, and the fit that the gates judged; without a refit, both are the same object."""

    served: ModelBundle
    judged: ModelBundle
    digest: str  # of the judged fit

    @property
    def refitted(self) -> bool:
        """Whether the serving fit is a refit, which the gates did not judge."""
        return self.judged is not self.served


def ensure_card(project: Project, stores: Stores, model: Model[..., Any], version: Version, *, dagster_run: str = "") -> dict[str, str]:
    """Return file name → text of a version's card, as Markdown and as HTML; a missing card is built and stored first.

    Parameters
    ----------
    project
        The project that declares the model.
    stores
        The stores of the platform.
    model, version
        The model and the version that the card describes.
    dagster_run
        The Dagster run that registers the version. If it has also trained the version, its measurements are used and rows are not verified
        again.

    Raises
    ------
    ArtifactError
        An artifact of the version or of its card is damaged.
    """
    files, artifacts = open_version_files(stores.platform.registry), stores.artifacts
    stored = files.list_files(version.model, version.version)
    if not {MARKDOWN, PAGE} <= set(stored):
        card = build_card(project, stores, model, version, dagster_run=dagster_run)
        forms = {MARKDOWN: render_markdown(card), PAGE: render_html(card)}
        stored = files.add(version.model, version.version, {name: artifacts.put(text.encode()) for name, text in forms.items()})
    return {name: artifacts.get(stored[name]).decode() for name in (MARKDOWN, PAGE)}


def build_card(project: Project, stores: Stores, model: Model[..., Any], version: Version, *, dagster_run: str = "") -> Card:
    """Build the card of a version from its records and its current state in the registry; nothing is stored.

    Parameters
    ----------
    project, stores, model, version, dagster_run
        As in :func:`ensure_card`.
    """
    run, manifest = stores.tracker.get(version.run_id), read_manifest(stores.artifacts, version.artifact)
    subject = _Subject(project, stores, model, version, run, manifest, dagster_run)
    kind = read_kind(manifest)
    if kind.name == ESTIMATOR:
        head, measured = _describe_estimator(subject, _open_fits(subject))
    else:
        head, measured = [("kind of candidate", kind.name)], [_recorded_metrics(subject)]
    return Card(
        f"{version.model}, version {version.version}",
        tuple(filter(None, (" ".join(part.split()) for part in model.function.description.split("\n\n")))),
        (*head, *_version_headline(subject)),
        (*measured, *_registry_sections(subject), _lineage_section(subject), _reproduction_section(subject)),
    )


def _open_fits(subject: _Subject) -> _Fits:
    artifacts, version, trusted = subject.stores.artifacts, subject.version, subject.model.trusted_types
    served, fit = unpack(artifacts, version.artifact, trusted), read_judged_fit(artifacts, version.artifact, version.digest)
    return _Fits(served, unpack(artifacts, fit.artifact, trusted) if fit.refitted else served, fit.digest)


def _describe_estimator(subject: _Subject, fits: _Fits) -> tuple[list[tuple[str, str]], list[Section]]:
    """Return the header lines and the sections of an estimator's card.

    The sections show what the training measured, if this Dagster run trained the version and no row was erased since; else new
    measurements on its rows. If those cannot be read any more, only recorded facts are shown.
    """
    measured = _read_measurements(subject)
    if measured is not None:
        sections = _build_measurement_sections(subject, fits, measured, subject.manifest["signature"])
    else:
        rows, why = _read_rows(subject)
        sections = _recorded_sections(subject, why) if rows is None else _measure_sections(subject, fits, rows)
    return list(_estimator_headline(subject, fits)), list(sections)


def _estimator_headline(subject: _Subject, fits: _Fits) -> Iterator[tuple[str, str]]:
    estimator = fits.served.estimator
    yield "kind", detect_task(estimator)
    positive = positive_class(getattr(estimator, "classes_", ()), subject.positive)
    if positive is not None:
        yield "positive class", str(positive)
    yield "estimator", _name_estimators(estimator)
    yield "stored as", describe_format(subject.manifest)
    if fits.refitted:
        yield (
            "refit",
            f"after its gates it was refitted on {_describe_rows(subject)}; the metrics below are those of the first fit, which the gates judged",
        )


def _version_headline(subject: _Subject) -> Iterator[tuple[str, str]]:
    version, now = subject.version, datetime.now(UTC)
    yield "registered", f"{version.created_at:%Y-%m-%d %H:%M} UTC"
    if (now - version.created_at).total_seconds() > _LATE:
        yield "this card was made", f"{now:%Y-%m-%d %H:%M} UTC, later than the version"
    yield "state", f"{version.state} in {subject.stores.platform.environment} when this card was made"
    yield "aliases", ", ".join(version.aliases) or "none"
    yield "candidate", version.digest
    if subject.model.options.owners:
        yield "owners", ", ".join(subject.model.options.owners)


def _describe_rows(subject: _Subject) -> str:
    """Describe the rows on which the serving fit was fitted."""
    fitted = FittedRows.from_manifest(subject.manifest)
    if fitted is None:
        return "all rows"
    since = f", from {fitted.first:%Y-%m-%d %H:%M}" if fitted.first else ""
    until = f" until {fitted.last:%Y-%m-%d %H:%M} UTC" if fitted.last else ""
    return f"{fitted.rows:,} rows of {', '.join(fitted.parts[:-1])} and {fitted.parts[-1]}{since}{until}"


def _name_estimators(estimator: Any) -> str:  # noqa: ANN401
    steps = getattr(estimator, "steps", None)
    return type(estimator).__name__ if steps is None else " → ".join(type(step).__name__ for _, step in steps)


def _read_measurements(subject: _Subject) -> CardMeasurements | None:
    """Return the measurements of the training if the same Dagster run made them and no row was erased since; else None."""
    name = subject.run.record.get(MEASURED)
    if name is None or subject.run.dagster_run_id != subject.dagster_run or _find_erasure(subject):
        return None
    return CardMeasurements.from_bytes(subject.stores.artifacts.get(name))


def _read_rows(subject: _Subject) -> tuple[pl.DataFrame | None, str]:
    """Return the training rows at the version's snapshot, and an empty text; or None, and why they cannot be read any more."""
    reads, lake, snapshot = subject.reads, subject.stores.lake, subject.version.snapshot
    verified = subject.run.dagster_run_id == subject.dagster_run  # by the training, in the same Dagster run
    partitions = [] if verified else [Partition("", None)]
    try:
        rows = read_verified(lake, reads["table"], partitions, window=None, event_timestamp=reads["event_timestamp"], snapshot=snapshot)
    except (LakeError, ArtifactError) as error:
        return None, error.message
    if erased := _find_erasure(subject):
        return None, erased
    return sort_canonically(rows, reads["event_timestamp"]), ""


def _find_erasure(subject: _Subject) -> str:
    """Return how the training set differs from the rows that were trained on; empty if it does not, or if no hash was recorded."""
    table, snapshot = subject.reads["table"], subject.version.snapshot
    was_hash, record = subject.run.record.get("training_set"), subject.stores.lake.records(table, snapshot=snapshot).get("")
    now_hash = record.content_hash if record else "no rows"
    return (
        f"{table} held {was_hash[:16]} then and holds {now_hash[:16]} in the same snapshot now: rows were erased"
        if was_hash and was_hash != now_hash
        else ""
    )


def _recorded_sections(subject: _Subject, why: str) -> Iterator[Section]:
    """Yield the sections that need no training rows; the first one says why the rows cannot be read."""
    problem = f"The training rows cannot be read any more, so nothing is measured here: {why}"
    yield Section("Data", (f"It was trained on {subject.reads['table']}; the label is {subject.reads['label']}.",), problems=(problem,))
    yield features_section(subject.manifest.get("signature", ()), {})
    yield _recorded_metrics(subject)
    yield limits_section(subject.model.limits, find_nondeterminism(dict(subject.facts)), checked_for=())


def _recorded_metrics(subject: _Subject) -> Section:
    values = [(name, f"{value:.5g}") for name, value in subject.run.metrics.items()]
    return plain_section("Metrics", ("As they were recorded.",), (("metric", "value"), values))


def _measure_sections(subject: _Subject, fits: _Fits, rows: pl.DataFrame) -> Iterator[Section]:
    """Measure the judged fit on the training rows of the version, and yield the sections."""
    reads, model = subject.reads, subject.model
    parts = split_rows(apply_choice(rows, reads["event_timestamp"], reads), reads["X"], reads["label"])
    holdout, predictor = parts["holdout"], CachedPredictor(fits.judged.estimator, parts["holdout"].X)
    slices = [column for column in model.slices if column in rows.columns]
    evaluation = evaluate_holdout(model, predictor, parts, subject.positive, metrics=reads["metrics"], slices=slices)
    intervals = build_intervals(model.training_set, predictor, None, holdout, fits.digest, subject.positive)
    importance = subject.run.record.get(IMPORTANCE)
    measured = CardMeasurements(
        *measure_sections(reads, predictor, parts, evaluation, intervals, subject.positive),
        PermutationImportance.from_json(importance)
        if importance
        else permutation_importance(predictor.estimator, holdout.X, holdout.y, reads["metrics"][0], fits.digest, positive=subject.positive),
        list_sources(model.training_set, fits.served.functions, rows),
        find_leaks(subject.project, subject.stores.lake, model.training_set, rows, reads["X"], subject.version.snapshot),
    )
    yield from _build_measurement_sections(
        subject, fits, measured, subject.manifest.get("signature") or describe_signature(parts["train"].X)
    )


def _build_measurement_sections(
    subject: _Subject, fits: _Fits, measured: CardMeasurements, signature: Sequence[Mapping[str, Any]]
) -> Iterator[Section]:
    """Yield the sections that show measurements on the training rows of the version."""
    yield mention_refit(measured.data) if fits.refitted else measured.data
    yield features_section(signature, measured.sources)
    yield from measured.quality
    yield importance_section(measured.importance)
    checked = ("leakage", *(("unseeded random numbers", "unsorted rows") if subject.facts else ()))
    yield limits_section(subject.model.limits, [*measured.leaks, *find_nondeterminism(dict(subject.facts))], checked_for=checked)


def _registry_sections(subject: _Subject) -> Iterator[Section]:
    """Yield the sections on gates and approvals, as they are in the registry now."""
    registry, version = subject.stores.registry, subject.version
    evidence = registry.evidence(version.model, version.digest)
    yield gates_section((e.gate, e.passed, e.value, e.threshold, format_interval(e.low, e.high), e.reason) for e in evidence)
    approvals = [
        (f"{a.at:%Y-%m-%d %H:%M}", a.environment, "approved" if a.approved else "rejected", a.approver, a.reason)
        for a in registry.approvals(version.model, version.version)
    ]
    needs_approval = subject.model.approval
    needs = ("A person must approve it before it becomes champion." if needs_approval else "No approval is required.",)
    undecided = ("It is not decided yet.",) if needs_approval and not approvals else ()
    yield plain_section("Approvals", (*needs, *undecided), (("at", "environment", "", "who", "why"), approvals))


def _lineage_section(subject: _Subject) -> Section:
    """Return the section on lineage: upstream tables with hashes, the facts of the run and of its code, and parameters."""
    run, facts, version = subject.run, subject.facts, subject.version
    inputs = {entry["table"]: entry for entry in run.record.get("inputs", ())}
    hashes = {**{table: entry["content_hash"] for table, entry in inputs.items()}, **facts.get("tables", {})}
    tables = [
        (name, f"{inputs[name]['rows']:,}" if name in inputs else "–", str(inputs[name]["partitions"]) if name in inputs else "–", sha[:16])
        for name, sha in hashes.items()
    ]
    git = facts.get("git", {})
    facts_rows = [
        ("lake snapshot", str(version.snapshot)),
        ("run", run.id),
        *_refit_lineage(subject),
        ("Dagster run", run.dagster_run_id),
        (
            "trained",
            f"{run.started_at:%Y-%m-%d %H:%M} UTC" + (f", {(run.ended_at - run.started_at).total_seconds():.1f} s" if run.ended_at else ""),
        ),
        ("commit", git.get("commit", "none") + (", with changes that were not committed" if "diff" in git else "")),
        ("Python", str(run.record.get("python", "unknown"))),
        ("libraries", ", ".join(f"{n} {v}" for n, v in dict(subject.manifest.get("libraries", {})).items())),
        *((f"view {name}", f"version {view_version}") for name, view_version in facts.get("views", {}).items()),
    ]
    params = [(name, json.dumps(value, default=str)) for name, value in dict(facts.get("params", run.params)).items()]
    text = ("Every table upstream, with a hash of its contents.",) if tables else ()
    table_header, params_header = ("table", "rows", "partitions", "content"), ("parameter", "value")
    return plain_section("Lineage", text, (table_header, tables), (("", "value"), facts_rows), (params_header, params))


def _refit_lineage(subject: _Subject) -> list[tuple[str, str]]:
    judged = read_judged_fit(subject.stores.artifacts, subject.version.artifact, subject.version.digest)
    if not judged.refitted:
        return []
    run = find_refit(subject.stores, subject.version.run_id, subject.version.artifact)
    return [("run of the refit", run.id if run else "unknown"), ("judged fit", judged.digest)]


def _reproduction_section(subject: _Subject) -> Section:
    """Return the section with the commands that train the version again, or why that is impossible."""
    name = f"{subject.version.model}@{subject.version.version}"
    if not subject.facts:
        return Section("How to reproduce", ("It was trained before records were complete enough to train it again.",))
    text = "Trains the version again from its record, in a separate process, and compares data, code, predictions and metrics. Nothing is promoted."
    return Section(
        "How to reproduce",
        (text,),
        code=f"mlops reproduce {name}\nmlops reproduce {name} --env locked  # in the recorded library versions",
    )
