"""The declared rule of retraining, and the facts to decide from: reports, trainings and decisions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from mlops_assets.errors import DefinitionError, suggest_name
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.gates.champion_gate import RULES

if TYPE_CHECKING:
    from datetime import datetime

PERFORMANCE, DRIFT, ESTIMATED = "performance", "drift", "estimated"
RUNNING, CRASHED, WAITING, REJECTED, PROMOTED = "running", "crashed", "waiting for approval", "rejected", "promoted"
DECISION_TAG, ATTEMPT_TAG, REASON_TAG = "mlops/decision", "mlops/attempt", "mlops/reason"
TRIGGERS = (PERFORMANCE, ESTIMATED)  # kinds of reports whose breaches can start a training


@check_constructor
@dataclass(frozen=True)
class Retrain:
    """The rule by which a model is retrained: what starts a training, and on which rows candidates train.

    Parameters
    ----------
    cooldown
        The minimum event time between two trainings that this rule starts, from the end of the previous training's data to the end of the
        current data.
    after
        The number of consecutive windows with a breach that start a retraining. Windows without a verdict are skipped.
    after_rejection
        Replaces ``after`` when the last candidate did not become champion, or when the last decision ended after ``max_attempts`` crashes.
    max_attempts
        The maximum number of times that one training is started when it crashes.
    backoff
        The wall-clock time from the first crash to the next attempt; it doubles with each further crash.
    every
        The event time from the last training to the next one, which starts also without a breach; None to start no training by time.
    max_age
        The event time after the end of the serving version's data at which a training starts; None without a maximum age.
    on
        The reports whose breaches start a training: ``performance``, ``estimated`` or both; empty if only ``every`` or ``max_age`` does.
    train_windows
        Spans of the newest training rows; one candidate is trained on each, and None stands for every row. The first candidate is the
        default. Another one replaces it if the model's first metric is significantly better on the holdout (90 % one-sided confidence);
        for the span that trained the serving version, a better value suffices.
    refit
        Whether a candidate that passed its gates is refit on all rows including the holdout, as with ``refit="after_gates"`` of a model.
    max_every
        The time between trainings grows from ``every`` to a quarter of the length of the history, but at most to ``max_every``: with much
        history, the same amount of new data matters less. After a rejection, or while the serving version was trained on a span of the
        newest rows, the time is ``every`` again. With None, it is always ``every``.
    judge_on
        The span of the newest labelled rows on which candidates are judged; it is extended to 30 rows if it has fewer. None takes the
        holdout of the training set.
    promote_if
        A gate in addition to those of the model: ``not_worse`` refuses a candidate that is significantly worse than the champion;
        ``better`` refuses a candidate that is not significantly better. Empty for no additional gate.

    Raises
    ------
    DefinitionError
        A time is negative, a number less than 1, ``every`` shorter than the cooldown, or nothing starts a training.

    See Also
    --------
    Monitor : Takes ``on_failure=``.

    Examples
    --------
    >>> from datetime import timedelta
    >>> import mlops_assets as ml
    >>> ml.Retrain(cooldown=timedelta(days=7), after=2).after_rejection
    2

    A training every six weeks, on all rows or on the last 90 days:

    >>> ml.Retrain(every=timedelta(weeks=6), on=(), train_windows=(None, timedelta(days=90)), refit=True).every
    datetime.timedelta(days=42)
    """

    cooldown: timedelta = timedelta(days=7)
    after: int = 1
    after_rejection: int = 2
    max_attempts: int = 3
    backoff: timedelta = timedelta(minutes=5)
    every: timedelta | None = None
    max_age: timedelta | None = None
    on: tuple[str, ...] = (PERFORMANCE,)
    train_windows: tuple[timedelta | None, ...] = (None,)
    refit: bool = False
    max_every: timedelta | None = None
    judge_on: timedelta | None = None
    promote_if: str = ""

    def __post_init__(self) -> None:
        """Refuse times, numbers and names that cannot work."""
        if min(self.cooldown, self.backoff) < timedelta(0):
            raise DefinitionError(
                f"Retrain(cooldown={self.cooldown}, backoff={self.backoff}) has a negative duration", hint="set timedeltas of 0 or more"
            )
        if min(self.after, self.after_rejection, self.max_attempts) < 1:
            raise DefinitionError(
                f"Retrain(after={self.after}, after_rejection={self.after_rejection}, max_attempts={self.max_attempts}) has a number below 1",
                hint="give numbers of 1 or more",
            )
        self._check_triggers()
        if not self.train_windows or any(window is not None and window <= timedelta(0) for window in self.train_windows):
            raise DefinitionError(
                f"Retrain(train_windows={self.train_windows}) names no span of rows", hint="e.g. train_windows=(None, timedelta(days=90))"
            )
        if self.promote_if not in ("", *RULES):
            raise DefinitionError(
                f"Retrain(promote_if={self.promote_if!r}) is not a rule",
                hint=suggest_name(self.promote_if, RULES) + f"there are {', '.join(RULES)}",
            )
        if self.judge_on is not None and self.judge_on <= timedelta(0):
            raise DefinitionError(
                f"Retrain(judge_on={self.judge_on}) judges on no row", hint="give a positive span, e.g. timedelta(days=14)"
            )
        if len(set(self.train_windows)) < len(self.train_windows):
            raise DefinitionError(f"Retrain(train_windows={self.train_windows}) names a span twice", hint="give each span once")

    def _check_triggers(self) -> None:
        if unknown := [name for name in self.on if name not in TRIGGERS]:
            raise DefinitionError(
                f"Retrain(on={self.on}) names '{unknown[0]}'", hint=suggest_name(unknown[0], TRIGGERS) + f"there are {', '.join(TRIGGERS)}"
            )
        if not self.on and self.every is None and self.max_age is None:
            raise DefinitionError("Retrain(on=()) never starts a training", hint="set every= or max_age=, or name a report in on=")
        for name, span in (("every", self.every), ("max_age", self.max_age)):
            if span is not None and span < max(self.cooldown, timedelta(microseconds=1)):
                raise DefinitionError(
                    f"Retrain({name}={span}) is shorter than the cooldown of {self.cooldown}", hint=f"set cooldown= to at most {name}="
                )
        if self.max_every is not None and (self.every is None or self.max_every < self.every):
            raise DefinitionError(
                f"Retrain(max_every={self.max_every}) is shorter than every={self.every}", hint="give every= and a longer max_every="
            )


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
        ``performance``, ``drift`` or ``estimated``; a drift report cannot start a retraining.
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
        The recorded reason why the decision is closed. Empty while no reason is recorded; a decision without one may still be settled by
        later facts, see ``explain_settlement``.
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
