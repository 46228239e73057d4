"""Convert estimators to ONNX where the conversion is verified to predict the same.

A conversion may be silently wrong, e.g. for categories of histogram gradient boosting, or for numbers that are rounded to 32 bits. So it
is used only when it agrees with the estimator on training rows, around thresholds, and on nulls, extremes and unseen categories.
Otherwise the estimator is stored in its library's own format, with the reason.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.compute.tables.frames import sample_evenly
from mlops_assets.errors import ArtifactError
from mlops_assets.serving.formats.argmax import may_predict_argmax, predict_labels
from mlops_assets.serving.formats.edge_case_rows import make_edge_case_rows
from mlops_assets.serving.formats.estimator_bytes import ONNX, SKOPS, EstimatorBytes, dump_skops
from mlops_assets.serving.formats.native import to_native
from mlops_assets.serving.formats.stored_estimators import StoredClassifier, StoredRegressor, class_facts, make_estimator

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

TOLERANCE = 1e-5  # absolute for probabilities; relative for regression predictions above 1
_MAX_ROWS = 20_000  # training rows that are compared
_MAX_THRESHOLDS = 256  # compared per column: at most twice as many midpoints, and twice as many splits
_KINDS = ("double", "float")
_NULL_TEXT = "\x00 null"  # ONNX has no null text: null is a category of its own


def convert_to_onnx(estimator: Any, X: pl.DataFrame) -> EstimatorBytes:  # noqa: ANN401  (any estimator)
    """Return an estimator as ONNX; without a verified conversion, in its library's own format with the reason.

    Parameters
    ----------
    estimator
        Fitted on ``X``.
    X
        The training rows.
    """
    import onnxruntime

    if hasattr(estimator, "predict_proba") and not may_predict_argmax(estimator):
        return replace(
            _keep_own_format(estimator),
            refused="its prediction may differ from the argmax of its probabilities, which the ONNX form predicts",
        )
    reasons = dict[str, str]()
    for kind in _KINDS:
        for single in (True, False):
            try:
                converted = _convert(estimator, X, kind, single=single)
                why = find_onnx_disagreement(estimator, load_onnx(converted.data, converted.facts), X)
            except Exception as error:  # noqa: BLE001  (any error means that this conversion fails)
                why = f"the model cannot be converted ({type(error).__name__})"
            if not why:
                return EstimatorBytes(ONNX, converted.data, facts={**converted.facts, "onnxruntime": onnxruntime.__version__})
            reasons.setdefault(why, kind)
    texts = [why for why in reasons if "cannot be converted" not in why] or list(reasons)
    wide = [name for name, dtype in X.schema.items() if dtype == pl.Float64]
    hint = (
        f"; numbers are rounded to 32 bits: cast '{wide[0]}' to Float32 in the training set"
        if wide and texts[-1].startswith(("on training rows", "on rows around"))
        else ""
    )
    return replace(_keep_own_format(estimator), refused=texts[-1] + hint)


def _keep_own_format(estimator: Any) -> EstimatorBytes:  # noqa: ANN401
    """Return an estimator in the file of its own library if that is LightGBM or XGBoost, else as skops."""
    try:
        return to_native(estimator)
    except ArtifactError:
        return EstimatorBytes(SKOPS, dump_skops(estimator))


def _convert(estimator: Any, X: pl.DataFrame, kind: str, *, single: bool) -> EstimatorBytes:  # noqa: ANN401
    """Convert an estimator to ONNX, without verification.

    Parameters
    ----------
    estimator, X
        As in :func:`convert_to_onnx`.
    kind
        Type of the numbers: ``double`` or ``float``.
    single
        Whether the input is one matrix; otherwise each column is an input.
    """
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
        model = to_onnx(estimator, initial_types=inputs, options=options)
    _round_thresholds_down(model, [threshold for _, threshold in _thresholds(_final_estimator(estimator))])
    columns = [[name, "number" if _is_number(dtype) else "text"] for name, dtype in X.schema.items()]  # a manifest sorts mappings by key
    facts = {"kind": kind, "single": single, "columns": columns, "n_features": X.width}
    return EstimatorBytes(
        ONNX, model.SerializeToString(), facts=facts | (class_facts(estimator) if hasattr(estimator, "predict_proba") else {})
    )


def _round_thresholds_down(model: Any, thresholds: Sequence[float]) -> None:  # noqa: ANN401  (ONNX's)
    """Round the thresholds of trees in a converted model down to 32 bits, so that 32-bit numbers stay on their side of a split.

    The converter rounds to the nearest, which puts a number that lies between a threshold and its rounding on the wrong side.

    Parameters
    ----------
    model
        Changed in place.
    thresholds
        The estimator's thresholds in 64 bits.
    """
    exact = np.array(thresholds)
    near = exact.astype(np.float32)
    high = dict(zip(near.tolist(), (near.astype(np.float64) > exact).tolist(), strict=True))
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "nodes_values":
                values = np.array(attribute.floats, dtype=np.float32)
                above = np.array([high.get(value, False) for value in values.tolist()], dtype=bool)
                attribute.floats[:] = np.where(above, np.nextafter(values, np.float32(-np.inf)), values).tolist()


def _final_estimator(estimator: Any) -> Any:  # noqa: ANN401
    return _final_estimator(estimator.steps[-1][1]) if type(estimator).__name__ == "Pipeline" else estimator


def _is_number(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or dtype == pl.Boolean


def load_onnx(data: bytes, facts: Mapping[str, Any]) -> StoredRegressor:
    """Return a fitted estimator whose predictions onnxruntime computes.

    Parameters
    ----------
    data
        Content of the ONNX file.
    facts
        The ``facts`` that :func:`convert_to_onnx` returned with it.
    """
    return make_estimator(partial(_run_session, _InferenceSessions(data), facts), facts)


class _InferenceSessions:
    """Sessions of one model by number of threads, created on first use; 0 means all threads."""

    def __init__(self, data: bytes) -> None:
        self._data, self._sessions = data, dict[int, Any]()
        self(0)  # a file that is not a model raises here, not at the first prediction

    def __call__(self, threads: int) -> Any:  # noqa: ANN401
        import onnxruntime

        if threads not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = threads, 4
            self._sessions[threads] = onnxruntime.InferenceSession(self._data, options, providers=["CPUExecutionProvider"])
        return self._sessions[threads]


def _run_session(sessions: _InferenceSessions, facts: Mapping[str, Any], X: Any, threads: int | None) -> np.ndarray:  # noqa: ANN401
    """Return probabilities, shape (rows, classes), or predictions, shape (rows,); raise ValueError when one is not finite."""
    columns = [name for name, _ in facts["columns"]]
    frame = X if isinstance(X, pl.DataFrame) else pl.DataFrame(np.asarray(X), schema=columns, orient="row")
    if not frame.height:
        return np.zeros((0, len(facts["classes"])) if "classes" in facts else 0)
    outputs = sessions(threads or 0).run(None, _make_inputs(frame.select(columns), facts))
    scores = np.asarray(outputs[1] if "classes" in facts else outputs[0], dtype=np.float64)
    scores = scores if "classes" in facts else scores.ravel()
    if not np.isfinite(scores).all():
        raise ValueError("the model has no prediction for a row with nulls or numbers that are too large")
    return scores


def _make_inputs(frame: pl.DataFrame, facts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return input name → array: one matrix ``X``, or one array per column, in which null text is a category."""
    dtype = np.float64 if facts["kind"] == "double" else np.float32
    if facts["single"]:
        return {"X": _to_float_matrix(frame).astype(dtype)}
    return {
        name: _to_float_matrix(frame.select(name)).astype(dtype)
        if kind == "number"
        else frame[name].fill_null(_NULL_TEXT).to_numpy().astype(object).reshape(-1, 1)
        for name, kind in facts["columns"]
    }


def _to_float_matrix(frame: pl.DataFrame) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numbers that do not fit into 32 bits fail the comparison
        return frame.cast(pl.Float64).to_numpy()


def find_onnx_disagreement(estimator: Any, model: StoredRegressor, X: pl.DataFrame) -> str:  # noqa: ANN401
    """Describe the first rows on which a converted model and its estimator disagree; ``""`` when they agree on all compared rows.

    Parameters
    ----------
    estimator, model
        The fitted estimator and its conversion.
    X
        The training rows.
    """
    rows = sample_evenly(X, _MAX_ROWS)
    groups = [
        ("training rows", rows),
        *((f"rows around the thresholds of '{name}'", around) for name, around in _rows_around_thresholds(estimator, rows)),
    ]
    for where, group in groups:
        if why := _describe_difference(estimator, model, group):
            return f"on {where} {why}"
    edge_cases = make_edge_case_rows(rows.head(1))
    for at in range(edge_cases.height):
        if why := _describe_difference(estimator, model, edge_cases[at]):
            return f"on a row of nulls, extremes or unseen categories {why}"
    return ""


def _describe_difference(estimator: Any, model: StoredRegressor, rows: pl.DataFrame) -> str:  # noqa: ANN401
    """Describe how a conversion differs from the estimator on rows.

    The text is empty when both raise an error, or when labels are equal and probabilities or predictions agree within ``TOLERANCE``.
    """
    expected, received = _predict_or_none(estimator, rows), _predict_or_none(model, rows)
    if expected is None or received is None:
        return (
            ""
            if expected is None and received is None
            else f"it {'predicts' if expected is None else 'rejects'} rows that the estimator {'rejects' if expected is None else 'predicts'}"
        )
    deviations = np.abs(received - expected) / (1.0 if isinstance(model, StoredClassifier) else np.maximum(1.0, np.abs(expected)))
    if isinstance(model, StoredClassifier) and (flipped := _count_flipped_labels(estimator, model, rows)):
        return f"{flipped} of {rows.height} labels flip"
    return f"predictions differ by {deviations.max():.2g}" if not (deviations <= TOLERANCE).all() else ""


def _count_flipped_labels(estimator: Any, model: StoredRegressor, rows: pl.DataFrame) -> int:  # noqa: ANN401
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return int((predict_labels(estimator, rows) != predict_labels(model, rows)).sum())


def _predict_or_none(model: Any, rows: pl.DataFrame) -> np.ndarray | None:  # noqa: ANN401
    """Return the probabilities of rows, else the predictions; None when the model raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(model.predict_proba(rows) if hasattr(model, "predict_proba") else model.predict(rows))
    except Exception:  # noqa: BLE001  (any error is a refusal)
        return None


def _rows_around_thresholds(estimator: Any, rows: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:  # noqa: ANN401
    """Yield the name of each float column, and rows whose value in this column is just below, on or just above a threshold.

    Thresholds are midpoints between neighbouring values, and the splits of trees; both are thinned out.
    """
    by_column = dict[int, list[float]]()
    for column, threshold in _thresholds(estimator):
        by_column.setdefault(column, []).append(threshold)
    for at, (name, dtype) in enumerate(rows.schema.items()):
        if dtype.is_float():
            values = rows[name].to_numpy()
            order = np.argsort(values, kind="stable")[: int(np.isfinite(values).sum())]
            middle = (values[order][1:] + values[order][:-1]) / 2
            points = np.unique(np.concatenate([_thin_out(middle), _thin_out(np.array(by_column.get(at, ())))]).astype(values.dtype))
            around = np.concatenate([np.nextafter(points, -np.inf), points, np.nextafter(points, np.inf)])
            if len(order) and len(around):
                near = order[np.clip(np.searchsorted(values[order], around), 0, len(order) - 1)]
                yield name, rows[near.tolist()].with_columns(pl.Series(name, around, dtype=dtype))


def _thin_out(values: np.ndarray) -> np.ndarray:
    """Return every n-th value, so that fewer than ``2 * _MAX_THRESHOLDS`` remain."""
    return values[:: max(1, len(values) // _MAX_THRESHOLDS)]


def _thresholds(estimator: Any) -> Iterator[tuple[int, float]]:  # noqa: ANN401
    """Yield column index and threshold of each numeric split in the trees of a scikit-learn estimator.

    A pipeline yields nothing, because it has no trees of its own. Gradient boosting that encodes categories is skipped, because its column
    indices are not those of ``X``.
    """
    if getattr(estimator, "_preprocessor", None) is None:
        for tree in (tree for iteration in getattr(estimator, "_predictors", ()) for tree in iteration):
            splits = tree.nodes[(tree.nodes["is_leaf"] == 0) & (tree.nodes["is_categorical"] == 0)]
            yield from zip(splits["feature_idx"].tolist(), splits["num_threshold"].tolist(), strict=True)
    trees: Sequence[Any] = np.ravel(getattr(estimator, "estimators_", [estimator])).tolist()
    for nodes in (tree.tree_ for tree in trees if hasattr(tree, "tree_")):
        inner = nodes.feature >= 0
        yield from zip(nodes.feature[inner].tolist(), nodes.threshold[inner].tolist(), strict=True)
