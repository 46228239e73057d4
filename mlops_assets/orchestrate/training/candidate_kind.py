"""The protocol of a kind of candidate, by which steps train, judge and register it."""

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
    """The inputs that decide the result of a training.

    Parameters
    ----------
    rows
        The training set in its canonical order.
    splits
        The parts of the training set.
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
        The fitted model in memory. It is the trained one, or for a format that changes it the one that was read back.
    artifact
        The sha256 of its manifest.
    digest
        A hash of the training inputs and the predictions of the fit.
    predictor
        An estimator with its cached predictions for the holdout; None for other kinds.
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
        The predictor, as read back from its stored form.
    splits
        The parts of its training set.
    reused
        Whether an earlier run trained it from the same inputs.
    unrecorded
        Dependencies of the function that no record holds.
    answers
        The predictions for the holdout that a newly trained estimator has cached so far.
    evaluation, intervals
        The evaluation of a newly trained estimator on the holdout, and the intervals of its metrics.
    """

    run: Run
    fitted: Any
    splits: Mapping[str, Split]
    reused: bool
    unrecorded: tuple[str, ...] = ()
    answers: CachedPredictor | None = None
    evaluation: Evaluation | None = None
    intervals: Intervals | None = None

    @cached_property
    def predictor(self) -> CachedPredictor:
        """The estimator with cached predictions for the holdout, shared by metrics, gates and plots."""
        return self.answers or CachedPredictor(self.fitted, self.splits["holdout"].X)

    @property
    def digest(self) -> str:
        """The identity of the candidate: its training inputs and its predictions."""
        return str(self.run.record["digest"])

    @property
    def snapshot(self) -> int:
        """The state of the lake that the training read."""
        return cast("int", self.run.snapshot)

    @property
    def artifact(self) -> str:
        """The sha256 of the manifest of the candidate's artifacts."""
        return str(self.run.record["artifact"])


@dataclass(frozen=True, eq=False)
class Retraining:
    """The recorded inputs to train a registered version again.

    Parameters
    ----------
    function
        The model's function, loaded from its stored source.
    source
        The stored source.
    params
        Hyperparameters.
    rows, splits
        The training set, and its parts.
    facts
        The recorded facts of the first training.
    artifact
        The sha256 of the manifest of the judged fit.
    refit_artifact
        The sha256 of the manifest of the second fit, which serves; None without a second fit.
    """

    function: Callable[..., Any]
    source: Mapping[str, Any]
    params: Mapping[str, Any]
    rows: pl.DataFrame
    splits: Mapping[str, Split]
    facts: Mapping[str, Any]
    artifact: str
    refit_artifact: str | None


class CandidateKind(Protocol):
    """One kind of candidate: six methods, called by training, versions, reproduction and CI."""

    @property
    def name(self) -> str:
        """The name in declarations and records."""
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
        """Store a fit; two fits with one ``identity`` get the same digest exactly when they predict the same."""
        ...

    def open(self, stores: Stores, model: Model[..., Any], artifact: str) -> Any:  # noqa: ANN401
        """Return the verified predictor; raise ArtifactError when it is damaged or its predictions have changed."""
        ...

    def evaluate(self, model: Model[..., Any], fitted: Any, splits: Mapping[str, Split]) -> Evaluation:  # noqa: ANN401
        """Return the model's metrics on the holdout."""
        ...

    def compare(self, stores: Stores, model: Model[..., Any], trained: TrainedModel, rival: Version | None) -> Candidate:
        """Evaluate a trained model and the champion on the same holdout, and return the candidate that gates judge."""
        ...

    def reproduce(self, stores: Stores, retraining: Retraining) -> tuple[dict[str, Any], dict[str, Any]]:
        """Train again; return the stored and the new ``predictions`` and ``labels``, and new ``metrics``."""
        ...
