"""Decide whether time alone starts a training: by a cadence, or by the age of the serving version's data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_assets.compute.text import describe_span
from mlops_assets.values.decisions import PROMOTED, REJECTED

if TYPE_CHECKING:
    from datetime import timedelta

    from mlops_assets.compute.monitoring.decide import LoopFacts
    from mlops_assets.values.decisions import Training

_SHARE = 4  # the maximum gap is the history divided by this number


def explain_due(facts: LoopFacts) -> str:
    """Return why a training is due by time; empty if no training is due.

    Parameters
    ----------
    facts
        The recorded facts. A model without a recorded training is due if the policy has a cadence or a maximum age.
    """
    policy, last = facts.policy, facts.last_training
    if last is None:
        return "no training is recorded" if policy.every or policy.max_age else ""
    # A decision that gave up after crashes counts as a training: the next one waits as long.
    newest = max([last.as_of, *(decision.opened for decision in facts.settled_decisions)])
    if policy.every is not None and facts.now >= newest + choose_gap(facts, policy.every, last):
        return f"{describe_span(facts.now - last.as_of)} after the training on data until {last.as_of:%Y-%m-%d}"
    promoted = next((training for training in reversed(facts.runs) if training.state == PROMOTED), last)
    if policy.max_age is not None and facts.now >= max(promoted.as_of + policy.max_age, newest + policy.cooldown):
        return f"the data of the serving version end on {promoted.as_of:%Y-%m-%d}, more than {describe_span(policy.max_age)} ago"
    return ""


def choose_gap(facts: LoopFacts, every: timedelta, last: Training) -> timedelta:
    """Return the event time between the last training and the next one: ``every``, or more with a longer history.

    Parameters
    ----------
    facts
        The recorded facts.
    every
        The shortest gap.
    last
        The last training; after a rejected one, the gap is the shortest.
    """
    max_every = facts.policy.max_every
    if max_every is None or facts.data_start is None or facts.rolling or last.state == REJECTED:
        return every
    return max(every, min(max_every, (last.as_of - facts.data_start) / _SHARE))
