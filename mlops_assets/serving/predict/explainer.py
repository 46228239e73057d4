"""SHAP values of predictions: how much each column of a row moves its prediction away from the mean of the reference rows."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.errors import MissingExtraError, MlopsError
from mlops_assets.serving.formats.packaging import POSITIVE
from mlops_assets.serving.predict.predictor import list_columns, make_predictor
from mlops_assets.serving.predict.request_schema import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_assets.serving.formats.packaging import ModelBundle
    from mlops_assets.serving.predict.predictor import Predictor, ScoringPath
    from mlops_assets.stores.artifacts.store import Artifacts

MAX_EXPLAINED_ROWS = 20  # of one request: each is some 5,000 predictions
_MAX_PREDICTIONS = 20_000  # for one explained row, unless the model has too many columns
_HINT = "send values like those that the model was trained on"
_MAX_PERMUTATIONS, _MIN_BACKGROUND = 3, 8


@dataclass(frozen=True, eq=False)
class ShapValues:
    """The SHAP values of some rows.

    Parameters
    ----------
    outputs
        The explained number of each row, shape (rows,): a probability, or a regressor's prediction.
    classes
        For each row, the class whose probability is explained; None for a regressor.
    bases
        The mean output over the reference rows, shape (rows,).
    values
        Shape (rows, columns). Each row sums to its output minus its base.
    """

    outputs: np.ndarray
    classes: list[str] | None
    bases: np.ndarray
    values: np.ndarray

    @classmethod
    def join(cls, parts: Sequence[ShapValues]) -> ShapValues:
        """Return the values of the rows of all parts, at least one, in their order."""
        classes = None if parts[0].classes is None else [name for part in parts for name in part.classes or ()]
        outputs, bases, values = (np.concatenate(arrays) for arrays in zip(*((p.outputs, p.bases, p.values) for p in parts), strict=True))
        return cls(outputs, classes, bases, values)


class ShapExplainer:
    """Explains the predictions of a version by permutation SHAP, on the scale of its predictions.

    Parameters
    ----------
    predictor
        The version's predictor.
    probe
        The version's stored probe rows, used as reference rows: SHAP replaces columns of an explained row by their values.
    classifier
        Whether the estimator is a classifier; a classifier without probabilities cannot be explained.

    Attributes
    ----------
    predictor, probe
        The predictor and the reference rows.

    Notes
    -----
    Columns of any type are explained as they are sent, before preprocessing. For this, each distinct value of a column gets a number.
    """

    def __init__(self, predictor: Predictor, probe: pl.DataFrame, *, classifier: bool) -> None:
        self._path: ScoringPath = predictor.path
        self._positive = predictor.positive
        self._names = predictor.class_names
        self._labels_only = classifier and not self._names
        self.predictor, self.probe = predictor, probe
        self._background = list_columns(probe)
        self._count = probe.height

    def __call__(self, columns: Sequence[Sequence[Any]], count: int, *, permutations: int = _MAX_PERMUTATIONS) -> ShapValues:
        """Return the SHAP values of rows.

        Parameters
        ----------
        columns
            The columns of ``X``, in order, as :meth:`Predictor.__call__` takes them.
        count
            Number of rows.
        permutations
            The maximum number of random orders of the columns, each evaluated forwards and backwards. More orders take longer and reduce
            the variance of the values.

        Raises
        ------
        MissingExtraError
            The library ``shap`` is not installed.
        RequestError
            The model refuses a row, or a row whose columns are partly replaced by those of reference rows.
        """
        shap, rows = import_shap(), np.arange(count)
        if not count:
            return ShapValues(np.zeros(0), None, np.zeros(0), np.zeros((0, len(columns))))
        try:
            outputs = self._score(columns, count)
            picked = self._pick_outputs(outputs)
            bases, values = self._explain(shap, columns, count, picked, permutations)
        except MlopsError as error:
            raise RequestError(error.message, hint=error.hint) from error
        except (ValueError, TypeError, pl.exceptions.PolarsError) as error:
            raise RequestError(f"the model cannot explain these rows ({type(error).__name__})", hint=_HINT) from error
        if not np.isfinite(values).all():
            raise RequestError("the model has no finite prediction for these rows and the reference rows", hint=_HINT)
        names = [self._names[i] for i in picked] if self._names else None
        return ShapValues(outputs[rows, picked], names, bases, values)

    def check_rows(self, count: int) -> None:
        """Raise RequestError for too many rows, and for a version that cannot be explained."""
        if count > MAX_EXPLAINED_ROWS:
            raise RequestError(
                f"{count} rows are too many to explain, the limit is {MAX_EXPLAINED_ROWS}", hint="send them in several requests", status=413
            )
        if not self._count:
            raise RequestError(
                "this version cannot be explained: it stores no reference rows",
                hint="train a new version on a training set with rows: up to 64 of them are stored as reference rows",
            )
        if self._labels_only:
            raise RequestError(
                "this version cannot be explained: it predicts classes without probabilities", hint="train a model with predict_proba"
            )

    def _score(self, columns: Sequence[Sequence[Any]], count: int) -> np.ndarray:
        """Return probabilities, shape (rows, classes), or predictions, shape (rows, 1)."""
        scores = np.asarray(self._path.scores(self._path.prepare(columns, count)), dtype=float)
        return scores.reshape(count, -1)

    def _pick_outputs(self, outputs: np.ndarray) -> np.ndarray:
        """Return the index of each row's explained output: the positive class of two, the most probable of several, or the only output."""
        if self._positive in self._names:
            return np.full(len(outputs), self._names.index(self._positive))
        likeliest: np.ndarray = outputs.argmax(axis=1)
        return likeliest

    def _explain(
        self,
        shap: Any,  # noqa: ANN401  (a module)
        columns: Sequence[Sequence[Any]],
        count: int,
        picked: np.ndarray,
        permutations: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the SHAP base and values of each row."""
        width = len(columns)
        background = min(self._count, max(_MIN_BACKGROUND, _MAX_PREDICTIONS // (2 * width + 1)))
        permutations = max(1, min(permutations, _MAX_PREDICTIONS // ((2 * width + 1) * background)))
        vocabularies, codes = _encode_columns(self._background, columns)
        used = codes[: self._count][np.linspace(0, self._count - 1, background).round().astype(int)]

        def score(coded: np.ndarray) -> np.ndarray:
            whole = coded.astype(np.intp)
            return self._score([words[whole[:, i]].tolist() for i, words in enumerate(vocabularies)], len(whole))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            masker = shap.maskers.Independent(used, max_samples=len(used))
            explainer = shap.PermutationExplainer(score, masker, seed=0)
            found = explainer(codes[self._count :], max_evals=permutations * (2 * width + 1), silent=True)
        rows = np.arange(count)
        values = np.asarray(found.values).reshape(count, width, -1)[rows, :, picked]
        return np.asarray(found.base_values).reshape(count, -1)[rows, picked], values


def _encode_columns(background: Sequence[Sequence[Any]], columns: Sequence[Sequence[Any]]) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the distinct values of each column, and each cell's index among them, shape (background rows + rows, columns)."""
    vocabularies, codes = [], []
    for before, now in zip(background, columns, strict=True):
        numbers: dict[Any, int] = {}
        codes.append([numbers.setdefault(value, len(numbers)) for value in (*before, *now)])
        words = np.empty(len(numbers), dtype=object)
        words[:] = list(numbers)
        vocabularies.append(words)
    return vocabularies, np.array(codes, dtype=float).T


def load_explainer(bundle: ModelBundle, artifacts: Artifacts) -> ShapExplainer:
    """Return the explainer of a stored version, as a service that serves this version uses it.

    Parameters
    ----------
    bundle
        The loaded version.
    artifacts
        The store of the version's artifacts.
    """
    manifest = bundle.manifest
    probe = pl.read_ipc(io.BytesIO(artifacts.get(manifest["probe"])))
    predictor = make_predictor(bundle.estimator, probe, predicts_argmax=bundle.predicts_argmax, positive=manifest.get(POSITIVE))
    return ShapExplainer(predictor, probe, classifier=bool(manifest["classes"]))


def import_shap() -> Any:  # noqa: ANN401  (a module)
    """Return the library ``shap``, imported without compiling its loops; raise MissingExtraError when it is not installed."""
    try:
        from numba import config

        compiles = config.DISABLE_JIT
        try:
            config.DISABLE_JIT = True  # compiling the few loops that are used takes seconds, in which predictions wait
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it uses what matplotlib deprecates
                import shap
        finally:
            config.DISABLE_JIT = compiles
    except ImportError as error:
        raise MissingExtraError.from_extra("shap", "explain") from error
    return shap
