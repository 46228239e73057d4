"""The base class of gates and expectations that declare exactly one of several rules."""

from __future__ import annotations

import math
from typing import ClassVar

from mlops_assets.errors import DefinitionError


class OneRule:
    """A finite bound, declared as the value of exactly one of the attributes ``RULES``; the others are None."""

    RULES: ClassVar[tuple[str, ...]]

    @property
    def rule(self) -> str:
        """The name of the declared rule."""
        return next(rule for rule in self.RULES if getattr(self, rule) is not None)

    @property
    def threshold(self) -> float:
        """The bound of the declared rule."""
        return float(getattr(self, self.rule))

    def _check_rule(self, what: str) -> None:
        """Raise DefinitionError unless exactly one rule is given, with a finite bound."""
        rules = [rule for rule in self.RULES if getattr(self, rule) is not None]
        if len(rules) != 1:
            raise DefinitionError(f"{what} has {len(rules)} rules", hint=f"give exactly one of {', '.join(self.RULES)}")
        if not math.isfinite(self.threshold):
            raise DefinitionError(f"{what} has the bound {self.threshold}", hint="give a finite number")
