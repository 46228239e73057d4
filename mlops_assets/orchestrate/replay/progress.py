"""The progress of a replay, and the estimate of the time left."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlops_assets.orchestrate.replay.fits import FitRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from mlops_assets.compute.replay.policies import ReplayPolicy
    from mlops_assets.orchestrate.replay.simulation import ReplayPlan

MIN_TRAININGS = 2  # after the first one, of a policy that trains, before an estimate
MIN_SHARE = 0.1  # of the windows, before an estimate for a policy whose trainings are not known
NEWEST = 5  # trainings that are measured: those of a killed replay were quick


def list_certain_fits(plan: ReplayPlan, policy: ReplayPolicy) -> Iterator[FitRequest]:
    """Yield the fits that a policy needs for any predictions; they can run in advance, at the same time."""
    start = plan.windows[0][1].start
    if policy.retrain is not None:
        yield from (FitRequest(start, window, "judged", policy.retrain.judge_on) for window in policy.retrain.train_windows)
        return
    yield FitRequest(start, policy.window, "all")
    last, every = start, policy.every
    for _, span in plan.windows[:-1]:
        if every is not None and span.end >= last + every:
            last = span.end
            yield FitRequest(last, policy.window, "all")


class PolicyPace:
    """The speed of one policy, measured separately in windows with and without a training.

    Parameters
    ----------
    plan, policy
        What is replayed.
    """

    def __init__(self, plan: ReplayPlan, policy: ReplayPolicy) -> None:
        self._plan, self._policy = plan, policy
        self._done, self._rows, self._trainings = -1, 0, 0
        self._since = 0.0
        self._quiet = [0.0, 0]  # seconds, and windows
        self._newest: deque[tuple[float, int]] = deque(maxlen=NEWEST)  # seconds and fitted rows of a training

    def begin_window(self, now: float, rows: int) -> None:
        """Measure the window that has ended.

        Parameters
        ----------
        now
            The clock in seconds.
        rows
            The rows of all fits of the policy so far.
        """
        if self._done >= 0 and rows == self._rows:
            self._quiet = [self._quiet[0] + now - self._since, self._quiet[1] + 1]
        elif self._done > 0:  # the first training also waits for the processes
            self._newest.append((now - self._since, rows - self._rows))
            self._trainings += 1
        self._done, self._since, self._rows = self._done + 1, now, rows

    def estimate_left(self) -> float | None:
        """Return the seconds that this policy still needs; None before enough was measured."""
        left = len(self._plan.windows) - self._done
        rows = self._count_rows_left()
        if rows is None or (rows and len(self._newest) < MIN_TRAININGS) or not self._quiet[1]:
            return None
        seconds, fitted = (sum(each[i] for each in self._newest) for i in (0, 1))
        return left * self._quiet[0] / self._quiet[1] + (rows * seconds / fitted if fitted else 0.0)

    def _count_rows_left(self) -> float | None:
        """Return the expected number of rows of the fits to come; None when it is not known yet."""
        now = self._plan.windows[min(self._done, len(self._plan.windows) - 1)][1].start
        if self._policy.retrain is None:
            return sum(self._count_rows(r.as_of, r) for r in list_certain_fits(self._plan, self._policy) if r.as_of > now)
        if self._done < MIN_SHARE * len(self._plan.windows):
            return None
        span, declared = self._plan.windows[-1][1].end - now, self._policy.retrain
        every = declared.max_every or declared.every
        expected = max(self._trainings / self._done * (len(self._plan.windows) - self._done), span / every if every else 0.0)
        if declared.cooldown:
            expected = min(expected, span / declared.cooldown)
        middle = now + span / 2
        fits = list(list_certain_fits(self._plan, self._policy))
        again = declared.refit or self._plan.model.refit
        return expected * (sum(self._count_rows(middle, fit) for fit in fits) + (self._count_rows(middle, fits[0]) if again else 0))

    def _count_rows(self, as_of: datetime, request: FitRequest) -> int:
        history = self._plan.history
        return history.count_before(as_of) - (0 if request.window is None else history.count_before(as_of - request.window))


@dataclass
class ReplayProgress:
    """How many windows of all policies are simulated.

    Parameters
    ----------
    plan, policies
        What is replayed.
    show
        Called with a line for people whenever a window begins.
    """

    plan: ReplayPlan
    policies: Sequence[ReplayPolicy]
    show: Callable[[str], None]
    done: int = 0
    paces: dict[str, PolicyPace] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Begin to measure each policy."""
        self.paces = {policy.name: PolicyPace(self.plan, policy) for policy in self.policies}

    def advance(self, policy: str, window: str, rows: int, fits: int) -> None:
        """Count a window, and show policy, window, share, new fits and the estimate of the time left.

        Parameters
        ----------
        policy, window
            The names of the policy and of the window.
        rows
            The rows of all fits of this policy so far.
        fits
            The number of new fits of all policies.
        """
        with self.lock:
            self.paces[policy].begin_window(time.monotonic(), rows)
            estimates = [pace.estimate_left() for pace in self.paces.values()]
            known = [seconds for seconds in estimates if seconds is not None]
            self.done += 1
            rest = f", about {max(known):.0f} s left" if len(known) == len(estimates) else ""
            share = self.done / (len(self.plan.windows) * len(self.policies))
            self.show(f"{policy}: {window}, {share:.0%}, {fits} new fits{rest}")
