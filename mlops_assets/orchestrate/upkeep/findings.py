"""What the doctor says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

OK, WARNING, FAILURE = "ok", "warning", "failure"


@dataclass(frozen=True)
class Finding:
    """One line.

    Parameters
    ----------
    check
        What was looked at.
    state
        ``ok``, ``warning`` or ``failure``.
    text
        What was found, naming the thing.
    advice
        What to do; with ``fix``, what that does.
    fix
        Mends it and says what it did; None when a person must.
    """

    check: str
    state: str
    text: str
    advice: str = ""
    fix: Callable[[], str] | None = None

    @classmethod
    def failed(cls, check: str, text: str, advice: str) -> Finding:
        """Return a failure that a person must mend."""
        return cls(check, FAILURE, text, advice)
