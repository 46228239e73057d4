"""Plots of a model for the Dagster UI, as PNG."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.compute.training.classes import class_names, positive_class
from mlops_assets.compute.training.importance import permutation_importance
from mlops_assets.compute.training.responses import CachedPredictor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mlops_assets.compute.training.importance import PermutationImportance
    from mlops_assets.values.evaluation import Split

_MAX_CURVES = 12
_MAX_POINTS = 1_000  # of an ROC curve: more than the picture has pixels
_MAX_NAME = 31  # of a column, in characters


def plot_model(  # noqa: PLR0913  (what is drawn)
    estimator: Any,  # noqa: ANN401  (any estimator)
    holdout: Split,
    metric: str,
    seed: str,
    *,
    positive: Any = None,  # noqa: ANN401  (any label)
    importance: PermutationImportance | None = None,
) -> dict[str, bytes | str]:
    """Return title → PNG, or an error text for a plot that failed.

    A binary classifier with probabilities gets an ROC and a calibration curve, if the holdout has rows of both classes. A regressor gets
    predicted against true values. Every model gets the importance of its columns, unless ``X`` has none.

    Parameters
    ----------
    estimator
        A fitted estimator, or a CachedPredictor of the rows of ``holdout``.
    holdout
        Held-out rows with their labels.
    metric, seed
        Metric and seed of the importance, as in :func:`mlops_assets.compute.training.importance.permutation_importance`.
    positive
        The positive class of a binary classifier; the second class when None.
    importance
        The importance on the holdout; computed when None.
    """
    model = estimator if isinstance(estimator, CachedPredictor) else CachedPredictor(estimator, holdout.X)

    def measure() -> PermutationImportance:
        return importance or permutation_importance(model.estimator, holdout.X, holdout.y, metric, seed, positive=positive)

    return {title: _try_plot(draw) for title, draw in _iterate_plots(model, holdout, positive, measure)}


def _try_plot(draw: Callable[[], bytes]) -> bytes | str:
    """Return the PNG, or the error as text."""
    try:
        return draw()
    except Exception as error:  # noqa: BLE001  (a picture fails no training)
        return f"{type(error).__name__}: {error}"


def plot_curves(curves: Mapping[str, Any]) -> bytes:
    """Return curves of metrics as small multiples, as PNG; points that are not finite are left blank.

    Parameters
    ----------
    curves
        Name → an object with ``steps`` and ``values``; at least one. The first twelve are drawn.
    """
    from matplotlib.figure import Figure

    shown = list(curves.items())[:_MAX_CURVES]
    columns = min(len(shown), 3)
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(4 * columns, 2.6 * rows), dpi=80)
    figure.subplots_adjust(left=0.2 / columns, right=1 - 0.04 / columns, bottom=0.2 / rows, top=1 - 0.12 / rows, wspace=0.3, hspace=0.5)
    for at, (name, curve) in enumerate(shown):
        axes = figure.add_subplot(rows, columns, at + 1)
        axes.plot(curve.steps, np.where(np.isfinite(curve.values), curve.values, np.nan))
        axes.set_title(name if len(name) <= 40 else name[:39] + "…", fontsize=9, parse_math=False)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
    return encode_png(figure)


def _iterate_plots(
    model: CachedPredictor,
    holdout: Split,
    positive: Any,  # noqa: ANN401
    measure: Callable[[], PermutationImportance],
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield the title of each plot that suits the model, and the function that draws it."""
    from sklearn.base import is_classifier

    if is_classifier(model.estimator):
        positive_label = positive_class(model.classes_, positive) if hasattr(model, "predict_proba") else None
        if positive_label is not None and len(np.unique(holdout.y)) == 2:
            truth, at = holdout.y == positive_label, class_names(model.classes_).index(str(positive_label))
            yield "ROC", lambda: _plot_roc(truth, model.predict_all("predict_proba")[:, at])
            yield "calibration", lambda: _plot_calibration(truth, model.predict_all("predict_proba")[:, at])
    else:
        yield "prediction against truth", lambda: _plot_predictions(holdout.y, model.predict_all("predict"))
    if holdout.X.width:
        yield "importance", lambda: _plot_importance(measure())


def _plot_roc(truth: np.ndarray, probability: np.ndarray) -> bytes:
    from sklearn.metrics import roc_auc_score, roc_curve

    false_rate, true_rate, _ = roc_curve(truth, probability)
    figure, axes = _make_figure("false positive rate", "true positive rate")
    shown = np.unique(np.linspace(0, len(false_rate) - 1, min(len(false_rate), _MAX_POINTS)).astype(int))
    axes.plot(false_rate[shown], true_rate[shown], label=f"AUC {roc_auc_score(truth, probability):.3f}")
    axes.plot([0, 1], [0, 1], "--", color="grey", label="chance")
    axes.legend()
    return encode_png(figure)


def _plot_calibration(truth: np.ndarray, probability: np.ndarray) -> bytes:
    from sklearn.calibration import calibration_curve

    observed, predicted = calibration_curve(truth, probability, n_bins=10, strategy="quantile")
    figure, axes = _make_figure("predicted probability", "observed share")
    axes.plot(predicted, observed, "o-")
    axes.plot([0, 1], [0, 1], "--", color="grey")
    return encode_png(figure)


def _plot_predictions(truth: np.ndarray, predicted: np.ndarray) -> bytes:
    figure, axes = _make_figure("truth", "prediction")
    axes.plot(truth, predicted, ".", alpha=0.3)
    ends = [float(np.min(truth)), float(np.max(truth))]
    axes.plot(ends, ends, "--", color="grey")
    return encode_png(figure)


def _plot_importance(importance: PermutationImportance) -> bytes:
    columns = importance.columns[::-1]
    names = [column.column if len(column.column) <= _MAX_NAME else f"{column.column[: _MAX_NAME - 1]}…" for column in columns]
    figure, axes = _make_figure(f"loss of {importance.metric} when shuffled", "", left=0.04 + 0.018 * max(map(len, names)))
    axes.barh(names, [column.drop for column in columns], xerr=[column.error for column in columns])
    return encode_png(figure)


def _make_figure(x_label: str, y_label: str, left: float = 0.15) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    figure = Figure(figsize=(5, 4), dpi=80)
    figure.subplots_adjust(left=left, right=0.97, bottom=0.13, top=0.97)  # a layout engine draws every figure twice
    axes = figure.add_subplot()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes


def encode_png(figure: Any) -> bytes:  # noqa: ANN401  (matplotlib's)
    """Return a figure as PNG; equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
