"""Drift of a model's predictions, which shares the false-alarm rate of a report with the drift of its inputs.

The reference has predictions for the holdout: predictions for fitted rows are overconfident.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.compute.drift.drift_report import DriftReport, measure_drift, summarise
from mlops_assets.compute.drift.profile import MIN_REFERENCE_ROWS
from mlops_assets.compute.tables.own_columns import PREDICTION, PROBABILITIES, PROBABILITY
from mlops_assets.compute.training.classes import class_names, positive_class

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_assets.values.drift import Drift

PREDICTION_PROFILE = "prediction_profile"  # in the manifest of a version
PREDICTION_SHARE = 0.25  # of the false-alarm rate of a report; three views of the inputs share the rest
MAX_CLASSES = 20  # with more, only the predicted class is compared
SIGNIFICANT_DIGITS = 5  # of predicted numbers: a service may compute in 32 bits
_NAME = "prediction"
_NO_REFERENCE = "the version stores none for rows that it was not fitted on, because it was refit or is older than this comparison"


def select_predictions(
    rows: pl.DataFrame,
    classes: Sequence[object] | None = None,
    positive: Any = None,  # noqa: ANN401  (any label)
) -> pl.DataFrame:
    """Return the columns of predictions to compare: ``prediction`` and, where known, probabilities by class.

    Parameters
    ----------
    rows
        Predictions of one version, with the column names that they have in memory.
    classes
        The classes of a classifier in the estimator's order; None or empty for a regressor.
    positive
        The positive class of a binary classifier, whose probability is compared; the second class when None.

    Returns
    -------
    polars.DataFrame
        One row per prediction. The prediction of a classifier is text.
    """
    names = class_names(list(classes or ()))
    columns = [rows[PREDICTION].cast(pl.String) if names else rows[PREDICTION]]
    if len(names) == 2 and PROBABILITY in rows.columns:
        columns.append(rows[PROBABILITY].alias(f"probability of {positive_class(list(classes or ()), positive)}"))
    elif 2 < len(names) <= MAX_CLASSES and isinstance(rows.schema.get(PROBABILITIES), pl.Struct):
        by_class = rows[PROBABILITIES].struct.unnest()
        columns += [by_class[name].alias(f"probability of {name}") for name in names if name in by_class.columns]
    first, *others = columns
    known = [first.alias(_NAME), *(column for column in others if column.null_count() < len(column))]
    return pl.DataFrame(known).with_columns(pl.selectors.float().round_sig_figs(SIGNIFICANT_DIGITS))


def explain_missing_reference(profile: Mapping[str, Any] | None) -> str:
    """Return why predictions cannot be compared with a stored profile; empty when they can."""
    if profile is None:
        return f"predictions are not compared: {_NO_REFERENCE}"
    if profile["rows"] < MIN_REFERENCE_ROWS:
        return f"predictions are not compared: the holdout has {profile['rows']} rows, {MIN_REFERENCE_ROWS} are needed"
    return ""


def add_prediction_drift(
    report: DriftReport, profile: Mapping[str, Any], predictions: pl.DataFrame, expected: Drift, min_rows: int
) -> DriftReport:
    """Return the report of a window's inputs with the drift of its predictions added.

    A prediction with the name of an input, e.g. ``prediction``, is reported as ``prediction (output)``.

    Parameters
    ----------
    report
        The drift of the inputs, measured at the share ``1 - PREDICTION_SHARE`` of the rate.
    profile
        From :func:`mlops_assets.compute.drift.profile.build_profile`, of predictions for rows that the version was not fitted on.
    predictions
        From :func:`select_predictions`.
    expected
        The false-alarm rate of the whole report, and the minimum effect.
    min_rows
        The minimum number of rows; a window with fewer is not evaluated.
    """
    rate = expected.false_alarm_rate
    found = measure_drift(profile, predictions, false_alarm_rate=rate * PREDICTION_SHARE, min_psi=expected.min_psi, min_rows=min_rows)
    inputs = {column.name for column in report.columns}
    outputs = [replace(column, name=f"{column.name} (output)") if column.name in inputs else column for column in found.columns]
    columns = tuple(sorted((*report.columns, *outputs), key=lambda column: (-column.severity, column.name)))
    joined = replace(report, columns=columns, false_alarm_rate=rate)
    return replace(joined, summary=summarise(joined)) if report.enough else joined
