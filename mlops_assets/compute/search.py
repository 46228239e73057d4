"""The trials of a search: which values are tried next is a pure function of the search and of what the trials before have reached.

So a search that was killed is resumed by asking again from the first trial, and answering from memory what was tried already.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import DataError, MissingExtraError
from mlops_assets.values.search import Range, Search

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_STARTUP = 5  # trials that are never pruned: a median of fewer says nothing


@dataclass(frozen=True)
class Trial:
    """One trial.

    Parameters
    ----------
    number
        From 0.
    params
        What it tried.
    value
        The metric; None when it failed or was pruned.
    steps
        What it logged of the metric on the way, by step.
    """

    number: int
    params: Mapping[str, Any]
    value: float | None = None
    steps: Mapping[int, float] = field(default_factory=dict)


def trials(search: Search, tried: Callable[[int, Mapping[str, Any], Sequence[Trial]], Trial]) -> list[Trial]:
    """Return the trials of a search, in order.

    Parameters
    ----------
    search
        As declared.
    tried
        Runs one: number, values, and the trials before; or remembers it.
    """
    done: list[Trial] = []
    for number, params in _asked(search, done):
        done.append(tried(number, params, tuple(done)))
    return done


def best(found: Sequence[Trial], where: str) -> Trial:
    """Return the trial with the greatest value, the first of equal ones.

    Raises
    ------
    DataError
        Every trial has failed.
    """
    scored = [trial for trial in found if trial.value is not None and math.isfinite(trial.value)]
    if not scored:
        raise DataError(
            f"none of the {len(found)} trials of {where} reached a value", hint="see why: mlops runs list --where \"kind = 'trial'\""
        )
    return max(scored, key=lambda trial: (trial.value, -trial.number))


def falls_behind(step: int, value: float, before: Sequence[Trial]) -> bool:
    """Whether a value is below the median of what earlier trials had at that step (Golovin et al., *Google Vizier*, 2017, section 3.2).

    Parameters
    ----------
    step, value
        Of the trial that goes on.
    before
        The trials before it.
    """
    known = sorted(trial.steps[step] for trial in before if trial.value is not None and step in trial.steps)
    if len(known) < _STARTUP:
        return False
    middle = len(known) // 2
    median = known[middle] if len(known) % 2 else (known[middle - 1] + known[middle]) / 2
    return not value >= median  # NaN falls behind


def _asked(search: Search, done: Sequence[Trial]) -> Iterator[tuple[int, dict[str, Any]]]:
    if search.sampler == "grid":
        names = [name for name, _ in search.space]
        every = itertools.product(*(_values(values) for _, values in search.space))
        yield from ((number, dict(zip(names, chosen, strict=True))) for number, chosen in enumerate(itertools.islice(every, search.trials)))
        return
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError.from_extra("optuna", "search") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {name: _distribution(values) for name, values in search.space}
    study = optuna.create_study(direction="maximize")
    for number in range(search.trials):
        # A sampler of its own for each trial: what it draws then depends on nothing but the trials before.
        seed = (search.seed * 1_000_003 + number) % 2**32
        kinds = {"tpe": lambda: optuna.samplers.TPESampler(seed=seed), "random": lambda: optuna.samplers.RandomSampler(seed=seed)}  # noqa: B023
        study.sampler = kinds[search.sampler]()
        asked = study.ask(space)
        yield number, {name: _chosen(values, asked.params[name]) for name, values in search.space}
        value = done[-1].value
        told = {"values": value} if value is not None and math.isfinite(value) else {"state": optuna.trial.TrialState.FAIL}
        study.tell(asked, **told)


def _values(values: Range | tuple[Any, ...]) -> Sequence[Any]:
    if not isinstance(values, Range):
        return values
    step = values.step or 1
    found = (values.low + index * step for index in range(int((values.high - values.low) / step + 1e-9) + 1))
    return [int(value) if values.whole else value for value in found]


def _distribution(values: Range | tuple[Any, ...]) -> Any:  # noqa: ANN401  (Optuna's)
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(values, Range):
        return CategoricalDistribution(tuple(range(len(values))))  # by place: a value may be anything
    if values.whole:
        return IntDistribution(int(values.low), int(values.high), log=values.log, step=int(values.step or 1))
    return FloatDistribution(values.low, values.high, log=values.log, step=values.step)


def _chosen(values: Range | tuple[Any, ...], drawn: Any) -> Any:  # noqa: ANN401
    return drawn if isinstance(values, Range) else values[drawn]
