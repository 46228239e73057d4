"""Advise on a policy from the result of a replay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_assets.compute.text import format_number

if TYPE_CHECKING:
    from mlops_assets.compute.replay.result import PolicyResult, ReplayResult


@dataclass(frozen=True)
class Advice:
    """The policy to use, and why.

    Parameters
    ----------
    policy
        The name of the policy; empty when no policy can be measured.
    headline, text
        The advice and its reasons.
    certain
        Whether the policy is certainly better than the first one.
    """

    policy: str
    headline: str
    text: str
    certain: bool


def advise(result: ReplayResult) -> Advice:
    """Return the policy to use: of those that are not certainly worse than the best one, the one with the fewest trainings.

    Parameters
    ----------
    result
        The result of a replay.
    """
    measured = [policy for policy in result.policies if math.isfinite(policy.mean(result.metric))]
    if not measured:
        return Advice("", "No policy can be measured", "no window has predictions with a defined metric", certain=False)
    best = max(measured, key=lambda policy: policy.mean(result.metric))
    close = [policy for policy in measured if policy is best or not _is_worse(result, policy, best)]
    chosen = min(close, key=lambda policy: (len(policy.retrainings), -policy.mean(result.metric)))
    against = result.compare(chosen.policy, measured[0].policy)
    certain = against is not None and against.low > 0
    return Advice(chosen.policy, f"Use {chosen.policy}", _explain(result, chosen, best, certain=certain), certain)


def _is_worse(result: ReplayResult, policy: PolicyResult, best: PolicyResult) -> bool:
    found = result.compare(policy.policy, best.policy)
    return found is not None and found.high < 0


def _explain(result: ReplayResult, chosen: PolicyResult, best: PolicyResult, *, certain: bool) -> str:
    metric, first = result.metric, result.policies[0]
    figures = f"its mean {metric} is {format_number(chosen.mean(metric), 4)} with {len(chosen.retrainings)} trainings"
    if chosen is not first:
        sure = "certainly better than" if certain else "not certainly better than"
        figures += f", {sure} {first.policy} ({format_number(first.mean(metric), 4)})"
    if chosen is best:
        return f"{figures}; no other policy has a higher mean."
    return (
        f"{figures}; {best.policy} has the highest mean, {format_number(best.mean(metric), 4)} with {len(best.retrainings)} trainings, "
        "but the difference may be chance."
    )
