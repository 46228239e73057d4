"""The policies that ``mlops replay --suggest`` compares: three that can be declared, and simple ones as references.

They come from an experiment on flights, river's data sets and eleven synthetic concepts with and without drift; ADR 73 has its table.
"""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta

from mlops_assets.compute.replay.policies import NEVER, ReplayPolicy
from mlops_assets.values.decisions import Retrain
from mlops_assets.values.gates.champion_gate import BETTER, NOT_WORSE

FOLLOW, PROVE, GROW = "follow", "prove", "grow"
DECLARED = (FOLLOW, PROVE)  # the first ones that are suggested, in this order
_MAX_PERIOD, _MAX_COOLDOWN, _PERIODS, _SHORT = timedelta(days=30), timedelta(days=7), 8, 3
_MAX_GROWTH, _LONGER = 1.5, 4 / 3  # of the period: where the gap of declared policies ends, and the time between fewer refits
_FIRST_SHARE = 4  # the first gap of `grow` is the initial history divided by this number


def choose_period(replayed: timedelta, shortest: timedelta) -> timedelta:
    """Return the time between two trainings: 30 days, or an eighth of a shorter replay, in whole days or hours.

    Parameters
    ----------
    replayed
        The length of the replayed period.
    shortest
        The minimum: the length of the windows after which policies decide.
    """
    return max(min(_MAX_PERIOD, round_span(replayed / _PERIODS)), shortest)


def build_policy(name: str, period: timedelta, initial: timedelta, *, by_time: bool, tunes: bool) -> Retrain:
    """Return one of the declared policies.

    Parameters
    ----------
    name
        ``follow`` promotes a candidate unless it is significantly worse than the champion, ``prove`` only if it is significantly better.
        ``grow`` retrains when the history has grown by a quarter, at most 1.5 periods later, and uses the gates of the model alone.
    period
        The time between two trainings.
    initial
        The length of the history at the beginning of the replay.
    by_time
        Whether the training set is split by time: only then candidates train on the newest rows and are judged on the newest.
    tunes
        Whether the model's function takes the validation part, so that it cannot be refit on all rows.
    """
    if name == GROW:
        first = min(period, round_span(initial / _FIRST_SHARE))
        return Retrain(cooldown=min(_MAX_COOLDOWN, first), every=first, max_every=_MAX_GROWTH * period, on=(), refit=not tunes)
    spans = dict.fromkeys(round_span(span) for span in (initial, max(period, initial / _SHORT)))
    return Retrain(
        cooldown=min(_MAX_COOLDOWN, period),
        every=period,
        max_every=_MAX_GROWTH * period,
        on=(),
        train_windows=(None, *spans) if by_time else (None,),
        judge_on=_choose_holdout(period) if by_time else None,
        promote_if=NOT_WORSE if name == FOLLOW else BETTER,
        refit=not tunes,
    )


def build_grid(period: timedelta, initial: timedelta, *, by_time: bool, tunes: bool) -> list[ReplayPolicy]:
    """Return every policy of the grid, ``never`` first; see :func:`build_policy`."""
    long, short = round_span(initial), round_span(max(period, initial / _SHORT))
    every = f"every:{_name_span(period)}"
    simple = [
        *(ReplayPolicy(f"every:{_name_span(gap)}", gap) for gap in dict.fromkeys((period, round_span(period * _LONGER)))),
        *(ReplayPolicy(f"{every},window={_name_span(s)}", period, s) for s in dict.fromkeys((long, short))),
    ]
    names = (GROW, *DECLARED)
    declared = [ReplayPolicy(name, retrain=build_policy(name, period, initial, by_time=by_time, tunes=tunes)) for name in names]
    return [ReplayPolicy(NEVER), *simple, *declared]


def declare_policy(policy: ReplayPolicy, *, by_time: bool, tunes: bool) -> Retrain | None:
    """Return the retraining that a project declares for a policy; None for a policy that cannot be declared, such as ``never``.

    For fits at fixed times without a gate, the nearest policy is returned: the same times and rows, with the model's gates before the
    refit.

    Parameters
    ----------
    policy
        The policy.
    by_time, tunes
        As in :func:`build_policy`.
    """
    if policy.retrain is not None or policy.every is None:
        return policy.retrain
    if policy.window is not None and not by_time:
        return None
    return Retrain(
        cooldown=min(_MAX_COOLDOWN, policy.every),
        every=policy.every,
        on=(),
        train_windows=(policy.window,),
        judge_on=_choose_holdout(policy.every) if by_time else None,
        refit=not tunes,
    )


def _choose_holdout(period: timedelta) -> timedelta:
    """Return the span of the holdout, the newest rows: half of a period in whole hours, at least one hour."""
    hour = timedelta(hours=1)
    return max(hour, period // 2 // hour * hour)


def round_span(span: timedelta) -> timedelta:
    """Return a span in whole days, or in whole hours if it is shorter than two days; at least one hour."""
    unit = timedelta(days=1) if span >= timedelta(days=2) else timedelta(hours=1)
    return max(1, round(span / unit)) * unit


def write_declaration(policy: Retrain) -> str:
    """Return the Python source that declares a policy, to paste into a project."""
    defaults = Retrain()
    values = ((field.name, getattr(policy, field.name)) for field in fields(Retrain))
    arguments = [f"{name}={_write(value)}" for name, value in values if value != getattr(defaults, name)]
    return f"ml.Retrain({', '.join(arguments)})"


def _write(value: object) -> str:
    if isinstance(value, timedelta):
        days, seconds = value.days, value.seconds
        parts = [
            *([f"days={days}"] if days else []),
            *([f"seconds={seconds}"] if seconds % 3600 else [f"hours={seconds // 3600}"] if seconds else []),
        ]
        return f"timedelta({', '.join(parts)})"
    if isinstance(value, tuple):
        return f"({', '.join(map(_write, value))}{',' * (len(value) == 1)})"
    return repr(value)


def _name_span(span: timedelta) -> str:
    return f"{span.days}d" if not span.seconds else f"{int(span / timedelta(hours=1))}h"
