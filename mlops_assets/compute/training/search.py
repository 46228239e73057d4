"""Hyperparameter search: the next trials are a pure function of the search and of earlier results.

So a killed search resumes by proposing all trials again from the first; recorded results replace the trials that already ran.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from mlops_assets.errors import DataError, MissingExtraError
from mlops_assets.values.search import Search, SearchRange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

T = TypeVar("T")

_STARTUP_TRIALS = 5  # completed trials that a median needs; with fewer, no trial is pruned


@dataclass(frozen=True)
class Trial:
    """One trial of a search.

    Parameters
    ----------
    number
        Number of the trial, from 0.
    params
        The hyperparameters of the trial.
    value
        The metric; None when the trial failed or was pruned.
    steps
        Step → intermediate value of the metric that the trial logged.
    error
        The reason why the trial failed; empty otherwise.
    """

    number: int
    params: Mapping[str, Any]
    value: float | None = None
    steps: Mapping[int, float] = field(default_factory=dict)
    error: str = ""


def run_trials(search: Search, run_round: Callable[[Sequence[Trial], Sequence[Trial]], Sequence[Trial]]) -> list[Trial]:
    """Run the trials of a search in rounds and return their results in order.

    Parameters
    ----------
    search
        The declared search.
    run_round
        A function of the proposed trials of a round and all earlier results. It runs the trials, or reads their recorded results, and
        returns the results. A round has ``search.processes`` trials, the last one perhaps fewer.
    """
    results: list[Trial] = []
    for proposed in _propose_rounds(search, results):
        results.extend(run_round(proposed, tuple(results)))
    return results


def best_trial(trials: Sequence[Trial], where: str) -> Trial:
    """Return the first trial with the maximum value. ``where`` names the search in the message.

    Raises
    ------
    DataError
        No trial has a finite value.
    """
    scored = [trial for trial in trials if trial.value is not None and math.isfinite(trial.value)]
    if not scored:
        raise DataError(
            f"none of the {len(trials)} trials of {where} reached a value", hint="see why: mlops runs list --where \"kind = 'trial'\""
        )
    return max(scored, key=lambda trial: (trial.value, -trial.number))


def should_prune(step: int, value: float, before: Sequence[Trial]) -> bool:
    """Return True if a value is NaN or below the median of the completed trials at this step; False if fewer than five have a value.

    Parameters
    ----------
    step, value
        The current step of the running trial, and the value at this step.
    before
        The earlier trials; those that failed or were pruned do not count.
    """
    values = sorted(trial.steps[step] for trial in before if trial.value is not None and step in trial.steps)
    if len(values) < _STARTUP_TRIALS:
        return False
    middle = len(values) // 2
    median = values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2
    return not value >= median  # also True for NaN


def _propose_rounds(search: Search, done: Sequence[Trial]) -> Iterator[list[Trial]]:
    """Yield the proposed trials of each round; the caller appends their results to ``done`` before it requests the next round."""
    if search.sampler == "grid":
        names = [name for name, _ in search.space]
        combinations = itertools.product(*(_list_grid_values(values) for _, values in search.space))
        numbered = enumerate(itertools.islice(combinations, search.trials))
        yield from _split_batches((Trial(number, dict(zip(names, chosen, strict=True))) for number, chosen in numbered), search.processes)
        return
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError.from_extra("optuna", "search") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {name: _to_distribution(values) for name, values in search.space}
    study = optuna.create_study(direction="maximize")
    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    for numbers in _split_batches(range(search.trials), search.processes):
        optuna_trials = []
        for number in numbers:
            # A sampler of its own for each trial: its draws then depend on the earlier rounds only.
            study.sampler = samplers[search.sampler](seed=(search.seed * 1_000_003 + number) % 2**32)
            optuna_trials.append(study.ask(space))
        yield [
            Trial(n, {name: _to_value(v, a.params[name]) for name, v in search.space}) for n, a in zip(numbers, optuna_trials, strict=True)
        ]
        for trial, reached in zip(optuna_trials, done[-len(optuna_trials) :], strict=True):
            value = reached.value
            result = {"values": value} if value is not None and math.isfinite(value) else {"state": optuna.trial.TrialState.FAIL}
            study.tell(trial, **result)


def _split_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _list_grid_values(values: SearchRange | tuple[Any, ...]) -> Sequence[Any]:
    """Return the declared values, or the values of a range in steps of ``step`` (default 1)."""
    if not isinstance(values, SearchRange):
        return values
    step = values.step or 1
    steps = (values.low + index * step for index in range(int((values.high - values.low) / step + 1e-9) + 1))
    return [int(value) if values.is_integer else value for value in steps]


def _to_distribution(values: SearchRange | tuple[Any, ...]) -> Any:  # noqa: ANN401  (Optuna's)
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(values, SearchRange):
        return CategoricalDistribution(tuple(range(len(values))))  # by index: Optuna stores few types of values
    if values.is_integer:
        return IntDistribution(int(values.low), int(values.high), log=values.log, step=int(values.step or 1))
    return FloatDistribution(values.low, values.high, log=values.log, step=values.step)


def _to_value(values: SearchRange | tuple[Any, ...], drawn: Any) -> Any:  # noqa: ANN401
    return drawn if isinstance(values, SearchRange) else values[drawn]
