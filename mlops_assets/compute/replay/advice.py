"""Advise on a policy from the result of a replay."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mlops_assets.compute.replay.comparison import MIN_WINDOWS, estimate_interval
from mlops_assets.compute.replay.grid import DECLARED, PROVE
from mlops_assets.compute.replay.policies import NEVER
from mlops_assets.compute.text import format_number

if TYPE_CHECKING:
    from mlops_assets.compute.replay.result import PolicyResult, ReplayResult

_SHARE, _CONFIDENCE = 0.95, 0.9  # of the best policy's gain over never; of the interval that shows a gain


@dataclass(frozen=True)
class Advice:
    """The policy to use, and why.

    Parameters
    ----------
    policy
        The name of the policy; empty when no policy can be measured.
    headline, text
        The advice and its reasons.
    significant
        Whether the policy is significantly better than the first policy.
    """

    policy: str
    headline: str
    text: str
    significant: bool


def advise(result: ReplayResult) -> Advice:
    """Return the policy to use.

    With the grid of ``--suggest``, the policies that are significantly better than ``never`` are compared. The advice is the first one with
    95 % of the largest gain: ``follow``, ``prove``, then the others, those with the fewest trainings first. Without a significant
    gain, it is ``prove``, which promotes only significantly better candidates. For other policies, it is the policy with the fewest trainings
    that is not significantly worse than the best policy.

    Parameters
    ----------
    result
        The result of a replay.
    """
    measured = [policy for policy in _keep_common_windows(result) if math.isfinite(policy.mean(result.metric))]
    if not measured:
        return Advice("", "No policy can be measured", _explain_unmeasured(result), significant=False)
    if (windows := len(measured[0].windows)) < MIN_WINDOWS:
        return Advice("", "Too few windows to compare policies", f"All policies are measured in {windows} windows only.", significant=False)
    best = max(measured, key=lambda policy: policy.mean(result.metric))
    by_name = {policy.policy: policy for policy in measured}
    if {NEVER, *DECLARED} <= set(by_name):
        return _suggest(result, by_name, best)
    close = [policy for policy in measured if policy is best or not _is_worse(result, policy, best)]
    chosen = min(close, key=lambda policy: (len(policy.retrainings), -policy.mean(result.metric)))
    return _explain(result, chosen, best, f"Use {chosen.policy}")


def _explain_unmeasured(result: ReplayResult) -> str:
    if any(window.rows for policy in result.policies for window in policy.windows):
        return f"{result.metric} is undefined in every window: look at the labels, and whether the estimator has predict_proba"
    reason = next((e.outcome for p in result.policies for e in p.events if e.promoted is None), "no row lies in the period")
    return f"no version was trained: {reason}"


def _keep_common_windows(result: ReplayResult) -> list[PolicyResult]:
    """Return the policies with the windows in which every policy that has a version is measured."""
    values = [[window.metrics[result.metric] for window in policy.windows] for policy in result.policies]
    measured = [row for row in values if any(map(math.isfinite, row))]
    common = [all(map(math.isfinite, column)) for column in zip(*measured, strict=True)]
    return [replace(p, windows=tuple(w for w, kept in zip(p.windows, common, strict=True) if kept)) for p in result.policies if common]


def _suggest(result: ReplayResult, by_name: dict[str, PolicyResult], best: PolicyResult) -> Advice:
    never = by_name[NEVER]
    shown = {name: policy for name, policy in by_name.items() if policy is not never and _shows_gain(result, policy, never)}
    if not shown:
        return _explain(result, by_name[PROVE], best, f"Use {PROVE}: no policy shows a gain over never retraining")
    top = max(shown.values(), key=lambda policy: policy.mean(result.metric))
    enough = never.mean(result.metric) + _SHARE * (top.mean(result.metric) - never.mean(result.metric))
    declared = [shown[name] for name in DECLARED if name in shown]
    others = sorted((p for p in shown.values() if p.policy not in DECLARED), key=lambda p: (len(p.retrainings), -p.mean(result.metric)))
    chosen = next(p for p in (*declared, *others) if p.mean(result.metric) >= enough)
    return _explain(result, chosen, best, f"Use {chosen.policy}", shown=True)


def _shows_gain(result: ReplayResult, policy: PolicyResult, never: PolicyResult) -> bool:
    low, _ = estimate_interval(_list_differences(result, policy, never), _CONFIDENCE)
    return low > 0


def _list_differences(result: ReplayResult, policy: PolicyResult, other: PolicyResult) -> np.ndarray:
    pairs = zip(policy.windows, other.windows, strict=True)
    differences = np.array([a.metrics[result.metric] - b.metrics[result.metric] for a, b in pairs])
    return differences[np.isfinite(differences)]  # type: ignore[no-any-return]  # an array


def _is_worse(result: ReplayResult, policy: PolicyResult, best: PolicyResult) -> bool:
    found = result.compare(policy.policy, best.policy)
    return found is not None and found.high < 0


def _explain(result: ReplayResult, chosen: PolicyResult, best: PolicyResult, headline: str, *, shown: bool = False) -> Advice:
    metric, first = result.metric, result.policies[0]
    against = result.compare(chosen.policy, first.policy)
    significant = against is not None and against.low > 0
    figures = f"The mean {metric} of {chosen.policy} is {format_number(chosen.mean(metric), 4)} with {_describe_trainings(chosen)}"
    if chosen.policy != first.policy:
        doubtful = f"better at {100 * _CONFIDENCE:.0f} % confidence" if shown else "not significantly better"
        sure = "significantly better than" if significant else f"{doubtful} than"
        figures += f", {sure} {first.policy} ({format_number(first.mean(metric), 4)})"
    if chosen.policy == best.policy:
        return Advice(chosen.policy, headline, f"{figures}. No other policy has a higher mean.{_explain_missing(result)}", significant)
    highest = f"{best.policy} has the highest mean, {format_number(best.mean(metric), 4)} with {_describe_trainings(best)}"
    return Advice(chosen.policy, headline, f"{figures}. {highest}.{_explain_missing(result)}", significant)


def _explain_missing(result: ReplayResult) -> str:
    """Return a sentence for each policy that has no metric, with its last outcome; empty when all have one."""
    missing = [policy for policy in result.policies if not math.isfinite(policy.mean(result.metric))]
    return "".join(f" {p.policy} could not be measured: {p.events[-1].outcome if p.events else 'it trained no version'}." for p in missing)


def _describe_trainings(policy: PolicyResult) -> str:
    count = len(policy.retrainings)
    return f"{count} training{'s' * (count != 1)}"
