"""When and how a model is retrained."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from mlops_assets.errors import DefinitionError, nearest
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.decisions import ESTIMATED, PERFORMANCE

TRIGGERS = (PERFORMANCE, ESTIMATED)  # kinds of reports whose breaches can start a training


@check_constructor
@dataclass(frozen=True)
class Retrain:
    """The rule by which a model is retrained: what starts a training, and on which rows candidates train.

    Parameters
    ----------
    cooldown
        The minimum time between two trainings that a decision starts, in event time: from the end of the data of the last one to the end of
        the current data.
    after
        The number of consecutive windows with a breach that start a retraining. Windows that are not judged neither count nor interrupt.
    after_rejection
        As ``after``, when the last candidate did not become champion, or when the last decision gave up after ``max_attempts`` crashes.
    max_attempts
        The maximum number of starts of one training that crashes.
    backoff
        The wall-clock time from the first crash to the next attempt; the time doubles with each further crash.
    every
        The event time after the last training at which the next one starts, whatever the performance is; None without such a cadence.
    max_age
        The event time after the end of the serving version's data at which a training starts; None without a maximum age.
    on
        The reports whose breaches start a training: ``performance``, ``estimated`` or both; empty if only time starts one.
    train_windows
        The spans of the newest training rows, one candidate for each: None trains on every row. Of several candidates, the one with the best
        first metric on the holdout is judged by the gates.
    refit
        Whether a candidate that passed its gates is fitted again on the rows of the holdout too, as ``refit="after_gates"`` of a model.

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
        if len(set(self.train_windows)) < len(self.train_windows):
            raise DefinitionError(f"Retrain(train_windows={self.train_windows}) names a span twice", hint="give each span once")

    def _check_triggers(self) -> None:
        if unknown := [name for name in self.on if name not in TRIGGERS]:
            raise DefinitionError(
                f"Retrain(on={self.on}) names '{unknown[0]}'", hint=nearest(unknown[0], TRIGGERS) + f"there are {', '.join(TRIGGERS)}"
            )
        if not self.on and self.every is None and self.max_age is None:
            raise DefinitionError("Retrain(on=()) never starts a training", hint="set every= or max_age=, or name a report in on=")
        for name, span in (("every", self.every), ("max_age", self.max_age)):
            if span is not None and span < max(self.cooldown, timedelta(microseconds=1)):
                raise DefinitionError(
                    f"Retrain({name}={span}) is shorter than the cooldown of {self.cooldown}", hint=f"set cooldown= to at most {name}="
                )
