"""Read parameters and per-iteration scores from a fitted estimator.

Estimators are recognised by their attributes and by the name of their package, so that no library is imported.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_MAX_PARAMS, _MAX_LENGTH = 500, 500  # parameters; characters of a value
_SKLEARN_CURVES = {  # attribute → curve; an attribute may be missing or empty
    "train_score_": "train_score",
    "validation_score_": "validation_score",
    "loss_curve_": "loss",
    "validation_scores_": "validation_score",
    "oob_improvement_": "oob_improvement",
}
_COUNTS = {"n_iter_": "iterations", "n_estimators_": "estimators", "best_iteration_": "best_iteration", "best_iteration": "best_iteration"}


@dataclass(frozen=True)
class TrainingLog:
    """Parameters and per-iteration scores of one training.

    Parameters
    ----------
    params
        Name → value. A parameter of a pipeline's step has the name ``step__name``; a search's best parameter, ``best__name``.
    metrics
        Name → single value, such as the best iteration.
    curves
        Metric → one value per iteration.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)


def read_training_log(estimator: Any) -> TrainingLog:  # noqa: ANN401  (any estimator)
    """Return parameters, metrics and curves of a fitted estimator of scikit-learn, LightGBM or XGBoost.

    Metrics and curves come from the last step of a pipeline and the best estimator of a search. The first 500 parameters by name are
    returned, except parameters that are None or an estimator; a value of more than 500 characters is cut.

    Parameters
    ----------
    estimator
        A fitted estimator.
    """
    inner = _unwrap_fitted(estimator)
    params = {name: value for name, value in _read_params(estimator) if _is_plain(value)}
    shown = {name: _truncate_value(value) for name, value in sorted(params.items())[:_MAX_PARAMS]}
    return TrainingLog(shown, dict(_read_metrics(inner)), dict(_read_curves(inner)))


def _unwrap_fitted(estimator: Any) -> Any:  # noqa: ANN401
    """Return the innermost fitted estimator: the best estimator of a search, the last step of a pipeline."""
    for _ in range(10):
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif isinstance(getattr(estimator, "steps", None), list) and estimator.steps:
            estimator = estimator.steps[-1][1]
        else:
            break
    return estimator


def _read_params(estimator: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    if hasattr(estimator, "get_params"):
        yield from estimator.get_params(deep=True).items()
    for name, value in (getattr(estimator, "best_params_", None) or {}).items():
        yield f"best__{name}", value
    if _package_name(estimator) == "lightgbm" and isinstance(getattr(estimator, "params", None), dict):
        yield from estimator.params.items()
    if _package_name(estimator) == "xgboost" and hasattr(estimator, "save_config") and not hasattr(estimator, "get_params"):
        learner = json.loads(estimator.save_config())["learner"]
        yield from learner["learner_train_param"].items()
        yield from learner["gradient_booster"].get("tree_train_param", {}).items()


def _read_metrics(estimator: Any) -> Iterator[tuple[str, float]]:  # noqa: ANN401
    min_iteration = 1 if _package_name(estimator) == "lightgbm" else 0  # LightGBM's 0 means no early stopping
    for attribute, name in _COUNTS.items():
        with suppress(Exception):  # without early stopping XGBoost raises, an error type that depends on its version
            value = getattr(estimator, attribute)
            if getattr(value, "shape", ()) == () and float(value) >= min_iteration:
                yield name, float(value)
    with suppress(AttributeError, TypeError):
        for part, scores in estimator.best_score.items():  # a booster of LightGBM
            yield from ((f"{part}.{metric}", float(value)) for metric, value in scores.items())


def _read_curves(estimator: Any) -> Iterator[tuple[str, Sequence[float]]]:  # noqa: ANN401
    for attribute, name in _SKLEARN_CURVES.items():
        if len(curve := _to_floats(getattr(estimator, attribute, None))) > 1:
            yield name, curve
    for part, scores in _read_evaluations(estimator).items():
        for metric, values in scores.items():
            yield f"{part}.{metric}", _to_floats(values)


def _read_evaluations(estimator: Any) -> Mapping[str, Mapping[str, Sequence[float]]]:  # noqa: ANN401
    """Return dataset → metric → one value per iteration for LightGBM and XGBoost; empty for any other estimator."""
    if _package_name(estimator) == "lightgbm":
        return getattr(estimator, "evals_result_", None) or {}
    if _package_name(estimator) == "xgboost":
        with suppress(Exception):  # raised when the estimator was fitted without an eval_set
            evaluations: Mapping[str, Mapping[str, Sequence[float]]] = estimator.evals_result()
            return evaluations or {}
    return {}


def _package_name(estimator: object) -> str:
    return next((name for kind in type(estimator).__mro__ if (name := kind.__module__.split(".")[0]) in ("lightgbm", "xgboost")), "")


def _to_floats(values: Any) -> list[float]:  # noqa: ANN401
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError):
        return []


def _is_plain(value: object) -> bool:
    """Return False for None, an estimator, and a list with either; ``get_params`` returns the parameters of an inner estimator."""
    if isinstance(value, (list, tuple)):
        return all(_is_plain(inner) for inner in value)
    return value is not None and not hasattr(value, "get_params")


def _truncate_value(value: object) -> Any:  # noqa: ANN401
    if isinstance(value, (bool, int, float)):
        return value
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _MAX_LENGTH else text[: _MAX_LENGTH - 1] + "…"
