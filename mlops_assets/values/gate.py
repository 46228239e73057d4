"""A rule that a candidate must obey before it can be registered."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import ClassVar

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.rule import OneRule


@check_constructor
@dataclass(frozen=True)
class Gate(OneRule):
    """A bound on one metric of the holdout, absolute or relative to the champion.

    Parameters
    ----------
    metric
        A scikit-learn scorer name; greater is better.
    at_least
        The least value that passes.
    no_worse_than_champion_by
        How far below the champion, on the same rows, a candidate may stay.
    better_than_champion_by
        How far above the champion, on the same rows, a candidate must be.
    slice
        ``(column, value)``: judge only these rows. ``column``: the rule must hold for the rows of every value with enough of them.
    confidence
        Judge by the lower end of the interval at this confidence, of the difference from the champion (on the same rows) or of the
        metric, instead of by the figure itself.
    min_rows
        How many rows a value of ``slice`` must have to be judged.

    Raises
    ------
    DefinitionError
        Not exactly one rule is given, it is not finite, the confidence is not between 0 and 1, or ``min_rows`` is less than 1.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.Gate("roc_auc", at_least=0.65).name
    'roc_auc_at_least'
    """

    RULES: ClassVar = ("at_least", "no_worse_than_champion_by", "better_than_champion_by")

    metric: str
    at_least: float | None = None
    no_worse_than_champion_by: float | None = None
    better_than_champion_by: float | None = None
    slice: tuple[str, str] | str | None = None
    confidence: float | None = None
    min_rows: int = 100

    def __post_init__(self) -> None:
        """Require exactly one finite rule, and options that mean something."""
        what = f"a gate on '{self.metric}'"
        self._check_rule(what)
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise DefinitionError(f"{what} has the confidence {self.confidence}", hint="give a number between 0 and 1, such as 0.95")
        if self.min_rows < 1:
            raise DefinitionError(f"{what} has min_rows {self.min_rows}", hint="a slice with no row has no metric: give at least 1")

    @property
    def relative(self) -> bool:
        """Whether the gate compares with the champion."""
        return self.rule != "at_least"

    @property
    def slice_column(self) -> str:
        """The column whose values are judged apart; empty when all rows are judged together."""
        return self.slice if isinstance(self.slice, str) else self.slice[0] if self.slice else ""

    @property
    def name(self) -> str:
        """Metric, rule and slice: the name of the asset check."""
        within = f"every_{self.slice}" if isinstance(self.slice, str) else "_".join(self.slice or ())
        return "_".join(filter(None, (self.metric, self.rule.removesuffix("_by"), within.lower())))

    @property
    def definition(self) -> str:
        """A hash of everything the gate says: evidence for another definition does not count."""
        more = [self.confidence, self.min_rows if isinstance(self.slice, str) else None]
        # What says no more than gates of before keeps its hash, so that their evidence still counts.
        text = json.dumps([self.metric, self.rule, self.threshold, self.slice, *(more if any(more) else [])])
        return hashlib.sha256(text.encode()).hexdigest()
