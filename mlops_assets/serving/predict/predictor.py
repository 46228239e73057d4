"""Predict by the fastest path that is verified to agree with the estimator."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.compute.training.classes import class_names, positive_class
from mlops_assets.errors import MlopsError
from mlops_assets.serving.formats.argmax import argmax_class, may_predict_argmax
from mlops_assets.serving.formats.edge_case_rows import make_edge_case_rows
from mlops_assets.serving.predict.compiled_preprocessing import MatrixBuilder, NotCompilable, TransformerCompiler, drop_feature_names
from mlops_assets.serving.predict.final_estimator import BOOSTING, compile_boosting, compile_final_estimator
from mlops_assets.serving.predict.request_schema import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TOLERANCE = 1e-9  # between the native and the compiled path; relative for numbers above 1
_HINT = "send values like those that the model was trained on"


@dataclass(frozen=True, eq=False)
class Scores:
    """The predictions for some rows.

    Parameters
    ----------
    predictions
        One plain value for each row.
    positive
        Probabilities of the positive class; None unless there are two classes.
    probabilities
        Probabilities by class name; None for a model without any.
    """

    predictions: list[Any]
    positive: list[float] | None = None
    probabilities: list[dict[str, float]] | None = None


@dataclass(frozen=True, eq=False)
class ScoringPath:
    """A path from columns to predictions.

    Parameters
    ----------
    prepare
        Function from columns and the number of rows to a frame or a matrix.
    scores
        Function from the frame or matrix to class probabilities, shape (rows, classes), or predictions, shape (rows,).
    labels
        Function from the frame or matrix to predictions; None where predictions are the argmax of ``scores``, or ``scores`` itself.
    """

    prepare: Callable[[Sequence[Sequence[Any]], int], Any]
    scores: Callable[[Any], np.ndarray]
    labels: Callable[[Any], np.ndarray] | None = None


class NotFiniteError(RequestError):
    """A request in which some rows have no finite prediction.

    Parameters
    ----------
    row
        Index of the first such row.
    count
        Number of such rows.
    """

    def __init__(self, row: int, count: int) -> None:
        super().__init__(f"the model has no finite prediction for row {row}", hint="send the other rows without it; " + _HINT, row=row)
        self.count = count


class Predictor:
    """Scores columns of plain values. Made by :func:`make_predictor`.

    Parameters
    ----------
    estimator
        The fitted estimator.
    path
        The path to its predictions.
    description
        ``compiled``, or ``native`` and why.
    positive
        The positive class of two classes; the second when None. The attribute of this name is None unless there are two classes.
    """

    def __init__(self, estimator: Any, path: ScoringPath, description: str, positive: Any = None) -> None:  # noqa: ANN401
        self._classes = estimator.classes_ if hasattr(estimator, "predict_proba") else None
        self._names = () if self._classes is None else tuple(class_names(self._classes))
        positive_label = positive_class(() if self._classes is None else self._classes, positive)
        self.positive = None if positive_label is None else str(positive_label)
        self.path = path
        self.description = description

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes as text, in the estimator's order; empty for a model without probabilities."""
        return self._names

    def __call__(self, columns: Sequence[Sequence[Any]], count: int) -> Scores:
        """Return the prediction and the probabilities of every row.

        Parameters
        ----------
        columns
            The columns of ``X``, in order, each a list of values; times are microseconds since 1970 in UTC.
        count
            Number of rows.

        Raises
        ------
        RequestError
            The model refuses a row, or has no finite prediction for it: status 422.
        """
        if not count:
            return Scores([])
        path = self.path
        try:
            rows = path.prepare(columns, count)
            scores = path.scores(rows)
            labels = None if path.labels is None else path.labels(rows)
        except MlopsError as error:
            raise RequestError(error.message, hint=error.hint) from error
        except (ValueError, TypeError, pl.exceptions.PolarsError) as error:
            raise RequestError(f"the model cannot predict these rows ({type(error).__name__})", hint=_HINT) from error
        scores = np.asarray(scores)
        _refuse_not_finite(scores)
        if self._classes is None:
            return Scores(scores.tolist())
        predictions, names = (self._classes[scores.argmax(axis=1)] if labels is None else labels).tolist(), self._names
        probabilities = [dict(zip(names, row, strict=True)) for row in scores.tolist()]
        positive = self.positive
        return Scores(predictions, None if positive is None else [row[positive] for row in probabilities], probabilities)


def _refuse_not_finite(scores: np.ndarray) -> None:
    """Raise NotFiniteError for rows whose prediction is not finite."""
    if scores.dtype.kind == "f" and not (finite := np.isfinite(scores)).all():
        rows = np.flatnonzero(~finite.reshape(len(scores), -1).all(axis=1))
        raise NotFiniteError(int(rows[0]), len(rows))


def make_predictor(estimator: Any, probe: pl.DataFrame, *, predicts_argmax: bool = False, positive: Any = None) -> Predictor:  # noqa: ANN401
    """Return the fastest compiled predictor that agrees with the estimator, else the native one, which calls the estimator itself.

    Parameters
    ----------
    estimator
        The fitted estimator; its number of threads is set to one in place.
    probe
        The stored probe rows, with the columns and types of training.
    predicts_argmax
        Whether the estimator's prediction was verified to be the argmax of its probabilities when it was stored. This is verified again on
        the probe and on edge-case rows. If False, predictions are computed as well as probabilities.
    positive
        The positive class of two classes; the second when None.
    """
    limit_threads(estimator)
    native_path = _make_native_path(estimator, probe)
    is_argmax = predicts_argmax and may_predict_argmax(estimator)
    why = ""
    for shortcut, labels in dict.fromkeys([(True, not is_argmax), (False, not is_argmax), (True, True), (False, True)]):
        try:
            compiled = _compile_path(estimator, probe, shortcut=shortcut, compute_labels=labels)
        except NotCompilable as error:
            why = str(error)
            break
        except Exception as error:  # noqa: BLE001  (the native estimator is always right)
            why = f"compiling failed with {type(error).__name__}"
            break
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # edge cases overflow and have unknown categories on purpose
            why = find_disagreement(native_path, compiled, probe, getattr(estimator, "classes_", None))
        if not why:
            return Predictor(estimator, compiled, "compiled", positive)
    native = replace(native_path, labels=None) if is_argmax and _labels_are_argmax(native_path, probe, estimator.classes_) else native_path
    return Predictor(estimator, native, f"native ({why})", positive)


def limit_threads(estimator: Any) -> None:  # noqa: ANN401
    """Set an estimator and its parts to one thread in place, because thread pools slow down a busy server."""
    if hasattr(estimator, "get_params"):
        pools = {name: 1 for name, value in estimator.get_params(deep=True).items() if name.split("__")[-1] == "n_jobs" and value != 1}
        if pools:
            estimator.set_params(**pools)


def _make_native_path(estimator: Any, probe: pl.DataFrame) -> ScoringPath:  # noqa: ANN401
    """Return the path through the estimator itself: one data frame per request, in the types of training."""

    def prepare(columns: Sequence[Sequence[Any]], count: int) -> pl.DataFrame:
        del count
        return pl.DataFrame(
            [_make_series(name, values, dtype) for (name, dtype), values in zip(probe.schema.items(), columns, strict=True)]
        )

    if not hasattr(estimator, "predict_proba"):
        return ScoringPath(prepare, lambda rows: np.asarray(estimator.predict(rows)))
    return ScoringPath(prepare, lambda rows: np.asarray(estimator.predict_proba(rows)), lambda rows: np.asarray(estimator.predict(rows)))


def _labels_are_argmax(native: ScoringPath, probe: pl.DataFrame, classes: Any) -> bool:  # noqa: ANN401
    """Whether every prediction on the probe rows, and on edge-case rows that are not refused, is the argmax of the probabilities."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = [_run_path(native, list_columns(rows), classes) for rows in (probe, *make_edge_case_rows(probe).iter_slices(1))]
    return all((argmax_class(classes, scored.scores) == scored.labels).all() for scored in results if scored is not None)


def _make_series(name: str, values: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    if isinstance(dtype, pl.Datetime):
        return pl.Series(name, values, dtype=pl.Datetime("us", dtype.time_zone)).cast(dtype)
    return pl.Series(name, values, dtype=dtype)


def _compile_path(estimator: Any, probe: pl.DataFrame, *, shortcut: bool, compute_labels: bool) -> ScoringPath:  # noqa: ANN401
    """Return a compiled path, unverified; raise NotCompilable if a part has no compiled form.

    Parameters
    ----------
    estimator, probe
        As in :func:`make_predictor`.
    shortcut
        Whether a shortcut may replace the final estimator's own methods.
    compute_labels
        Whether predictions are computed by the final estimator, rather than as the argmax of the probabilities.
    """
    fitted = getattr(estimator, "best_estimator_", estimator)
    compiler = TransformerCompiler(tuple(probe.schema.items()))
    matrix, last, encoded = _split_estimator(fitted, compiler, range(probe.width))
    final = compile_boosting(last, encoded=True) if encoded else compile_final_estimator(last, shortcut=shortcut)
    _check_width(matrix, last, probe)
    if not (compute_labels and hasattr(last, "predict_proba")):
        return ScoringPath(matrix, final)
    if encoded:
        raise NotCompilable("its prediction is not the argmax of its probabilities")
    return ScoringPath(matrix, final, drop_feature_names(last).predict)


def _split_estimator(fitted: Any, compiler: TransformerCompiler, columns: Sequence[int]) -> tuple[MatrixBuilder, Any, bool]:  # noqa: ANN401
    """Return the matrix builder, the final estimator, and whether the estimator's own encoder is compiled into the matrix."""
    if type(fitted).__name__ == "Pipeline":
        before, last = fitted[:-1], fitted.steps[-1][1]
        return (compiler.compile_transformer(before, columns), last, False) if len(before) else _split_estimator(last, compiler, columns)
    if type(fitted).__name__ in BOOSTING and fitted._preprocessor is not None:  # noqa: SLF001
        return compiler.compile_transformer(fitted._preprocessor, columns), fitted, True  # noqa: SLF001
    return compiler.compile_columns(), fitted, False


def _check_width(matrix: MatrixBuilder, fitted: Any, probe: pl.DataFrame) -> None:  # noqa: ANN401
    """Raise NotCompilable if the matrix has another width than the final estimator expects."""
    width = matrix(list_columns(probe.head(1)), min(1, probe.height)).shape[1]
    if width != getattr(fitted, "n_features_in_", width):
        raise NotCompilable(f"the compiled matrix has {width} columns, the final estimator expects {fitted.n_features_in_}")


def list_columns(rows: pl.DataFrame) -> list[list[Any]]:
    """Return the columns of a frame as lists; times are microseconds since 1970 in UTC."""
    return [
        (column.dt.cast_time_unit("us").to_physical() if isinstance(column.dtype, pl.Datetime) else column).to_list() for column in rows
    ]


def find_disagreement(native: ScoringPath, compiled: ScoringPath, probe: pl.DataFrame, classes: Any = None) -> str:  # noqa: ANN401
    """Describe the first rows on which two paths differ, or that there are no probe rows; ``""`` when the paths agree.

    The paths are compared on the probe rows, together and alone, and on edge-case rows: nulls, unseen categories, extreme numbers.
    Probabilities and predictions must agree, and both paths must refuse the same rows.

    Parameters
    ----------
    native, compiled
        The native and the compiled path.
    probe
        The probe rows.
    classes
        Classes of an estimator with probabilities, else None.
    """
    if not probe.height:
        return "there are no probe rows to verify the compiled form on"
    usual, edge_cases = list_columns(probe), list_columns(make_edge_case_rows(probe))
    for columns in (usual, edge_cases):
        batch = _run_path(native, columns, classes)
        for row in range(len(columns[0])):
            single = [[column[row]] for column in columns]
            # A native call for all rows costs as much as one for a single row, so only every 16th row is predicted alone.
            expected = batch[row] if batch is not None and row % 16 else _run_path(native, single, classes)
            if not _is_equal(expected, _run_path(compiled, single, classes)):
                return "the compiled form differs on " + ("a probe row" if columns is usual else "an edge-case row")
        if not _is_equal(batch, _run_path(compiled, columns, classes)):
            return "the compiled form differs on several rows at once"
    return ""


@dataclass(frozen=True, eq=False)
class _ScoredRows:
    """Class probabilities or numbers, and predictions, of some rows."""

    scores: np.ndarray
    labels: np.ndarray

    def __getitem__(self, row: int) -> _ScoredRows:
        return _ScoredRows(self.scores[row : row + 1], self.labels[row : row + 1])


def _run_path(path: ScoringPath, columns: Sequence[Sequence[Any]], classes: Any) -> _ScoredRows | None:  # noqa: ANN401
    """Return the predictions of a path. None if the path raises: both paths must then reject these rows."""
    try:
        rows = path.prepare(columns, len(columns[0]))
        scores = np.asarray(path.scores(rows))
        if path.labels is not None:
            return _ScoredRows(scores, np.asarray(path.labels(rows)))
        return _ScoredRows(scores, argmax_class(classes, scores) if scores.ndim == 2 and classes is not None else scores)
    except Exception:  # noqa: BLE001
        return None


def _is_equal(native: _ScoredRows | None, compiled: _ScoredRows | None) -> bool:
    if native is None or compiled is None:
        return native is None and compiled is None
    if native.scores.shape != compiled.scores.shape or not _is_close(native.scores, compiled.scores):
        return False
    return native.scores.ndim == 1 or bool((native.labels == compiled.labels).all())


def _is_close(native: np.ndarray, compiled: np.ndarray) -> bool:
    if native.dtype.kind not in "fiu":
        return bool((native == compiled).all())
    close = np.abs(native - compiled) <= TOLERANCE * np.maximum(1.0, np.abs(native))
    return bool((close | (native == compiled) | (np.isnan(native) & np.isnan(compiled))).all())
