"""Evaluate a candidate and the champion on the candidate's holdout."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from mlops_assets.compute.features.on_demand import apply_on_demand, columns_as_arrays
from mlops_assets.compute.training.classes import class_to_encode, encode_labels, wrap_two_classes
from mlops_assets.compute.training.evaluate import evaluate
from mlops_assets.compute.training.fitted_rows import FittedRows
from mlops_assets.compute.training.resampling import PairedIntervals
from mlops_assets.compute.training.responses import CachedPredictor, find_unusable_predictions
from mlops_assets.errors import DataError, MlopsError
from mlops_assets.orchestrate.training.candidate_kind import TrainedModel
from mlops_assets.orchestrate.training.costs import StoredCosts
from mlops_assets.serving.formats.judged_fit import JudgedFit, read_judged_fit
from mlops_assets.serving.formats.packaging import read_manifest, unpack
from mlops_assets.serving.predict.batch import select_input
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.stores.registry.records import Version
from mlops_assets.stores.registry.registry import open_registry
from mlops_assets.values.evaluation import Candidate, Evaluation, Split
from mlops_assets.values.gates.gate import Gate
from mlops_assets.values.model import Model
from mlops_assets.values.training import TrainingSet


def compare_with_champion(stores: Stores, model: Model[..., Any], trained: TrainedModel, champion: Version | None) -> Candidate:
    """Evaluate a trained model and the champion on the same holdout, and return the candidate that gates judge.

    Parameters
    ----------
    stores, model
        The stores of the platform, and the model's declaration.
    trained
        The stored fit.
    champion
        The champion to compare with; None if there is none.

    Raises
    ------
    DataError
        The candidate's predictions are all the same, not finite, or not one for each row.
    """
    holdout = trained.splits["holdout"]
    predictor = trained.predictor
    if problem := find_unusable_predictions(predictor.scores, len(holdout.y)):
        raise DataError(
            f"the candidate of '{model.key}' {problem} of the holdout of '{model.training_set.key}'",
            hint="look at the features of these rows and at what the estimator does with nulls; nothing was submitted, the champion keeps serving",
        )
    evaluation = trained.evaluation or evaluate_holdout(model, predictor, trained.splits, model.positive)
    champion_evaluation, champion_predictor = None, None
    if champion is not None and find_judged_fit(stores, champion).digest == trained.digest:
        champion_evaluation, champion_predictor = evaluation, predictor
    elif champion is not None:
        champion_evaluation, champion_predictor = evaluate_champion(stores, model, holdout, champion)
    intervals = trained.intervals if champion_predictor is None else None
    intervals = intervals or build_intervals(model.training_set, predictor, champion_predictor, holdout, trained.digest, model.positive)
    costs = StoredCosts(stores.artifacts, trained.artifact, model.trusted_types, holdout.X)
    return Candidate(model.name, trained.digest, trained.fitted, holdout, evaluation, champion_evaluation, intervals, costs)


def evaluate_holdout(  # noqa: PLR0913  (what is measured, and on what)
    model: Model[..., Any],
    predictor: CachedPredictor,
    splits: Mapping[str, Split],
    positive: Any,  # noqa: ANN401  (any label)
    *,
    metrics: Sequence[str] | None = None,
    slices: Sequence[str] | None = None,
) -> Evaluation:
    """Evaluate a model on the holdout: its metrics over all rows and by slice, with a baseline.

    Parameters
    ----------
    model
        The model's declaration.
    predictor
        The cached predictions for the holdout.
    splits
        The parts of the training set.
    positive
        The positive class of a binary classifier; None for its second class.
    metrics, slices
        Metrics and slice columns of an earlier declaration; those of ``model`` when None.
    """
    return evaluate(
        predictor,
        splits["holdout"],
        model.metrics if metrics is None else metrics,
        model.slices if slices is None else slices,
        train=splits["train"],
        required_min_rows=_min_slice_rows(model),
        required_slices=_named_slices(model),
        positive=positive,
    )


def build_intervals(  # noqa: PLR0913  (what is compared, and how)
    training_set: TrainingSet[..., Any],
    predictor: CachedPredictor,
    champion_predictor: CachedPredictor | None,
    holdout: Split,
    seed: str,
    positive: Any = None,  # noqa: ANN401  (any label)
) -> PairedIntervals:
    """Return the intervals of the holdout's metrics and of their differences from the champion.

    With event times, blocks of time are resampled, of the declared length or as long as errors are correlated; else single rows.

    Parameters
    ----------
    training_set
        The training set, which declares the event time and the length of a block; a length of zero declares independent rows.
    predictor, champion_predictor
        Cached predictions of the candidate and of the champion for the holdout; without the champion's, there are no differences.
    holdout
        The rows to resample.
    seed
        As in :class:`PairedIntervals`.
    positive
        The positive class of both models, if they are binary classifiers; None for the second class.
    """
    times = holdout.rows[training_set.event_timestamp] if training_set.event_timestamp in holdout.rows.columns else None
    encoded = class_to_encode(getattr(predictor, "classes_", None), holdout.y, positive)
    return PairedIntervals(
        wrap_two_classes(predictor, encoded),
        None if champion_predictor is None else wrap_two_classes(champion_predictor, encoded),
        encode_labels(holdout.y, encoded),
        holdout.rows,
        seed,
        times=times,
        block_length=training_set.block_length,
    )


def _min_slice_rows(model: Model[..., Any]) -> dict[str, int]:
    """Return slice column → the minimum number of rows for a gate to judge a slice of the column."""
    slice_gates = [g for g in model.gates if isinstance(g, Gate) and isinstance(g.slice, str)]
    return {column: min(g.min_rows for g in slice_gates if g.slice == column) for column in {g.slice_column for g in slice_gates}}


def _named_slices(model: Model[..., Any]) -> set[tuple[str, str]]:
    """Return the slices ``(column, value)`` that the gates of a model name."""
    return {g.slice for g in model.gates if isinstance(g, Gate) and isinstance(g.slice, tuple)}


def find_champion(stores: Stores, model: str) -> Version | None:
    """Return the champion to compare with: this environment's, else that of the environment ``Platform.against``, else None."""
    own, against = stores.registry.champion(model), stores.platform.against
    return own if own is not None or not against else open_registry(stores.platform.registry, against).champion(model)


def find_judged_fit(stores: Stores, champion: Version) -> JudgedFit:
    """Return the fit that the gates of the champion judged."""
    return read_judged_fit(stores.artifacts, champion.artifact, champion.digest)


def find_compared_fit(stores: Stores, champion: Version, holdout: Split, event_timestamp: str | None) -> JudgedFit:
    """Return the champion's fit to compare a candidate with: the one that serves if it could be fitted before the holdout began.

    Otherwise it is the judged fit: a refit on rows of the holdout, or with labels that became known later, would have an unfair advantage.

    Parameters
    ----------
    stores, champion
        The stores of the platform, and the champion.
    holdout
        The holdout of the candidate.
    event_timestamp
        The column of the holdout with the event time; None without one, and then the judged fit is compared.
    """
    judged = find_judged_fit(stores, champion)
    if not judged.refitted or event_timestamp not in holdout.rows.columns:
        return judged
    fitted = FittedRows.from_manifest(read_manifest(stores.artifacts, champion.artifact))
    is_fair = fitted is not None and fitted.precede(holdout.rows[event_timestamp])
    return JudgedFit(champion.artifact, champion.digest) if is_fair else judged


def evaluate_champion(
    stores: Stores, model: Model[..., Any], holdout: Split, champion: Version
) -> tuple[Evaluation, CachedPredictor | None]:
    """Return the champion's evaluation on the candidate's holdout, and its cached predictions.

    When the evaluation fails, every metric is NaN, so that no relative gate passes, and there are no predictions (None).

    Parameters
    ----------
    stores, model
        The stores of the platform, and the model's declaration.
    holdout
        The holdout of the candidate.
    champion
        The champion.
    """
    try:
        compared = find_compared_fit(stores, champion, holdout, model.training_set.event_timestamp)
        bundle = unpack(stores.artifacts, compared.artifact, model.trusted_types)
        rows = holdout.rows
        for function in bundle.functions:
            features = apply_on_demand([function], columns_as_arrays(rows, rows.columns))
            rows = rows.with_columns(pl.Series(name, values) for name, values in features.items())
        X = select_input(bundle, rows, f"the holdout of '{model.training_set.key}'")
        predictor = CachedPredictor(bundle.estimator, X)
        split = Split(X, holdout.y, holdout.rows)
        evaluation = evaluate(
            predictor,
            split,
            model.metrics,
            model.slices,
            required_min_rows=_min_slice_rows(model),
            required_slices=_named_slices(model),
            positive=model.positive,
        )
    except MlopsError as error:
        reason = f"champion version {champion.version} cannot be evaluated: {error.message}"
        undefined = tuple((m, float("nan")) for m in model.metrics)
        return Evaluation(len(holdout.y), undefined, problems=tuple((m, reason) for m in model.metrics)), None
    return evaluation, predictor
