"""The fastest way to a model's predictions that was proved to agree with the model."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.errors import MlopsError
from mlops_assets.serving.compiled import Compiler, Node, Unrecognised
from mlops_assets.serving.final import BOOSTED, boosted, final_step
from mlops_assets.serving.schema import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TOLERANCE = 1e-9
_EXTREMES = {"Float64": (-1e300, 1e300, 0.0), "Float32": (-1e38, 1e38, 0.0)}
_HINT = "send values like those that the model was trained on"


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model says of some rows.

    Parameters
    ----------
    predictions
        Plain values.
    probabilities
        Of the second class; None when there are not two.
    """

    predictions: list[Any]
    probabilities: list[float] | None


class Predictor:
    """Scores columns of plain values.

    Parameters
    ----------
    estimator
        Fitted.
    raw
        From columns and their number of rows to class probabilities, or to predictions.
    how
        ``compiled``, or ``native`` and why.
    """

    def __init__(self, estimator: Any, raw: Callable[[Sequence[Sequence[Any]], int], np.ndarray], how: str) -> None:  # noqa: ANN401
        self._classes = estimator.classes_ if hasattr(estimator, "predict_proba") else None
        self.raw = raw
        self.how = how

    def __call__(self, columns: Sequence[Sequence[Any]], count: int) -> Scores:
        """Return prediction and probability of every row.

        Parameters
        ----------
        columns
            Of ``X``, in order, each a list of values; times are microseconds since 1970 in UTC.
        count
            The number of rows.

        Raises
        ------
        RequestError
            The model refuses a row: 422.
        """
        if not count:
            return Scores([], None)
        try:
            made = self.raw(columns, count)
        except MlopsError as error:
            raise RequestError(error.message, hint=error.hint) from error
        except (ValueError, TypeError, pl.exceptions.PolarsError) as error:
            raise RequestError(f"the model cannot predict these rows ({type(error).__name__})", hint=_HINT) from error
        if self._classes is None:
            return Scores(np.asarray(made).tolist(), None)
        predictions = self._classes[made.argmax(axis=1)].tolist()
        return Scores(predictions, made[:, 1].tolist() if made.shape[1] == 2 else None)


def make_predictor(estimator: Any, probe: pl.DataFrame) -> Predictor:  # noqa: ANN401
    """Return the compiled predictor of an estimator when it is proved, else the native one.

    Parameters
    ----------
    estimator
        Fitted; it may be told to use one thread.
    probe
        The stored probe rows, of the columns and types that it was trained on.
    """
    one_thread(estimator)
    native = _native(estimator, probe)
    why = ""
    for shortcut in (True, False):
        try:
            compiled = _compiled(estimator, probe, shortcut=shortcut)
        except Unrecognised as error:
            return Predictor(estimator, native, f"native ({error})")
        except Exception as error:  # noqa: BLE001  (what cannot be compiled is not; the native estimator is always right)
            return Predictor(estimator, native, f"native (compiling failed with {type(error).__name__})")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # hard rows overflow and hold unknown categories on purpose
            why = disagreement(native, compiled, probe)
        if not why:
            return Predictor(estimator, compiled, "compiled")
    return Predictor(estimator, native, f"native ({why})")


def one_thread(estimator: Any) -> None:  # noqa: ANN401
    """Tell an estimator and its parts to use one thread: a worker has one, and pools of threads collapse a busy server."""
    if hasattr(estimator, "get_params"):
        pools = {name: 1 for name, value in estimator.get_params(deep=True).items() if name.split("__")[-1] == "n_jobs" and value != 1}
        if pools:
            estimator.set_params(**pools)


def _native(estimator: Any, probe: pl.DataFrame) -> Callable[[Sequence[Sequence[Any]], int], np.ndarray]:  # noqa: ANN401
    """One data frame for a request, of the types that the model was trained on."""
    predict = estimator.predict_proba if hasattr(estimator, "predict_proba") else estimator.predict

    def raw(columns: Sequence[Sequence[Any]], count: int) -> np.ndarray:
        del count
        frame = pl.DataFrame([_series(name, values, dtype) for (name, dtype), values in zip(probe.schema.items(), columns, strict=True)])
        return np.asarray(predict(frame))

    return raw


def _series(name: str, values: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    if isinstance(dtype, pl.Datetime):
        return pl.Series(name, values, dtype=pl.Datetime("us", dtype.time_zone)).cast(dtype)
    return pl.Series(name, values, dtype=dtype)


def _compiled(estimator: Any, probe: pl.DataFrame, *, shortcut: bool) -> Callable[[Sequence[Sequence[Any]], int], np.ndarray]:  # noqa: ANN401
    fitted = getattr(estimator, "best_estimator_", estimator)
    compiler = Compiler(tuple(probe.schema.items()))
    matrix, last, encoded = _parts(fitted, compiler, range(probe.width))
    final = boosted(last, encoded=True) if encoded else final_step(last, shortcut=shortcut)

    def raw(columns: Sequence[Sequence[Any]], count: int) -> np.ndarray:
        return final(matrix(columns, count))

    _check_width(matrix, last, probe)
    return raw


def _parts(fitted: Any, compiler: Compiler, columns: Sequence[int]) -> tuple[Node, Any, bool]:  # noqa: ANN401
    """Return what makes the matrix, the last step, and whether its own encoder of categories has been compiled into the matrix."""
    if type(fitted).__name__ == "Pipeline":
        before, last = fitted[:-1], fitted.steps[-1][1]
        return (compiler.transformer(before, columns), last, False) if len(before) else _parts(last, compiler, columns)
    if type(fitted).__name__ in BOOSTED and fitted._preprocessor is not None:  # noqa: SLF001
        return compiler.transformer(fitted._preprocessor, columns), fitted, True  # noqa: SLF001
    return compiler.everything(), fitted, False


def _check_width(matrix: Node, fitted: Any, probe: pl.DataFrame) -> None:  # noqa: ANN401
    """A wrong width would make the shortcuts read beside what they should."""
    width = matrix(plain_columns(probe.head(1)), min(1, probe.height)).shape[1]
    if width != getattr(fitted, "n_features_in_", width):
        raise Unrecognised(f"{width} columns were made of {fitted.n_features_in_}")


def plain_columns(rows: pl.DataFrame) -> list[list[Any]]:
    """Return the columns of a frame as lists; times are microseconds since 1970."""
    return [
        (column.dt.cast_time_unit("us").to_physical() if isinstance(column.dtype, pl.Datetime) else column).to_list() for column in rows
    ]


def disagreement(
    native: Callable[[Sequence[Sequence[Any]], int], np.ndarray],
    compiled: Callable[[Sequence[Sequence[Any]], int], np.ndarray],
    probe: pl.DataFrame,
) -> str:
    """Return where two ways to predict differ, or ``""``.

    They are compared on the probe rows, together and alone, and on rows that are hard: null in every column, categories that nobody
    has seen, extreme numbers. Where the native one refuses, the compiled one must too.
    """
    if not probe.height:
        return "there are no probe rows to prove it on"
    usual, hard = plain_columns(probe), plain_columns(hard_rows(probe))
    for columns in (usual, hard):
        together = _outcome(native, columns)
        for row in range(len(columns[0])):
            alone = [[column[row]] for column in columns]
            # One native call for all rows costs as much as one for one row, so rows are asked alone only where it tells more.
            expected = together[row : row + 1] if together is not None and row % 16 else _outcome(native, alone)
            if not _equal(expected, _outcome(compiled, alone)):
                return "the compiled form differs on " + ("a probe row" if columns is usual else "a hard row")
        if not _equal(together, _outcome(compiled, columns)):
            return "the compiled form differs on several rows at once"
    return ""


def hard_rows(probe: pl.DataFrame) -> pl.DataFrame:
    """Return rows on which two implementations easily differ: the first probe row, with one hard value each, and one of nulls."""
    usual = probe.head(1)
    frames = [usual.with_columns(pl.lit(None, dtype=dtype).alias(name) for name, dtype in probe.schema.items())]
    for name, dtype in probe.schema.items():
        frames += [usual.with_columns(pl.lit(value, dtype=dtype).alias(name)) for value in (None, *_hard_values(dtype))]
    return pl.concat(frames)


def _hard_values(dtype: pl.DataType) -> tuple[Any, ...]:
    if dtype == pl.String:
        return ("", "a category that nobody has seen", "ß中\x00")
    if dtype == pl.Boolean:
        return (True, False)
    if dtype.is_integer():
        return (0, 1, dtype.min().pipe(pl.select).item(), dtype.max().pipe(pl.select).item())  # type: ignore[attr-defined]
    return _EXTREMES.get(str(dtype), ())


def _outcome(raw: Callable[[Sequence[Sequence[Any]], int], np.ndarray], columns: Sequence[Sequence[Any]]) -> np.ndarray | None:
    """Return what is predicted; None when it is refused."""
    try:
        return np.asarray(raw(columns, len(columns[0])))
    except Exception:  # noqa: BLE001  (any refusal is a refusal)
        return None


def _equal(native: np.ndarray | None, compiled: np.ndarray | None) -> bool:
    if native is None or compiled is None:
        return native is None and compiled is None
    if native.shape != compiled.shape:
        return False
    if native.dtype.kind not in "fiu":
        return bool((native == compiled).all())
    if native.ndim == 2 and (native.argmax(axis=1) != compiled.argmax(axis=1)).any():
        return False
    close = np.abs(native - compiled) <= TOLERANCE * np.maximum(1.0, np.abs(native))
    return bool((close | (native == compiled) | (np.isnan(native) & np.isnan(compiled))).all())
