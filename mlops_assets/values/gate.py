"""A rule that a candidate must obey before it can be registered."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import ClassVar

from mlops_assets.values.rule import OneRule


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
        ``(column, value)``: judge only these rows.

    Raises
    ------
    DefinitionError
        Not exactly one rule is given, or it is not finite.

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
    slice: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        """Require exactly one finite rule."""
        self._check_rule(f"a gate on '{self.metric}'")

    @property
    def relative(self) -> bool:
        """Whether the gate compares with the champion."""
        return self.rule != "at_least"

    @property
    def name(self) -> str:
        """Metric, rule and slice: the name of the asset check."""
        within = f"_{self.slice[0]}_{self.slice[1]}".lower() if self.slice else ""
        return f"{self.metric}_{self.rule.removesuffix('_by')}{within}"

    @property
    def definition(self) -> str:
        """A hash of everything the gate says: evidence for another definition does not count."""
        text = json.dumps([self.metric, self.rule, self.threshold, self.slice])
        return hashlib.sha256(text.encode()).hexdigest()
