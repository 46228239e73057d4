"""ONNX, where it was proved to predict as the estimator does.

A conversion may be silently wrong: categories of histogram gradient boosting, numbers that lose their last bits on the way to 32 of them.
So it is used only when it agrees on training rows, beside every kind of threshold, on nulls, extremes and categories that nobody has seen;
else the estimator itself is stored, and the reason is told.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.errors import ArtifactError
from mlops_assets.serving.formats.hard_rows import hard_rows
from mlops_assets.serving.formats.likeliest import labels_of, may_predict_likeliest
from mlops_assets.serving.formats.native import native
from mlops_assets.serving.formats.readback import Classifier, Regressor, as_estimator, classes_of
from mlops_assets.serving.formats.written import ONNX, SKOPS, Written, skops_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

TOLERANCE = 1e-5  # of a probability; of a number, times its size
_ROWS = 20_000  # training rows that are compared
_NEIGHBOURS = 256  # thresholds of a column that are compared
_KINDS = ("double", "float")
_NOBODY = "\x00 null"  # ONNX has no null text: it is a category that nobody has


def converted(estimator: Any, X: pl.DataFrame) -> Written:  # noqa: ANN401  (any estimator)
    """Return an estimator as ONNX when a conversion is proved, else in its own form with the reason.

    Parameters
    ----------
    estimator
        Fitted on ``X``.
    X
        The training rows.
    """
    import onnxruntime

    if hasattr(estimator, "predict_proba") and not may_predict_likeliest(estimator):
        return replace(_own(estimator), refused="its prediction need not be the likeliest class, which is what the ONNX form predicts")
    reasons = dict[str, str]()
    for kind in _KINDS:
        for single in (True, False):
            try:
                done = _convert(estimator, X, kind, single=single)
                why = disparity(estimator, OnnxModel(done.data, done.facts), X)
            except Exception as error:  # noqa: BLE001  (what cannot be converted is not)
                why = f"it cannot be converted ({type(error).__name__})"
            if not why:
                return Written(ONNX, done.data, facts={**done.facts, "onnxruntime": onnxruntime.__version__})
            reasons.setdefault(why, kind)
    told = [why for why in reasons if "cannot be converted" not in why] or list(reasons)
    wide = [name for name, dtype in X.schema.items() if dtype == pl.Float64]
    hint = (
        f"; numbers lose bits on the way to 32 of them: cast '{wide[0]}' to Float32 in the training set"
        if wide and told[-1].startswith(("on training rows", "on rows beside"))
        else ""
    )
    return replace(_own(estimator), refused=told[-1] + hint)


def _own(estimator: Any) -> Written:  # noqa: ANN401
    """Return an estimator in the file of its own library, or as skops."""
    try:
        return native(estimator)
    except ArtifactError:
        return Written(SKOPS, skops_bytes(estimator))


def _convert(estimator: Any, X: pl.DataFrame, kind: str, *, single: bool) -> Written:  # noqa: ANN401
    from skl2onnx import to_onnx
    from skl2onnx.common import data_types

    number = data_types.DoubleTensorType if kind == "double" else data_types.FloatTensorType
    if single:
        inputs: list[tuple[str, Any]] = [("X", number([None, X.width]))]
    else:
        inputs = [(name, (number if _is_number(dtype) else data_types.StringTensorType)([None, 1])) for name, dtype in X.schema.items()]
    options = {"zipmap": False} if hasattr(estimator, "predict_proba") else None  # probabilities as a matrix
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = to_onnx(estimator, initial_types=inputs, options=options)
    _lower(made, [threshold for _, threshold in _thresholds(_last(estimator))])
    columns = [[name, "number" if _is_number(dtype) else "text"] for name, dtype in X.schema.items()]  # a manifest sorts what has keys
    facts = {"kind": kind, "single": single, "columns": columns, "n_features": X.width}
    return Written(ONNX, made.SerializeToString(), facts=facts | (classes_of(estimator) if hasattr(estimator, "predict_proba") else {}))


def _lower(made: Any, thresholds: Sequence[float]) -> None:  # noqa: ANN401  (ONNX's)
    """Round the thresholds of trees down to 32 bits: a number of 32 bits is at most a threshold exactly when it is at most that.

    The converter rounds to the nearest, which puts a number that lies between a threshold and its rounding on the wrong side.
    """
    exact = np.array(thresholds)
    near = exact.astype(np.float32)
    high = dict(zip(near.tolist(), (near.astype(np.float64) > exact).tolist(), strict=True))
    for node in made.graph.node:
        for attribute in node.attribute:
            if attribute.name == "nodes_values":
                values = np.array(attribute.floats, dtype=np.float32)
                above = np.array([high.get(value, False) for value in values.tolist()], dtype=bool)
                attribute.floats[:] = np.where(above, np.nextafter(values, np.float32(-np.inf)), values).tolist()


def _last(estimator: Any) -> Any:  # noqa: ANN401
    return _last(estimator.steps[-1][1]) if type(estimator).__name__ == "Pipeline" else estimator


def _is_number(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or dtype == pl.Boolean


def OnnxModel(data: bytes, facts: Mapping[str, Any]) -> Regressor:  # noqa: N802  (it makes one)
    """Return a fitted model that onnxruntime runs.

    Parameters
    ----------
    data
        The file.
    facts
        As :func:`converted` has told them.
    """
    return as_estimator(partial(_run, _Sessions(data), facts), facts)


class _Sessions:
    """Sessions of one model, by their number of threads, made when they are first needed."""

    def __init__(self, data: bytes) -> None:
        self._data, self._made = data, dict[int, Any]()
        self(0)  # a file that is no model is refused now

    def __call__(self, threads: int) -> Any:  # noqa: ANN401
        import onnxruntime

        if threads not in self._made:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = threads, 4
            self._made[threads] = onnxruntime.InferenceSession(self._data, options, providers=["CPUExecutionProvider"])
        return self._made[threads]


def _run(sessions: _Sessions, facts: Mapping[str, Any], X: Any, threads: int | None) -> np.ndarray:  # noqa: ANN401
    columns = [name for name, _ in facts["columns"]]
    frame = X if isinstance(X, pl.DataFrame) else pl.DataFrame(np.asarray(X), schema=columns, orient="row")
    if not frame.height:
        return np.zeros((0, len(facts["classes"])) if "classes" in facts else 0)
    found = sessions(threads or 0).run(None, _feed(frame.select(columns), facts))
    made = np.asarray(found[1] if "classes" in facts else found[0], dtype=np.float64)
    made = made if "classes" in facts else made.ravel()
    if not np.isfinite(made).all():
        raise ValueError("the model has no answer for a row with nulls or numbers that are too large")
    return made


def _feed(frame: pl.DataFrame, facts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    dtype = np.float64 if facts["kind"] == "double" else np.float32
    if facts["single"]:
        return {"X": _numbers(frame).astype(dtype)}
    return {
        name: _numbers(frame.select(name)).astype(dtype)
        if kind == "number"
        else frame[name].fill_null(_NOBODY).to_numpy().astype(object).reshape(-1, 1)
        for name, kind in facts["columns"]
    }


def _numbers(frame: pl.DataFrame) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what does not fit into 32 bits is compared, and refused by that
        return frame.cast(pl.Float64).to_numpy()


def disparity(estimator: Any, model: Regressor, X: pl.DataFrame) -> str:  # noqa: ANN401
    """Return where a converted model predicts otherwise than the estimator, or ``""``.

    Parameters
    ----------
    estimator, model
        The two.
    X
        The training rows.
    """
    rows = X.gather_every(max(1, X.height // _ROWS)).head(_ROWS)
    groups = [
        ("training rows", rows),
        *((f"rows beside the thresholds of '{name}'", beside) for name, beside in _neighbours(estimator, rows)),
    ]
    for where, some in groups:
        if why := _difference(estimator, model, some):
            return f"on {where} {why}"
    hard = hard_rows(rows.head(1))
    for at in range(hard.height):
        if why := _difference(estimator, model, hard[at]):
            return f"on a row of nulls, extremes or unseen categories {why}"
    return ""


def _difference(estimator: Any, model: Regressor, rows: pl.DataFrame) -> str:  # noqa: ANN401
    was, now = _outcome(estimator, rows), _outcome(model, rows)
    if was is None or now is None:
        return (
            ""
            if was is None and now is None
            else f"it {'answers what' if was is None else 'refuses what'} the estimator {'refuses' if was is None else 'answers'}"
        )
    off = np.abs(now - was) / (1.0 if isinstance(model, Classifier) else np.maximum(1.0, np.abs(was)))
    if isinstance(model, Classifier) and (flipped := _flipped(estimator, model, rows)):
        return f"{flipped} of {rows.height} labels flip"
    return f"predictions differ by {off.max():.2g}" if not (off <= TOLERANCE).all() else ""


def _flipped(estimator: Any, model: Regressor, rows: pl.DataFrame) -> int:  # noqa: ANN401
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return int((labels_of(estimator, rows) != labels_of(model, rows)).sum())


def _outcome(model: Any, rows: pl.DataFrame) -> np.ndarray | None:  # noqa: ANN401
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(model.predict_proba(rows) if hasattr(model, "predict_proba") else model.predict(rows))
    except Exception:  # noqa: BLE001  (any refusal is a refusal)
        return None


def _neighbours(estimator: Any, rows: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:  # noqa: ANN401
    """Yield, for each column of fractions, rows that lie just below, on and just above thresholds: midpoints of the data, and those of trees."""
    known = dict[int, list[float]]()
    for column, threshold in _thresholds(estimator):
        known.setdefault(column, []).append(threshold)
    for at, (name, dtype) in enumerate(rows.schema.items()):
        if dtype.is_float():
            values = rows[name].to_numpy()
            order = np.argsort(values, kind="stable")[: int(np.isfinite(values).sum())]
            middle = (values[order][1:] + values[order][:-1]) / 2
            wanted = np.unique(np.concatenate([_some(middle), _some(np.array(known.get(at, ())))]).astype(values.dtype))
            beside = np.concatenate([np.nextafter(wanted, -np.inf), wanted, np.nextafter(wanted, np.inf)])
            if len(order) and len(beside):
                near = order[np.clip(np.searchsorted(values[order], beside), 0, len(order) - 1)]
                yield name, rows[near.tolist()].with_columns(pl.Series(name, beside, dtype=dtype))


def _some(values: np.ndarray) -> np.ndarray:
    return values[:: max(1, len(values) // _NEIGHBOURS)]


def _thresholds(estimator: Any) -> Iterator[tuple[int, float]]:  # noqa: ANN401
    """Yield the column and the threshold of each split of scikit-learn's trees, where these take ``X`` as it is."""
    if getattr(estimator, "_preprocessor", None) is None:
        for tree in (tree for several in getattr(estimator, "_predictors", ()) for tree in several):
            splits = tree.nodes[(tree.nodes["is_leaf"] == 0) & (tree.nodes["is_categorical"] == 0)]
            yield from zip(splits["feature_idx"].tolist(), splits["num_threshold"].tolist(), strict=True)
    trees: Sequence[Any] = np.ravel(getattr(estimator, "estimators_", [estimator])).tolist()
    for grown in (tree.tree_ for tree in trees if hasattr(tree, "tree_")):
        inner = grown.feature >= 0
        yield from zip(grown.feature[inner].tolist(), grown.threshold[inner].tolist(), strict=True)
