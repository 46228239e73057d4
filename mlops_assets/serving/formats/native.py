"""LightGBM and XGBoost in the files that these libraries define themselves, alone or at the end of a pipeline."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mlops_assets.errors import ArtifactError
from mlops_assets.serving.formats.readback import as_estimator, classes_of, matrix
from mlops_assets.serving.formats.written import LIGHTGBM, XGBOOST, Written, skops_bytes

_LIGHTGBM = ("LGBMClassifier", "LGBMRegressor")
_XGBOOST = ("XGBClassifier", "XGBRegressor", "XGBRFClassifier", "XGBRFRegressor")


def native(estimator: Any) -> Written:  # noqa: ANN401  (any estimator)
    """Return a LightGBM or XGBoost estimator in the file of its library; of a pipeline, its last step, and the steps before as skops.

    Parameters
    ----------
    estimator
        Fitted.

    Raises
    ------
    ArtifactError
        It is neither, or has an objective of the user's own.
    """
    if type(estimator).__name__ == "Pipeline":
        name, last = estimator.steps[-1]
        before = type(estimator)([*estimator.steps[:-1], (name, "passthrough")])
        done = native(last)
        return Written(done.form, done.data, skops_bytes(before), done.facts)
    kind = type(estimator).__name__
    if kind in _LIGHTGBM:
        if callable(estimator.objective):
            raise ArtifactError(
                f"a {kind} with an objective of your own has no file of LightGBM's: its predictions are raw scores",
                hint='leave format= out, or say format="pickle"',
            )
        facts = {"class": kind, "n_features": estimator.n_features_in_, **classes_of(estimator)}
        return Written(LIGHTGBM, estimator.booster_.model_to_string().encode(), facts=facts)
    if kind in _XGBOOST:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.ubj"
            estimator.save_model(file)
            # The file does not say which number stands for a missing one, and the probe may hold none; NaN is no JSON.
            missing = {} if np.isnan(estimator.missing) else {"missing": float(estimator.missing)}
            return Written(XGBOOST, file.read_bytes(), facts={"class": kind, **missing})
    raise ArtifactError(
        f"a {kind} has no file of its own library",
        hint=f'format="native" stores {", ".join((*_LIGHTGBM, *_XGBOOST))}, alone or as the last step of a pipeline; leave it out for skops',
    )


def from_native(stored: Written, before: Any) -> Any:  # noqa: ANN401
    """Return the estimator that :func:`native` has written.

    Parameters
    ----------
    stored
        Its verified bytes.
    before
        The pipeline without its last step, or None.
    """
    last = _lightgbm(stored) if stored.form == LIGHTGBM else _xgboost(stored)
    if before is None:
        return last
    before.steps[-1] = (before.steps[-1][0], last)
    return before


def _lightgbm(stored: Written) -> Any:  # noqa: ANN401
    import lightgbm

    booster = lightgbm.Booster(model_str=stored.data.decode())

    def raw(X: Any, threads: int | None) -> np.ndarray:  # noqa: ANN401
        return booster.predict(matrix(X), num_threads=threads or 0)  # type: ignore[return-value]

    return as_estimator(raw, stored.facts)


def _xgboost(stored: Written) -> Any:  # noqa: ANN401
    import xgboost

    if stored.facts["class"] not in _XGBOOST:
        raise ArtifactError(f"'{stored.facts['class']}' is no estimator of XGBoost that is stored so", hint="train the model again")
    estimator = getattr(xgboost, stored.facts["class"])(missing=stored.facts.get("missing", np.nan))
    estimator.load_model(bytearray(stored.data))
    return estimator
