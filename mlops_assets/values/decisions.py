"""Window reports, trainings and decisions: the facts from which :mod:`mlops_assets.compute.monitoring.decide` decides on retraining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

PERFORMANCE, DRIFT, ESTIMATED = "performance", "drift", "estimated"
RUNNING, CRASHED, WAITING, REJECTED, PROMOTED = "running", "crashed", "waiting for approval", "rejected", "promoted"
DECISION_TAG, ATTEMPT_TAG, REASON_TAG = "mlops/decision", "mlops/attempt", "mlops/reason"


@dataclass(frozen=True)
class WindowReport:
    """The report on the predictions of one version in one window.

    Parameters
    ----------
    partition, end
        The partition key of the window, and its end (aware).
    version
        The version that predicted.
    state
        ``good``, ``breach``, ``not enough data``, ``cannot be measured``, ``labels look inverted`` or ``in training data``.
    kind
        ``performance``, ``drift`` or ``estimated``; only a performance report can start a retraining.
    reason
        The reason for the state.
    recorded
        A number that grows with each recorded report: of several reports of a window, the latest counts.
    """

    partition: str
    end: datetime
    version: int
    state: str
    kind: str = PERFORMANCE
    reason: str = ""
    recorded: int = 0


@dataclass(frozen=True)
class Training:
    """A training of the model, requested by a decision, a schedule or a person.

    Parameters
    ----------
    run_id
        The id of the Dagster run.
    as_of
        The end of the newest data when the training started (aware).
    state
        ``running``, ``crashed``, ``waiting for approval``, ``rejected`` (the candidate did not become champion) or ``promoted``.
    decision
        The id of the decision that requested the training; None for a schedule or a person.
    ended
        The wall-clock time of the training's end; None while the training runs.
    """

    run_id: str
    as_of: datetime
    state: str
    decision: str | None = None
    ended: datetime | None = None


@dataclass(frozen=True)
class Decision:
    """The decision to retrain a model.

    Parameters
    ----------
    id
        A hash of model, version and first window: the same facts give the same decision.
    model, version
        The version with the breach.
    partition
        The partition key of the first window with a breach.
    opened
        The end of the newest window with a breach (aware).
    reason
        The reason of the breach.
    evidence
        The partition keys of the windows with a breach.
    closed
        The recorded reason why the decision is closed. Empty while none is recorded: later facts may have settled the decision already, as
        ``explain_settlement`` says.
    """

    id: str
    model: str
    version: int
    partition: str
    opened: datetime
    reason: str
    evidence: tuple[str, ...]
    closed: str = ""


@dataclass(frozen=True)
class Hold:
    """The reason why no training starts now."""

    reason: str


@dataclass(frozen=True)
class Launch:
    """A training to start now.

    Parameters
    ----------
    run_key
        ``<decision>#<attempt>``; Dagster starts one run for each run key.
    decision
        The decision that requests the training.
    attempt
        The number of the attempt, from 1.
    """

    run_key: str
    decision: Decision
    attempt: int

    @property
    def tags(self) -> dict[str, str]:
        """The tags of the Dagster run: the decision's id, the attempt, and the first 500 characters of the decision's reason."""
        return {DECISION_TAG: self.decision.id, ATTEMPT_TAG: str(self.attempt), REASON_TAG: self.decision.reason[:500]}
