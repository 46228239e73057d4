"""Join labels to predictions by key, and replay recorded predictions as an estimator that scorers accept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.compute.monitoring.label_bias import describe_label_bias
from mlops_assets.compute.tables.own_columns import PREDICTION, PROBABILITIES, PROBABILITY
from mlops_assets.compute.training.classes import class_names
from mlops_assets.errors import DataError, suggest_name
from mlops_assets.values.evaluation import Split

if TYPE_CHECKING:
    from collections.abc import Sequence

_LABEL = "__label"


@dataclass(frozen=True, eq=False)
class LabelledPredictions:
    """Predictions that are finite and have a label, from :func:`join_labels`.

    Parameters
    ----------
    rows
        These rows of the predictions.
    y
        Labels, shape (rows,).
    prediction
        Predictions, shape (rows,).
    probabilities
        The probability of each class, shape (rows, classes); None without probabilities.
    classes
        The classes in the estimator's order, or sorted if this order is unknown; None for a regressor.
    """

    rows: pl.DataFrame
    y: np.ndarray
    prediction: np.ndarray
    probabilities: np.ndarray | None
    classes: np.ndarray | None

    @property
    def split(self) -> Split:
        """The rows as a split for :func:`evaluate`; ``X`` holds predictions and probabilities, from which an estimator replays them."""
        shares = {} if self.probabilities is None else {f"share {i}": column for i, column in enumerate(self.probabilities.T)}
        return Split(pl.DataFrame({"prediction": self.prediction, **shares}), self.y, self.rows)


@dataclass(frozen=True)
class LabelArrivals:
    """How many predictions have a label.

    Parameters
    ----------
    predicted, labelled
        The number of all predictions, and of the finite predictions with a label.
    keyless
        The number of predictions with a null in their key, which can never get a label.
    repeated
        The number of labels that repeat the key and the value of another label.
    unpredicted
        The number of predictions that are null or not finite, or whose probabilities are; they count in no metric.
    corrected
        The number of earlier labels that a later label with another value replaced.
    duplicated
        The number of predictions that repeat the key of another prediction of the window; each of them counts.
    overrepresented
        The predictions for which labels have arrived more often than for the others, from :func:`describe_label_bias`; empty without bias.
    """

    predicted: int
    labelled: int
    keyless: int = 0
    repeated: int = 0
    unpredicted: int = 0
    corrected: int = 0
    duplicated: int = 0
    overrepresented: str = ""

    @property
    def coverage(self) -> float:
        """The share of predictions that are finite and have a label; 0 when there are no predictions."""
        return self.labelled / self.predicted if self.predicted else 0.0

    @property
    def predicate(self) -> str:
        """The predicate of a sentence about the labelled predictions: "have a label", or "are finite and have a label"."""
        return "are finite and have a label" if self.unpredicted else "have a label"

    @property
    def bias(self) -> str:
        """A clause that names the predictions with labels when they differ from the others; empty without bias."""
        return f"labels have arrived mostly for {self.overrepresented}, so the metrics are biased" if self.overrepresented else ""


def join_labels(  # noqa: PLR0913  (the names of columns)
    predictions: pl.DataFrame,
    labels: pl.DataFrame,
    key: Sequence[str],
    label: str,
    *,
    classes: Sequence[object] | None = None,
    known_at: str | None = None,
    prediction: str = PREDICTION,
    probability: str = PROBABILITY,
    probabilities: str = PROBABILITIES,
) -> tuple[LabelledPredictions, LabelArrivals]:
    """Join labels to predictions by key.

    Parameters
    ----------
    predictions
        One row per prediction; several predictions of one key all count.
    labels
        One row per label; a null label has not arrived.
    key
        Columns that identify a row in ``predictions`` and in ``labels``.
    label
        The column of ``labels`` with the label.
    classes
        The classes in the estimator's order. When None, the classes of a classifier are the values that occur; a regressor has no classes.
    known_at
        The column of ``labels`` with the time at which a label is known: of several labels of a key, the latest counts.
    prediction, probability, probabilities
        Columns of ``predictions``. ``probabilities`` is a struct with the probability of each class, ``probability`` is the probability
        of the second of two classes; either may be null or absent.

    Returns
    -------
    tuple of LabelledPredictions and LabelArrivals

    Raises
    ------
    DataError
        A column is missing, types do not fit, or one key has two different labels and neither is the latest.
    """
    for frame, required, noun in ((predictions, [*key, prediction], "the predictions"), (labels, [*key, label], "the labels")):
        if missing := [name for name in required if name not in frame.columns]:
            raise DataError(
                f"{noun} lack the column '{missing[0]}'",
                hint=suggest_name(missing[0], frame.columns) + f"the columns are {', '.join(frame.columns)}",
            )
    arrived, repeated, corrected = _drop_repeats(labels, key, label, known_at)
    joined = _match_key_types(predictions, arrived, key).join(arrived, on=list(key), how="left", maintain_order="left")
    keys = predictions.select(key).drop_nulls()
    keyless, duplicated = predictions.height - keys.height, keys.height - keys.n_unique()
    usable = _find_usable(joined, prediction, probability, probabilities)
    unpredicted = int((~usable).sum())
    labelled = joined.filter(joined[_LABEL].is_not_null() & usable)
    overrepresented = _describe_bias(joined.filter(usable), prediction, probability, probabilities)
    counts = LabelArrivals(predictions.height, labelled.height, keyless, repeated, unpredicted, corrected, duplicated, overrepresented)
    shares = _read_probabilities(labelled, probability, probabilities, classes)
    return _build_labelled(labelled, prediction, shares, classes), counts


def _find_usable(predictions: pl.DataFrame, prediction: str, probability: str, probabilities: str) -> pl.Series:
    """Return for each row whether its prediction is finite, and so are its probabilities where other rows have some."""
    shares = [predictions[probability]] if probability in predictions.columns else []
    if isinstance(predictions.schema.get(probabilities), pl.Struct):
        shares += predictions[probabilities].struct.unnest().get_columns()
    usable = _is_finite(predictions[prediction])
    for share in shares:
        if share.null_count() < share.len():
            usable &= _is_finite(share)
    return usable


def _is_finite(numbers: pl.Series) -> pl.Series:
    return numbers.is_finite().fill_null(value=False) if numbers.dtype.is_float() else numbers.is_not_null()


def read_predictions(predictions: pl.DataFrame, classes: Sequence[object] | None = None) -> LabelledPredictions:
    """Return the rows with a finite prediction, without joining labels; ``y`` holds the predictions in their place.

    Parameters
    ----------
    predictions
        One row per prediction, with the columns that :func:`join_labels` takes by default.
    classes
        As in :func:`join_labels`.
    """
    finite = _find_usable(predictions, PREDICTION, PROBABILITY, PROBABILITIES)
    usable = predictions.filter(finite).with_columns(pl.col(PREDICTION).alias(_LABEL))
    return _build_labelled(usable, PREDICTION, _read_probabilities(usable, PROBABILITY, PROBABILITIES, classes), classes)


def _read_probabilities(
    labelled: pl.DataFrame, probability: str, probabilities: str, classes: Sequence[object] | None
) -> np.ndarray | None:
    """Return the probabilities of all classes, in the order of ``classes``; None when any probability is unknown."""
    names = [] if classes is None else class_names(list(classes))
    if isinstance(dtype := labelled.schema.get(probabilities), pl.Struct) and names:
        by_class = labelled[probabilities].struct.unnest()
        if not {field.name for field in dtype.fields}.issuperset(names) or any(by_class[name].null_count() for name in names):
            return None
        return by_class.select(names).cast(pl.Float64).to_numpy()
    if probability not in labelled.columns or labelled[probability].null_count() or (names and len(names) != 2):
        return None
    second = labelled[probability].cast(pl.Float64).to_numpy()
    return np.column_stack([1 - second, second])


def _describe_bias(usable: pl.DataFrame, prediction: str, probability: str, probabilities: str) -> str:
    """Compare the finite predictions with and without a label: by probability, by the maximum over many classes, or by prediction."""
    scores, dtype = usable[prediction], usable.schema.get(probabilities)
    if probability in usable.columns and usable[probability].null_count() < usable.height:
        scores = usable[probability]
    elif isinstance(dtype, pl.Struct) and dtype.fields and usable[probabilities].null_count() < usable.height:
        scores = usable.select(pl.max_horizontal(usable[probabilities].struct.unnest()))[:, 0]
    return describe_label_bias(scores, usable[_LABEL].is_not_null().to_numpy())


def _drop_repeats(labels: pl.DataFrame, key: Sequence[str], label: str, known_at: str | None) -> tuple[pl.DataFrame, int, int]:
    """Return one label for each key, without nulls, and the numbers of repeated and of replaced labels.

    Raise DataError for a key with different labels, if none of them is the latest.
    """
    value = pl.col(label).fill_nan(None) if labels.schema[label].is_float() else pl.col(label)
    times = [known_at] if known_at and known_at in labels.columns and known_at not in key else []
    columns = [*key, _LABEL]
    arrived = labels.select(*key, value.alias(_LABEL), *times).drop_nulls(columns)
    different = (
        arrived.unique(columns, maintain_order=True) if not times else arrived.group_by(columns, maintain_order=True).agg(pl.max(*times))
    )
    latest = different
    if times and different.select(key).is_duplicated().any():
        latest = different.filter(pl.col(times[0]).eq_missing(pl.col(times[0]).max().over(key)) | ~pl.struct(list(key)).is_duplicated())
    twice = latest.filter(pl.struct(list(key)).is_duplicated())
    if twice.height:
        first = twice.select(list(key)).row(0, named=True)
        different_labels = twice.filter(pl.all_horizontal(pl.col(name) == value for name, value in first.items()))[_LABEL].to_list()
        raise DataError(
            f"the key {first} has several labels: {' and '.join(map(repr, different_labels[:3]))}",
            hint="keep one label for each key, or declare label_known_at= so that the latest counts",
        )
    return latest.select(columns), arrived.height - different.height, different.height - latest.height


def _match_key_types(predictions: pl.DataFrame, labels: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Return the predictions with keys of the labels' types; an integer that does not fit becomes null. Raise for other types that differ."""
    for name in key:
        left, right = predictions.schema[name], labels.schema[name]
        if left == right:
            continue
        if left != pl.Null and not (left.is_integer() and right.is_integer()):
            raise DataError(
                f"the key '{name}' is {left} in the predictions and {right} in the labels", hint="cast one of them to the other's type"
            )
        predictions = predictions.with_columns(pl.col(name).cast(right, strict=False))  # a value that does not fit has no label
    return predictions


def _build_labelled(
    labelled: pl.DataFrame, prediction: str, shares: np.ndarray | None, classes: Sequence[object] | None
) -> LabelledPredictions:
    """Return the labelled predictions; floats without classes and probabilities are a regressor's. Raise for labels of another type."""
    predicted, truth = labelled[prediction], labelled[_LABEL]
    rows = labelled.drop(_LABEL)
    if shares is None and classes is None and predicted.dtype.is_float():
        if not (truth.dtype.is_numeric() or truth.dtype == pl.Boolean):
            raise DataError(
                f"the predictions are numbers, but the labels are {truth.dtype}",
                hint="return labels of the type that the model was trained on",
            )
        return LabelledPredictions(rows, truth.cast(pl.Float64).to_numpy(), predicted.to_numpy(), None, None)
    y, answers = _align_types(truth, predicted)
    seen = np.unique(np.concatenate([y, answers])) if classes is None else np.array(list(classes))
    return LabelledPredictions(rows, y, answers, shares, seen)


def _align_types(truth: pl.Series, predicted: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and predicted classes as arrays of one type; raise when only one of them is text."""
    words = [series.dtype in (pl.String, pl.Categorical, pl.Enum) for series in (truth, predicted)]
    if words[0] != words[1] and truth.len():
        raise DataError(
            f"the predictions are {predicted.dtype}, but the labels are {truth.dtype}",
            hint="return labels of the type that the model was trained on",
        )
    if all(words):
        return truth.cast(pl.String).to_numpy().astype(str), predicted.cast(pl.String).to_numpy().astype(str)
    return truth.cast(predicted.dtype).to_numpy() if truth.dtype != predicted.dtype else truth.to_numpy(), predicted.to_numpy()


def replay_predictions(labelled: LabelledPredictions) -> Any:  # noqa: ANN401  (an estimator)
    """Return an estimator that replays recorded predictions, for scorers.

    Parameters
    ----------
    labelled
        The predictions to replay; call the estimator with rows of ``labelled.split.X``.
    """
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

    class Recorded(BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
        def predict(self, X: pl.DataFrame) -> np.ndarray:
            return X["prediction"].to_numpy()

    class RecordedClass(ClassifierMixin, Recorded):  # type: ignore[misc]
        classes_ = labelled.classes

    class RecordedProbability(RecordedClass):
        def predict_proba(self, X: pl.DataFrame) -> np.ndarray:
            return X.drop("prediction").to_numpy()

    class RecordedNumber(RegressorMixin, Recorded):  # type: ignore[misc]
        pass

    if labelled.classes is None:
        return RecordedNumber()
    return RecordedClass() if labelled.probabilities is None else RecordedProbability()
