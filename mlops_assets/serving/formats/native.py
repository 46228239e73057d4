"""LightGBM and XGBoost models in the files of their own libraries, alone or at the end of a pipeline."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mlops_assets.errors import ArtifactError
from mlops_assets.serving.formats.estimator_bytes import LIGHTGBM, XGBOOST, EstimatorBytes, dump_skops
from mlops_assets.serving.formats.stored_estimators import class_facts, make_estimator, to_matrix

_LIGHTGBM = ("LGBMClassifier", "LGBMRegressor")
_XGBOOST = ("XGBClassifier", "XGBRegressor", "XGBRFClassifier", "XGBRFRegressor")


def to_native(estimator: Any) -> EstimatorBytes:  # noqa: ANN401  (any estimator)
    """Return a LightGBM or XGBoost estimator in the file of its library; earlier steps of a pipeline are written as skops.

    Parameters
    ----------
    estimator
        Fitted.

    Raises
    ------
    ArtifactError
        The estimator is neither a LightGBM nor an XGBoost model, or has a custom objective.
    """
    if type(estimator).__name__ == "Pipeline":
        name, last = estimator.steps[-1]
        before = type(estimator)([*estimator.steps[:-1], (name, "passthrough")])
        stored = to_native(last)
        return EstimatorBytes(stored.form, stored.data, dump_skops(before), stored.facts)
    kind = type(estimator).__name__
    if kind in _LIGHTGBM:
        if callable(estimator.objective):
            raise ArtifactError(
                f"a {kind} with an objective of your own cannot be stored in LightGBM's file: its predictions would be raw scores",
                hint='omit format=, or set format="pickle"',
            )
        facts = {"class": kind, "n_features": estimator.n_features_in_, **class_facts(estimator)}
        return EstimatorBytes(LIGHTGBM, estimator.booster_.model_to_string().encode(), facts=facts)
    if kind in _XGBOOST:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.ubj"
            estimator.save_model(file)
            # The file does not record which number stands for a missing value, and the probe rows may contain none. JSON has no NaN.
            missing = {} if np.isnan(estimator.missing) else {"missing": float(estimator.missing)}
            return EstimatorBytes(XGBOOST, file.read_bytes(), facts={"class": kind, **missing})
    raise ArtifactError(
        f"a {kind} cannot be stored in its own library's file",
        hint=f'format="native" stores {", ".join((*_LIGHTGBM, *_XGBOOST))}, alone or as the last step of a pipeline; omit format= for skops',
    )


def from_native(stored: EstimatorBytes, before: Any) -> Any:  # noqa: ANN401
    """Read an estimator that :func:`to_native` wrote.

    Parameters
    ----------
    stored
        The verified bytes.
    before
        The pipeline whose last step is replaced in place by the estimator; None for an estimator without a pipeline.
    """
    last = _read_lightgbm(stored) if stored.form == LIGHTGBM else _read_xgboost(stored)
    if before is None:
        return last
    before.steps[-1] = (before.steps[-1][0], last)
    return before


def _read_lightgbm(stored: EstimatorBytes) -> Any:  # noqa: ANN401
    import lightgbm

    booster = lightgbm.Booster(model_str=stored.data.decode())

    def compute(X: Any, threads: int | None) -> np.ndarray:  # noqa: ANN401
        return booster.predict(to_matrix(X), num_threads=threads or 0)  # type: ignore[return-value]

    return make_estimator(compute, stored.facts)


def _read_xgboost(stored: EstimatorBytes) -> Any:  # noqa: ANN401
    import xgboost

    if stored.facts["class"] not in _XGBOOST:
        raise ArtifactError(f"'{stored.facts['class']}' is not a stored estimator of XGBoost", hint="train the model again")
    estimator = getattr(xgboost, stored.facts["class"])(missing=stored.facts.get("missing", np.nan))
    estimator.load_model(bytearray(stored.data))
    return estimator
