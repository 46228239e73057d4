"""Measure a fit for its model card, while the training rows are in memory."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from mlops_assets.compute.features.on_demand import apply_on_demand, columns_as_arrays
from mlops_assets.compute.pages.card import Section
from mlops_assets.compute.pages.card_sections import calibration_section, data_section, metrics_section, slices_section
from mlops_assets.compute.training.importance import PermutationImportance
from mlops_assets.compute.training.probabilities import assess_predictions, detect_task
from mlops_assets.compute.training.responses import CachedPredictor
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.training.training_set import check_leakage
from mlops_assets.stores.lake.protocol import Lake
from mlops_assets.values.evaluation import Evaluation, Intervals, Split
from mlops_assets.values.features import FeatureView, select_on_demand
from mlops_assets.values.training import TrainingSet

MEASURED = "measured"  # in the record of a training: the artifact with its CardMeasurements


@dataclass(frozen=True)
class CardMeasurements:
    """The contents of a card that are measured on the training rows.

    Parameters
    ----------
    data
        The section on the rows.
    quality
        The sections on metrics, slices and calibration, without those that do not apply.
    importance
        The permutation importance of the columns of ``X``.
    sources
        Column of ``X`` → a description of its source.
    leaks
        The findings of the leakage check, as text.
    """

    data: Section
    quality: tuple[Section, ...]
    importance: PermutationImportance
    sources: Mapping[str, str]
    leaks: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """Return the measurements as JSON."""
        stored = {
            "data": self.data.as_json(),
            "quality": [section.as_json() for section in self.quality],
            "importance": self.importance.as_json(),
            "sources": dict(self.sources),
            "leaks": list(self.leaks),
        }
        return json.dumps(stored, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "CardMeasurements":
        """Return the measurements that :meth:`to_bytes` wrote."""
        stored = json.loads(data)
        quality = tuple(Section.from_json(section) for section in stored["quality"])
        importance = PermutationImportance.from_json(stored["importance"])
        return cls(Section.from_json(stored["data"]), quality, importance, stored["sources"], tuple(stored["leaks"]))


def measure_sections(  # noqa: PLR0913  (what is measured, and on what)
    reads: Mapping[str, Any],
    predictor: CachedPredictor,
    splits: Mapping[str, Split],
    evaluation: Evaluation,
    intervals: Intervals,
    positive: Any = None,  # noqa: ANN401  (any label)
) -> tuple[Section, tuple[Section, ...]]:
    """Return the card section on the rows, then the sections on metrics, slices and calibration that apply.

    Parameters
    ----------
    reads
        ``table``, ``label`` and ``event_timestamp``: the names of what the training read, from its record.
    predictor
        The cached predictions for the holdout.
    splits
        The parts of the training set.
    evaluation, intervals
        The evaluation on the holdout, and the intervals of its metrics.
    positive
        The positive class of a binary classifier; None for its second class.
    """
    task = detect_task(predictor.estimator)
    bounds = {name: intervals.value(name) for name, value in evaluation.metrics if math.isfinite(value)}
    quality = (
        metrics_section(evaluation, bounds, intervals.method),
        slices_section(evaluation),
        calibration_section(assess_predictions(predictor, task, splits["holdout"].y, positive)),
    )
    data = data_section(reads["table"], splits, reads["event_timestamp"], reads["label"], task)
    return data, tuple(section for section in quality if section is not None)


def list_sources(training_set: TrainingSet[..., Any], functions: Sequence[Callable[..., Any]], rows: pl.DataFrame) -> dict[str, str]:
    """Return column of ``X`` → a description of its source: the training set, a feature view or an on-demand function.

    Parameters
    ----------
    training_set
        The current declaration.
    functions
        The on-demand functions of the training set, in the order of its declaration.
    rows
        The training rows; the functions are called on the first 8 to find the names of the columns that they compute.
    """
    sample, sources = rows.head(8), dict.fromkeys(training_set.columns, f"a column of {training_set.key}")
    for view in training_set.features:
        if isinstance(view, FeatureView):
            sources |= dict.fromkeys(view.renamed_features, view.key)
    for declared, function in zip(select_on_demand(training_set.features), functions, strict=False):
        computed = apply_on_demand([function], columns_as_arrays(sample, sample.columns))
        sources |= dict.fromkeys(computed, f"{declared.name}, on demand")
    return sources


def find_leaks(  # noqa: PLR0913  (where the rows and their datasets are)
    project: Project, lake: Lake, training_set: TrainingSet[..., Any], rows: pl.DataFrame, X: Sequence[str], snapshot: int
) -> tuple[str, ...]:
    """Return the finding of the leakage check as text; empty without a finding, and when ``rows`` lack the label.

    Parameters
    ----------
    project, lake
        The project that declares the training set, and the lake with its datasets.
    training_set
        The current declaration.
    rows, X
        The training rows, and the columns that models see.
    snapshot
        The snapshot of the lake that the training read.
    """
    if training_set.label not in rows.columns:
        return ()
    outcome = check_leakage(
        project, lambda ref, columns: lake.read(ref.key, columns=columns, snapshot=snapshot), training_set, rows, tuple(X)
    )
    return () if outcome.passed else (f"{outcome.message}: {outcome.hint}",)
