"""What is recorded of a model in production, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

PERFORMANCE, DRIFT = "performance", "drift"
RUNNING, CRASHED, WAITING, REJECTED, PROMOTED = "running", "crashed", "waiting for approval", "rejected", "promoted"
DECISION_TAG, ATTEMPT_TAG, REASON_TAG = "mlops/decision", "mlops/attempt", "mlops/reason"


@dataclass(frozen=True)
class WindowReport:
    """What a report says of one window of one version's predictions.

    Parameters
    ----------
    partition, end
        The window, and when it ends (aware).
    version
        The version that made the predictions.
    state
        ``good``, ``breach``, ``not enough data`` or ``in training data``.
    kind
        ``performance`` or ``drift``; only performance decides.
    reason
        In words.
    recorded
        Counts up when a window is reported again: the latest report counts.
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
    """A training of the model, whoever asked for it.

    Parameters
    ----------
    run_id
        The run.
    as_of
        The newest data when it started (aware).
    state
        ``running``, ``crashed``, ``waiting for approval``, ``rejected`` (the candidate did not become champion) or ``promoted``.
    decision
        The id of the decision that asked for it; None for a schedule or a person.
    ended
        When it ended, by the clock; None while it runs.
    """

    run_id: str
    as_of: datetime
    state: str
    decision: str | None = None
    ended: datetime | None = None


@dataclass(frozen=True)
class Decision:
    """That a version must be trained again.

    Parameters
    ----------
    id
        Follows from model, version and first bad window: the same facts give the same decision.
    model, version
        What fails.
    partition
        The first bad window.
    opened
        The end of the newest bad window (aware).
    reason
        In words.
    evidence
        The bad windows.
    closed
        Why it is no longer open, where that is recorded; facts may close it as well, see :func:`settled`.
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
    """That nothing is to be done, and why."""

    reason: str


@dataclass(frozen=True)
class Launch:
    """That a training is to be started.

    Parameters
    ----------
    run_key
        ``<decision>#<attempt>``: a run of this key is started once.
    decision
        What asks for it.
    attempt
        From 1.
    """

    run_key: str
    decision: Decision
    attempt: int

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the run."""
        return {DECISION_TAG: self.decision.id, ATTEMPT_TAG: str(self.attempt), REASON_TAG: self.decision.reason[:500]}
