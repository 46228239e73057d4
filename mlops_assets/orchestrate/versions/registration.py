"""Register the candidate, and promote the newest version."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dagster as dg

from mlops_assets.errors import ArtifactError
from mlops_assets.orchestrate.core.actor import describe_reason, name_actor
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.predictions.prediction_tables import prediction_change_metadata
from mlops_assets.orchestrate.training.mlflow_mirror import mirror_to_mlflow
from mlops_assets.orchestrate.training.training_record import build_training_record
from mlops_assets.orchestrate.versions.card import MARKDOWN, ensure_card
from mlops_assets.serving.formats.integrity import find_damage, refuse_damaged
from mlops_assets.serving.formats.judged_fit import read_judged_fit
from mlops_assets.stores.registry.decisions import PASSED, PROMOTED
from mlops_assets.stores.registry.records import Version
from mlops_assets.values.asset_names import build_graph_key
from mlops_assets.values.model import Model

Gates = Mapping[str, str]  # gate name → hash of its definition


def version_body(model: Model[..., Any], gates: Gates) -> Callable[[StepContext], Iterator[object]]:
    """Return the body of the step that registers the candidate as a version, with its model card."""

    def body(step: StepContext) -> Iterator[object]:
        _refuse_incomplete(step, model)
        version = step.stores.registry.register(model.name, gates)
        step.stores.decisions.record_training(build_training_record(step, model, PASSED, version.version))
        metadata = {**_version_metadata(version), **_refit_metadata(step, version), "model card": _card_metadata(step, model, version)}
        yield dg.MaterializeResult(asset_key(f"version/{model.name}"), metadata=metadata, data_version=dg.DataVersion(version.digest))

    return body


def champion_body(model: Model[..., Any], gates: Gates) -> Callable[[StepContext], Iterator[object]]:
    """Return the body of the step that promotes the newest version, unless it is the champion already."""

    def body(step: StepContext) -> Iterator[object]:
        registry = step.stores.registry
        before = registry.champion(model.name)
        for newest in registry.versions(model.name)[-1:]:
            refuse_damaged(registry, step.stores.artifacts, newest)
        expected = before.version if before else None  # of two runs at the same moment one wins, and the other fails
        version = registry.promote(
            model.name, gates, actor=name_actor(step), reason=describe_reason(step), approval=model.approval, expected=expected
        )
        if before is None or before.version != version.version:
            step.stores.decisions.record_training(build_training_record(step, model, PROMOTED, version.version))
            mirror_to_mlflow(step)
        previous = "the same" if before and before.version == version.version else f"version {before.version}" if before else "none"
        metadata = {**_version_metadata(version), "champion before": previous, "environment": step.stores.platform.environment}
        metadata |= prediction_change_metadata(step, before, version)
        yield dg.MaterializeResult(asset_key(f"champion/{model.name}"), metadata=metadata, data_version=dg.DataVersion(version.digest))

    return body


def _refuse_incomplete(step: StepContext, model: Model[..., Any]) -> None:
    """Raise ArtifactError if artifacts of the candidate are missing or changed, because a version is immutable."""
    waiting = step.stores.registry.candidate(model.name)
    if waiting is not None and (damage := find_damage(step.stores.artifacts, waiting[0].artifact)):
        raise ArtifactError(
            f"candidate {waiting[0].digest[:12]} of '{model.name}' is damaged and is not registered: {damage}",
            hint=f"materialise {build_graph_key(model.key)} again, which trains it again",
        )


def _card_metadata(step: StepContext, model: Model[..., Any], version: Version) -> dg.MetadataValue[Any]:
    """Return the version's card as metadata; if it cannot be built, log a warning and return a note.

    The version stays registered then, and `mlops models card` builds the card later.
    """
    try:
        return dg.MetadataValue.md(ensure_card(step.project, step.stores, model, version, dagster_run=step.context.run.run_id)[MARKDOWN])
    except Exception as error:  # noqa: BLE001  (an estimator may raise anything on shuffled rows)
        name = f"{model.name}@{version.version}"
        step.context.log.warning(f"{name} has no model card yet: {type(error).__name__}: {error}")
        return dg.MetadataValue.text(f"failed ({type(error).__name__}): mlops models card {name}")


def _refit_metadata(step: StepContext, version: Version) -> dict[str, Any]:
    """Return metadata about the judged fit if a refit on all rows will serve; empty otherwise."""
    judged = read_judged_fit(step.stores.artifacts, version.artifact, version.digest)
    return (
        {"refit": "yes: the fit that serves was fitted on all rows, after the gates", "judged fit": judged.digest}
        if judged.refitted
        else {}
    )


def _version_metadata(version: Version) -> dict[str, Any]:
    return {
        "version": version.version,
        "candidate": version.digest,
        "run": version.run_id,
        "artifact": version.artifact,
        "lake snapshot": version.snapshot,
    }
