"""Whether time alone starts a training: by a cadence, or by the age of the serving version's data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_assets.values.decisions import PROMOTED

if TYPE_CHECKING:
    from datetime import timedelta

    from mlops_assets.compute.monitoring.decide import LoopFacts


def explain_due(facts: LoopFacts) -> str:
    """Return why a training is due by time; empty when none is.

    Parameters
    ----------
    facts
        The recorded facts. A model without a recorded training is due if the policy has a cadence or a maximum age.
    """
    policy, last = facts.policy, facts.last_training
    if last is None:
        return "no training is recorded" if policy.every or policy.max_age else ""
    if policy.every is not None and facts.now >= last.as_of + policy.every:
        return f"{_format_span(policy.every)} after the training on data until {last.as_of:%Y-%m-%d}"
    promoted = next((training for training in reversed(facts.runs) if training.state == PROMOTED), last)
    if policy.max_age is not None and facts.now >= promoted.as_of + policy.max_age:
        return f"the data of the serving version end on {promoted.as_of:%Y-%m-%d}, more than {_format_span(policy.max_age)} ago"
    return ""


def _format_span(span: timedelta) -> str:
    return f"{span.days} days" if not span.seconds else f"{span.total_seconds() / 3600:g} hours"
