"""The policies of a replay: never retrain, refit at fixed times without a gate, or retrain as ``ml.Retrain`` declares."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from mlops_assets.errors import DefinitionError

if TYPE_CHECKING:
    from mlops_assets.values.decisions import Retrain

NEVER, LOOP = "never", "loop"
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_EVERY = re.compile(r"every:(?P<every>\d+[hdw])(,window=(?P<window>\d+[hdw]))?")


@dataclass(frozen=True)
class ReplayPolicy:
    """One policy of a replay.

    Parameters
    ----------
    name
        The name of the policy on the command line and in results.
    every
        The time between two fits on all known rows, which become champion without a gate; None for other policies.
    window
        The span of the newest rows for such a fit; all known rows when None.
    retrain
        The declared retraining, whose candidates must pass the model's gates; None for other policies.
    drift
        Whether the drift of its windows is evaluated, if the monitor expects that there is none.
    """

    name: str
    every: timedelta | None = None
    window: timedelta | None = None
    retrain: Retrain | None = None
    drift: bool = False


def parse_policy(text: str) -> ReplayPolicy:
    """Return the policy ``never``, ``every:30d`` or ``every:30d,window=90d``; spans are in hours, days or weeks.

    Parameters
    ----------
    text
        The text of the command line.

    Raises
    ------
    DefinitionError
        There is no such policy, or a span is zero.
    """
    if text == NEVER:
        return ReplayPolicy(NEVER)
    match = _EVERY.fullmatch(text)
    if match is None:
        raise DefinitionError(
            f"there is no policy '{text}'", hint="give never, every:30d, every:30d,window=90d, loop, or FILE.py:NAME of an ml.Retrain(…)"
        )
    every, window = (_parse_span(match[name]) if match[name] else None for name in ("every", "window"))
    if timedelta(0) in (every, window):
        raise DefinitionError(f"the policy '{text}' has a span of zero", hint="give e.g. every:30d")
    return ReplayPolicy(text, every, window)


def _parse_span(text: str) -> timedelta:
    return int(text[:-1]) * _UNITS[text[-1]]
