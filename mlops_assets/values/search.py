"""Declared searches for hyperparameters: the ranges of values, the number of trials, and the metric to maximise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mlops_assets.errors import DefinitionError, suggest_name
from mlops_assets.values.arguments import check_constructor

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlops_assets.values.function import Parameter

Sampler = Literal["tpe", "random", "grid"]
SAMPLERS = ("tpe", "random", "grid")


@check_constructor
@dataclass(frozen=True)
class SearchRange:
    """A range of numbers from ``low`` to ``high``, both included; only whole numbers when the bounds and the step are integers.

    Parameters
    ----------
    low, high
        The bounds.
    log
        Whether to sample on a logarithmic scale; ``low`` is then positive.
    step
        Step between values: only ``low``, ``low + step``, … are tried.

    Raises
    ------
    DefinitionError
        The range is empty, the step is not positive, or ``log`` is set with a step or without a positive ``low``.

    See Also
    --------
    Search : The search that samples from it.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.types.SearchRange(0.01, 0.3, log=True)
    SearchRange(low=0.01, high=0.3, log=True, step=None)
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        """Refuse an empty range, a step that is not positive, and a logarithmic range with a step or without a positive bound."""
        if not self.low < self.high:
            raise DefinitionError(f"the range {self.low} to {self.high} is empty", hint="give the smaller bound first")
        if self.log and (self.low <= 0 or self.step is not None):
            raise DefinitionError(f"the range {self.low} to {self.high} cannot be logarithmic", hint="log=True needs low > 0, and no step=")
        if self.step is not None and self.step <= 0:
            raise DefinitionError(f"the range has the step {self.step}, which is not above 0", hint="set step= above 0, or omit it")

    @property
    def is_integer(self) -> bool:
        """Whether all values are whole numbers."""
        return all(isinstance(value, int) for value in (self.low, self.high, 1 if self.step is None else self.step))


@check_constructor
@dataclass(frozen=True)
class Search:
    """A search for hyperparameters within a training: trials fit on ``train`` and are scored on ``validation``, never on the holdout.

    Parameters
    ----------
    space
        Field of the model's ``dagster.Config`` → an :class:`mlops_assets.types.SearchRange`, or the values to choose from.
    trials
        The maximum number of trials; ``grid`` stops after its last combination.
    metric
        A scikit-learn scorer name, greater is better; the model's first metric when empty.
    sampler
        ``tpe`` learns from earlier trials (Bergstra et al., *Algorithms for Hyper-Parameter Optimization*, 2011), ``random`` samples each trial
        independently, ``grid`` tries every combination in order.
    prune
        Whether a trial ends early when the value that the function logs with ``ml.runs.log_metric(metric, value, step)`` is NaN, or below
        the median of the completed trials at that step; no trial is pruned while fewer than five have a value there.
    seed
        The same seed, data and code give the same trials, however often the search was killed and resumed.
    processes
        How many trials run at once. With more than one, they run in worker processes with equal shares of the processors, trials of one
        round do not learn from each other, and the function is called from its stored source, as by ``mlops reproduce``.

    Raises
    ------
    DefinitionError
        The space or a list of values is empty, there is no such sampler, ``grid`` has a range of fractions without a step, or ``trials`` or
        ``processes`` is less than 1.

    See Also
    --------
    mlops_assets.types.SearchRange : A range of numbers in the space.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> search = ml.Search({"max_iter": ml.types.SearchRange(50, 400), "loss": ("log_loss", "hinge")}, trials=20)
    >>> [name for name, _ in search.space]
    ['loss', 'max_iter']
    """

    space: tuple[tuple[str, SearchRange | tuple[Any, ...]], ...]
    trials: int = 30
    metric: str = ""
    sampler: Sampler = "tpe"
    prune: bool = False
    seed: int = 0
    processes: int = 1

    def __init__(  # noqa: PLR0913  (a flat declaration reads best)
        self,
        space: Mapping[str, SearchRange | Iterable[Any]] | Iterable[tuple[str, SearchRange | Iterable[Any]]],
        trials: int = 30,
        metric: str = "",
        sampler: Sampler = "tpe",
        *,
        prune: bool = False,
        seed: int = 0,
        processes: int = 1,
    ) -> None:
        if not space or trials < 1:
            raise DefinitionError(
                "a search needs a space and at least one trial", hint='e.g. ml.Search({"max_iter": ml.types.SearchRange(50, 400)})'
            )
        if processes < 1:
            raise DefinitionError(f"a search cannot run in {processes} processes", hint="omit processes=, or set processes=2")
        if sampler not in SAMPLERS:
            raise DefinitionError(f"unknown sampler '{sampler}'", hint=suggest_name(sampler, SAMPLERS) + f"there are {', '.join(SAMPLERS)}")
        pairs = tuple(sorted((name, values if isinstance(values, SearchRange) else tuple(values)) for name, values in dict(space).items()))
        for name, values in pairs:
            _check_values(name, values, sampler)
        attributes = {
            "space": pairs,
            "trials": trials,
            "metric": metric,
            "sampler": sampler,
            "prune": prune,
            "seed": seed,
            "processes": processes,
        }
        for name, value in attributes.items():
            object.__setattr__(self, name, value)

    def check(self, configs: Iterable[Parameter], metrics: Sequence[str], where: str) -> None:
        """Raise DefinitionError for a search that a model cannot run.

        Parameters
        ----------
        configs
            The ``dagster.Config`` parameters of the model's function.
        metrics
            The metrics of the model.
        where
            The model, named in the error message.

        Raises
        ------
        DefinitionError
            A name in the space is not a field of these configurations, or the metric of the search is not one of ``metrics``.
        """
        fields = sorted(name for config in configs for name in getattr(config.annotation, "model_fields", ()))
        if missing := [name for name, _ in self.space if name not in fields]:
            raise DefinitionError(
                f"{where} searches '{missing[0]}', which is not a field of its configuration",
                hint=suggest_name(missing[0], fields)
                + f"it has {', '.join(fields) or 'none: give the function a dagster.Config parameter'}",
            )
        if self.metric and self.metric not in metrics:
            raise DefinitionError(
                f"{where} searches by '{self.metric}', which is not a metric of the model",
                hint=f"name one of its metrics: {', '.join(metrics)}",
            )


def _check_values(name: str, values: SearchRange | tuple[Any, ...], sampler: str) -> None:
    if not isinstance(values, SearchRange) and not values:
        raise DefinitionError(f"the search of '{name}' has no value to choose from", hint="give at least one")
    if sampler == "grid" and isinstance(values, SearchRange) and values.step is None and not values.is_integer:
        raise DefinitionError(f"the grid over '{name}' has infinitely many values", hint="set step=, or list the values to choose from")
