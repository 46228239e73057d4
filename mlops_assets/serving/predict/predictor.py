"""The fastest way to a model's predictions that was proved to agree with the model."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.compute.training.classes import class_names, positive_class
from mlops_assets.errors import MlopsError
from mlops_assets.serving.formats.hard_rows import hard_rows
from mlops_assets.serving.formats.likeliest import likeliest_class, may_predict_likeliest
from mlops_assets.serving.predict.compiled import Compiler, Node, Unrecognised, nameless
from mlops_assets.serving.predict.final import BOOSTED, boosted, final_step
from mlops_assets.serving.predict.schema import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TOLERANCE = 1e-9
_HINT = "send values like those that the model was trained on"


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model says of some rows.

    Parameters
    ----------
    predictions
        Plain values.
    positive
        Probabilities of the positive class; None when there are not two.
    probabilities
        Of each class, by name; None when the model gives none.
    """

    predictions: list[Any]
    positive: list[float] | None = None
    probabilities: list[dict[str, float]] | None = None


@dataclass(frozen=True, eq=False)
class Form:
    """A way from columns to predictions.

    Parameters
    ----------
    prepare
        Columns and their number of rows → what the others take: a frame, or a matrix.
    scores
        → class probabilities, shape (rows, classes), or predictions, shape (rows,).
    labels
        → predictions; None where they are the likeliest class, or the scores themselves.
    """

    prepare: Callable[[Sequence[Sequence[Any]], int], Any]
    scores: Callable[[Any], np.ndarray]
    labels: Callable[[Any], np.ndarray] | None = None


class NotFiniteError(RequestError):
    """A row that the model has no finite prediction for.

    Parameters
    ----------
    row
        The first one.
    count
        How many there are.
    """

    def __init__(self, row: int, count: int) -> None:
        super().__init__(f"the model has no finite prediction for row {row}", hint="send the other rows without it; " + _HINT, row=row)
        self.count = count


class Predictor:
    """Scores columns of plain values.

    Parameters
    ----------
    estimator
        Fitted.
    form
        How it is asked.
    how
        ``compiled``, or ``native`` and why.
    positive
        The class that ``positive`` is of; None unless there are two.
    """

    def __init__(self, estimator: Any, form: Form, how: str, positive: Any = None) -> None:  # noqa: ANN401
        self._classes = estimator.classes_ if hasattr(estimator, "predict_proba") else None
        self._names = () if self._classes is None else tuple(class_names(self._classes))
        wanted = positive_class(() if self._classes is None else self._classes, positive)
        self.positive = None if wanted is None else str(wanted)
        self.form = form
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
            The model refuses a row, or has no finite number for it: 422.
        """
        if not count:
            return Scores([])
        form = self.form
        try:
            rows = form.prepare(columns, count)
            made = form.scores(rows)
            labels = None if form.labels is None else form.labels(rows)
        except MlopsError as error:
            raise RequestError(error.message, hint=error.hint) from error
        except (ValueError, TypeError, pl.exceptions.PolarsError) as error:
            raise RequestError(f"the model cannot predict these rows ({type(error).__name__})", hint=_HINT) from error
        made = np.asarray(made)
        _refuse_not_finite(made)
        if self._classes is None:
            return Scores(made.tolist())
        predictions, names = (self._classes[made.argmax(axis=1)] if labels is None else labels).tolist(), self._names
        probabilities = [dict(zip(names, row, strict=True)) for row in made.tolist()]
        positive = self.positive
        return Scores(predictions, None if positive is None else [row[positive] for row in probabilities], probabilities)


def _refuse_not_finite(made: np.ndarray) -> None:
    """Refuse rows that the model has no finite number for: they have no prediction."""
    if made.dtype.kind == "f" and not (known := np.isfinite(made)).all():
        bad = np.flatnonzero(~known.reshape(len(made), -1).all(axis=1))
        raise NotFiniteError(int(bad[0]), len(bad))


def make_predictor(estimator: Any, probe: pl.DataFrame, *, likeliest: bool = False, positive: Any = None) -> Predictor:  # noqa: ANN401
    """Return the compiled predictor of an estimator when it is proved, else the native one.

    Parameters
    ----------
    estimator
        Fitted; it may be told to use one thread.
    probe
        The stored probe rows, of the columns and types that it was trained on.
    likeliest
        Whether its prediction was proved to be its likeliest class when it was stored. It is proved on the probe once more, and on hard
        rows; an estimator without that proof is asked for its prediction as well as for probabilities.
    positive
        The positive one of two classes; the second when None.
    """
    one_thread(estimator)
    asked = _asked(estimator, probe)
    alone = likeliest and may_predict_likeliest(estimator)
    why = ""
    for shortcut, labels in dict.fromkeys([(True, not alone), (False, not alone), (True, True), (False, True)]):
        try:
            compiled = _compiled(estimator, probe, shortcut=shortcut, labels=labels)
        except Unrecognised as error:
            why = str(error)
            break
        except Exception as error:  # noqa: BLE001  (what cannot be compiled is not; the native estimator is always right)
            why = f"compiling failed with {type(error).__name__}"
            break
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # hard rows overflow and hold unknown categories on purpose
            why = disagreement(asked, compiled, probe, getattr(estimator, "classes_", None))
        if not why:
            return Predictor(estimator, compiled, "compiled", positive)
    native = replace(asked, labels=None) if alone and _labels_are_likeliest(asked, probe, estimator.classes_) else asked
    return Predictor(estimator, native, f"native ({why})", positive)


def one_thread(estimator: Any) -> None:  # noqa: ANN401
    """Tell an estimator and its parts to use one thread: a worker has one, and pools of threads collapse a busy server."""
    if hasattr(estimator, "get_params"):
        pools = {name: 1 for name, value in estimator.get_params(deep=True).items() if name.split("__")[-1] == "n_jobs" and value != 1}
        if pools:
            estimator.set_params(**pools)


def _asked(estimator: Any, probe: pl.DataFrame) -> Form:  # noqa: ANN401
    """One data frame for a request, of the types that the model was trained on; the estimator is asked for all that it says."""

    def prepare(columns: Sequence[Sequence[Any]], count: int) -> pl.DataFrame:
        del count
        return pl.DataFrame([_series(name, values, dtype) for (name, dtype), values in zip(probe.schema.items(), columns, strict=True)])

    if not hasattr(estimator, "predict_proba"):
        return Form(prepare, lambda rows: np.asarray(estimator.predict(rows)))
    return Form(prepare, lambda rows: np.asarray(estimator.predict_proba(rows)), lambda rows: np.asarray(estimator.predict(rows)))


def _labels_are_likeliest(asked: Form, probe: pl.DataFrame, classes: Any) -> bool:  # noqa: ANN401
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [_outcome(asked, plain_columns(rows), classes) for rows in (probe, *hard_rows(probe).iter_slices(1))]
    return all((likeliest_class(classes, one.scores) == one.labels).all() for one in found if one is not None)


def _series(name: str, values: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    if isinstance(dtype, pl.Datetime):
        return pl.Series(name, values, dtype=pl.Datetime("us", dtype.time_zone)).cast(dtype)
    return pl.Series(name, values, dtype=dtype)


def _compiled(estimator: Any, probe: pl.DataFrame, *, shortcut: bool, labels: bool) -> Form:  # noqa: ANN401
    fitted = getattr(estimator, "best_estimator_", estimator)
    compiler = Compiler(tuple(probe.schema.items()))
    matrix, last, encoded = _parts(fitted, compiler, range(probe.width))
    final = boosted(last, encoded=True) if encoded else final_step(last, shortcut=shortcut)
    _check_width(matrix, last, probe)
    if not (labels and hasattr(last, "predict_proba")):
        return Form(matrix, final)
    if encoded:
        raise Unrecognised("its prediction is not its likeliest class")
    return Form(matrix, final, nameless(last).predict)


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


def disagreement(asked: Form, compiled: Form, probe: pl.DataFrame, classes: Any = None) -> str:  # noqa: ANN401
    """Return where two ways to predict differ, or ``""``.

    They are compared on the probe rows, together and alone, and on rows that are hard: null in every column, categories that nobody
    has seen, extreme numbers. Probabilities and predictions must agree; where the first one refuses, the other must too.

    Parameters
    ----------
    asked, compiled
        The two.
    probe
        Rows.
    classes
        Of an estimator with probabilities.
    """
    if not probe.height:
        return "there are no probe rows to prove it on"
    usual, hard = plain_columns(probe), plain_columns(hard_rows(probe))
    for columns in (usual, hard):
        together = _outcome(asked, columns, classes)
        for row in range(len(columns[0])):
            alone = [[column[row]] for column in columns]
            # One native call for all rows costs as much as one for one row, so rows are asked alone only where it tells more.
            expected = together[row] if together is not None and row % 16 else _outcome(asked, alone, classes)
            if not _equal(expected, _outcome(compiled, alone, classes)):
                return "the compiled form differs on " + ("a probe row" if columns is usual else "a hard row")
        if not _equal(together, _outcome(compiled, columns, classes)):
            return "the compiled form differs on several rows at once"
    return ""


@dataclass(frozen=True, eq=False)
class _Outcome:
    """What is said of some rows: class probabilities or numbers, and predictions."""

    scores: np.ndarray
    labels: np.ndarray

    def __getitem__(self, row: int) -> _Outcome:
        return _Outcome(self.scores[row : row + 1], self.labels[row : row + 1])


def _outcome(form: Form, columns: Sequence[Sequence[Any]], classes: Any) -> _Outcome | None:  # noqa: ANN401
    """Return what is predicted; None when it is refused."""
    try:
        rows = form.prepare(columns, len(columns[0]))
        scores = np.asarray(form.scores(rows))
        if form.labels is not None:
            return _Outcome(scores, np.asarray(form.labels(rows)))
        return _Outcome(scores, likeliest_class(classes, scores) if scores.ndim == 2 and classes is not None else scores)
    except Exception:  # noqa: BLE001  (any refusal is a refusal)
        return None


def _equal(asked: _Outcome | None, compiled: _Outcome | None) -> bool:
    if asked is None or compiled is None:
        return asked is None and compiled is None
    if asked.scores.shape != compiled.scores.shape or not _close(asked.scores, compiled.scores):
        return False
    return asked.scores.ndim == 1 or bool((asked.labels == compiled.labels).all())


def _close(asked: np.ndarray, compiled: np.ndarray) -> bool:
    if asked.dtype.kind not in "fiu":
        return bool((asked == compiled).all())
    close = np.abs(asked - compiled) <= TOLERANCE * np.maximum(1.0, np.abs(asked))
    return bool((close | (asked == compiled) | (np.isnan(asked) & np.isnan(compiled))).all())
