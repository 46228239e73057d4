"""Repeat a model's last result while nothing that determines it has changed: nothing is fitted, predicted or judged."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import dagster as dg
import polars as pl

from mlops_assets.compute.training.evaluate import compare_with_itself
from mlops_assets.orchestrate.core.metadata import to_table
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.tables.last_result import order_columns
from mlops_assets.orchestrate.training.gates import bind_evidence, hash_gates, pass_as_champion, to_gate_check_result
from mlops_assets.orchestrate.training.train_windows import find_retraining, needs_refit
from mlops_assets.orchestrate.training.training_run import find_earlier_run, gather_deciding_facts, list_metrics
from mlops_assets.orchestrate.training.training_set import list_x_columns
from mlops_assets.serving.formats.integrity import find_damage
from mlops_assets.serving.formats.packaging import find_changed_libraries, read_manifest
from mlops_assets.serving.formats.project_code import changed_sources
from mlops_assets.stores.registry.records import CandidateRecord, Evidence, Version
from mlops_assets.values.evaluation import GateResult
from mlops_assets.values.features import select_on_demand
from mlops_assets.values.gates.gate import GateLike, is_repeatable
from mlops_assets.values.model import Model

JUDGED_FROM = "judged from"  # in the metadata of a candidate: the hash of everything that determines the result of its step


@dataclass(frozen=True)
class LastResult:
    """The result of a model's last step, which the current step would only repeat.

    Parameters
    ----------
    candidate
        The candidate that the step submitted.
    evidence
        The results of its gates.
    metadata
        The metadata of its materialisation.
    is_promoted
        Whether the candidate has become the champion since then. The evidence and the metadata then compare it with itself.
    """

    candidate: CandidateRecord
    evidence: Sequence[Evidence]
    metadata: Mapping[str, Any]
    is_promoted: bool = False

    @property
    def passed(self) -> bool:
        """Whether every gate passed."""
        return all(item.passed for item in self.evidence)

    def repeat(self, model: Model[..., Any], gates: Sequence[GateLike]) -> dg.MaterializeResult[Any]:
        """Return the result for Dagster again, with ``trained: no``; table columns get their order back, which the event log loses."""
        return dg.MaterializeResult(
            asset_key(model.key),
            check_results=list(self._build_check_results(model, gates)),
            metadata={
                **{name: order_columns(value) for name, value in self.metadata.items()},
                "trained": "no: nothing that decides the result has changed since the last materialisation",
            },
            data_version=dg.DataVersion(self.candidate.digest),
        )

    def compare_with_itself(self, gates: Sequence[GateLike], champion: Version, judged_from: str) -> "LastResult":
        """Return the result of judging the candidate again after its promotion: relative gates pass, and no metric differs."""
        results = self._build_gate_results() | pass_as_champion(gates, champion)
        table = self.metadata["metrics"]
        rows = [record.data for record in order_columns(table).records]
        return LastResult(
            self.candidate,
            bind_evidence(results, gates, self.candidate.digest, champion),
            {**self.metadata, "metrics": to_table(compare_with_itself(rows)), JUDGED_FROM: judged_from},
            is_promoted=True,
        )

    def _build_gate_results(self) -> dict[str, GateResult]:
        return {e.gate: GateResult(e.passed, e.reason, e.value, e.threshold, e.low, e.high) for e in self.evidence}

    def _build_check_results(self, model: Model[..., Any], gates: Sequence[GateLike]) -> Iterator[dg.AssetCheckResult]:
        results = self._build_gate_results()
        return (to_gate_check_result(model, gate.name, results[gate.name]) for gate in gates)


def find_last_result(step: StepContext, model: Model[..., Any], gates: Sequence[GateLike], champion: Version | None) -> LastResult | None:
    """Return the result of the model's last step if the current step would only repeat it, else None.

    Training set, code, configuration, libraries, champion, gates and metrics are then the same, and the stored candidate is undamaged.
    For a model with a gate function, the result is None, because it is not recorded what such a function reads. It is also None for a
    model whose retraining declares the rows that train or judge: its candidates are compared again.

    If only the champion has changed, and the candidate is the new champion, the result compares the candidate with itself.

    Parameters
    ----------
    step, model, gates
        The step of the model, its declaration and its gates.
    champion
        The champion to compare with; None if there is none.
    """
    last = _read_last_result(step, model, gates)
    if last is None:
        return None
    metadata = last.metadata
    fingerprint = _find_fingerprint(step, model)
    if fingerprint is None or not _is_usable(step, last.candidate):
        return None
    judged_from = partial(hash_step_inputs, step, model, gates, fingerprint)
    if metadata[JUDGED_FROM].value == judged_from(champion):
        return last
    if champion is None or (champion.digest, champion.artifact) != (last.candidate.digest, last.candidate.artifact):
        return None
    earlier_champions = (None, *step.stores.registry.versions(model.name))
    is_promoted = metadata[JUDGED_FROM].value in map(judged_from, earlier_champions)
    return last.compare_with_itself(gates, champion, judged_from(champion)) if is_promoted else None


def _read_last_result(step: StepContext, model: Model[..., Any], gates: Sequence[GateLike]) -> LastResult | None:
    """Return the recorded result of the model's last step, judged by the same gates; None if it cannot be repeated."""
    declared = find_retraining(step.project, model)
    if declared is not None and (declared.train_windows != (None,) or declared.judge_on is not None):
        return None
    submitted = step.stores.registry.candidate(model.name)
    if submitted is None or not all(map(is_repeatable, gates)):
        return None
    event = step.context.instance.get_latest_materialization_event(asset_key(model.key))
    metadata = event.asset_materialization.metadata if event is not None and event.asset_materialization is not None else {}
    last = LastResult(*submitted, metadata)
    if {item.gate: item.definition for item in last.evidence} != hash_gates(gates):
        return None
    return last if JUDGED_FROM in metadata and str(metadata["candidate"].value) == last.candidate.digest else None


def _find_fingerprint(step: StepContext, model: Model[..., Any]) -> str | None:
    """Return the fingerprint of the current training if an earlier run has recorded it; else None.

    Rows are read only for on-demand features, which must run to name their columns.
    """
    training_set = model.training_set
    if not step.stores.lake.records(training_set.key, snapshot=step.snapshot):
        return None
    parameters = {name for function in select_on_demand(training_set.features) for name in function.parameters}
    stored = step.stores.lake.schema(training_set.key)
    sample = (
        step.stores.lake.read(training_set.key, columns=sorted(parameters & set(stored)), snapshot=step.snapshot)
        if parameters
        else pl.DataFrame()
    )
    _, fingerprint, earlier = find_earlier_run(step, model, gather_deciding_facts(step, model, list_x_columns(training_set, sample)))
    return None if earlier is None else fingerprint


def _is_usable(step: StepContext, candidate: CandidateRecord) -> bool:
    """Return True if the stored candidate is intact, and its code and libraries are those with which it was stored."""
    artifacts = step.stores.artifacts
    if find_damage(artifacts, candidate.artifact):
        return False
    manifest = read_manifest(artifacts, candidate.artifact)
    return not changed_sources(manifest) and not find_changed_libraries(manifest)


def hash_step_inputs(
    step: StepContext, model: Model[..., Any], gates: Sequence[GateLike], fingerprint: str, champion: Version | None
) -> str:
    """Return a hash of everything that determines the result of a model's step.

    Parameters
    ----------
    step, model, gates
        The step of the model, its declaration and its gates.
    fingerprint
        The fingerprint of the training.
    champion
        The champion to compare with; None if there is none.
    """
    training_set = model.training_set
    facts = [
        fingerprint,
        hash_gates(gates),
        None if champion is None else [champion.version, champion.digest, champion.artifact],
        list_metrics(step.project, model),
        [model.metrics, model.slices, repr(model.positive), model.approval, needs_refit(step.project, model)],
        [training_set.event_timestamp, training_set.label, str(training_set.block_length), repr(training_set.label_copies)],
        step.stores.platform.environment,
    ]
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()
