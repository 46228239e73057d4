"""The protocol that every kind of candidate implements, with the inputs and results of its methods."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, cast

import polars as pl

from mlops_assets.compute.training.responses import CachedPredictor
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.stores.registry.records import Version
from mlops_assets.stores.tracker.tracker import Run
from mlops_assets.values.evaluation import Candidate, Evaluation, Intervals, Split
from mlops_assets.values.model import Model


@dataclass(frozen=True, eq=False)
class TrainingInputs:
    """The inputs that decide the result of a training; made by the step of a model.

    Parameters
    ----------
    rows
        The training set in its canonical order.
    splits
        The parts of the training set: ``train``, ``validation`` and ``holdout``.
    deciding_facts
        Hashes and values that identify the training, as its record stores them.
    fingerprint
        One hash of ``deciding_facts``.
    """

    rows: pl.DataFrame
    splits: Mapping[str, Split]
    deciding_facts: Mapping[str, Any]
    fingerprint: str


@dataclass(frozen=True, eq=False)
class StoredFit:
    """A fit that has been stored.

    Parameters
    ----------
    fitted
        The fitted model in memory: the trained object, or the object read back from the artifact if the format changes it.
    artifact
        The sha256 of its manifest.
    digest
        A hash of the inputs of the fit and of its predictions for the probe rows, which are stored with it.
    predictor
        The cached predictions of an estimator for the holdout; None for other kinds.
    """

    fitted: Any
    artifact: str
    digest: str
    predictor: CachedPredictor | None = None


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A candidate that is stored and recorded.

    Parameters
    ----------
    run
        The run that trained it.
    fitted
        The fitted model: :attr:`StoredFit.fitted` after a new training, else the model opened from the artifact of an earlier run.
    splits
        The parts of its training set.
    reused
        Whether an earlier run trained it from the same inputs.
    unrecorded
        A sentence for each dependency of the function that the run's record does not cover.
    holdout_predictor
        The cached predictions of a newly trained estimator for the holdout; None otherwise.
    evaluation, intervals
        The evaluation of a newly trained estimator on the holdout, and the intervals of its metrics; None otherwise.
    """

    run: Run
    fitted: Any
    splits: Mapping[str, Split]
    reused: bool
    unrecorded: tuple[str, ...] = ()
    holdout_predictor: CachedPredictor | None = None
    evaluation: Evaluation | None = None
    intervals: Intervals | None = None

    @cached_property
    def predictor(self) -> CachedPredictor:
        """The estimator with cached predictions for the holdout, shared by metrics, gates and plots."""
        return self.holdout_predictor or CachedPredictor(self.fitted, self.splits["holdout"].X)

    @property
    def digest(self) -> str:
        """The identity of the candidate: its training inputs and its predictions."""
        return str(self.run.record["digest"])

    @property
    def snapshot(self) -> int:
        """The id of the lake snapshot that the training read."""
        return cast("int", self.run.snapshot)

    @property
    def artifact(self) -> str:
        """The sha256 of the manifest of the candidate's artifacts."""
        return str(self.run.record["artifact"])


@dataclass(frozen=True, eq=False)
class Retraining:
    """The inputs to train a registered version again: recorded, or replaced by options of the reproduction.

    Parameters
    ----------
    function
        The model's function, loaded from ``source``.
    source
        The source of the function, from :func:`~mlops_assets.compute.user_code.source_slice.extract_source`.
    params
        Hyperparameters.
    splits
        The parts of the training set.
    refit_rows
        The rows of a refit, in their canonical order.
    facts
        The recorded facts of the first training.
    artifact
        The sha256 of the manifest of the fit that the gates judged.
    refit_artifact
        The sha256 of the manifest of the refit on all rows, which serves; None without a refit.
    """

    function: Callable[..., Any]
    source: Mapping[str, Any]
    params: Mapping[str, Any]
    splits: Mapping[str, Split]
    refit_rows: pl.DataFrame
    facts: Mapping[str, Any]
    artifact: str
    refit_artifact: str | None


class CandidateKind(Protocol):
    """One kind of candidate: how it is trained, stored, opened, compared and reproduced."""

    @property
    def name(self) -> str:
        """The name of the kind in declarations and records."""
        ...

    def train(self, step: StepContext, model: Model[..., Any], inputs: TrainingInputs) -> TrainedModel:
        """Train a model, store it and record the run."""
        ...

    def package(  # noqa: PLR0913  (everything a manifest holds)
        self,
        step: StepContext,
        model: Model[..., Any],
        fitted: Any,  # noqa: ANN401  (what this kind trains)
        fitted_on: Split,
        splits: Mapping[str, Split],
        identity: str,
        facts: Mapping[str, Any],
    ) -> StoredFit:
        """Store a fit. Fits with the same ``identity`` share a digest if and only if they predict the same for the probe rows."""
        ...

    def open(self, stores: Stores, model: Model[..., Any], artifact: str) -> Any:  # noqa: ANN401
        """Return the stored fit, verified; raise ArtifactError if it is damaged or predicts differently from when it was stored."""
        ...

    def compare(self, stores: Stores, model: Model[..., Any], trained: TrainedModel, champion: Version | None) -> Candidate:
        """Evaluate a trained model and the champion on the same holdout, and return the candidate that gates judge."""
        ...

    def reproduce(self, stores: Stores, retraining: Retraining) -> tuple[dict[str, Any], dict[str, Any]]:
        """Train again; return the stored results of the first training, then the new results, as field → value.

        Both hold ``predictions`` for the probe rows; the new results also hold the holdout's ``metrics``.
        """
        ...
