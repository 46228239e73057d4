"""What a check of the doctor reports: a finding with its state, advice and perhaps a fix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

OK, WARNING, FAILURE = "ok", "warning", "failure"


@dataclass(frozen=True)
class Finding:
    """One finding of a check.

    Parameters
    ----------
    check
        The name of the check.
    state
        ``ok``, ``warning`` or ``failure``.
    text
        What was found, with the name of the file, table or version.
    advice
        The repair that a person can do; with ``fix``, a description of the fix.
    fix
        A function that repairs the problem and returns what it did; None when only a person can repair it.
    """

    check: str
    state: str
    text: str
    advice: str = ""
    fix: Callable[[], str] | None = None

    @classmethod
    def failure(cls, check: str, text: str, advice: str) -> Finding:
        """Return a failure that only a person can repair."""
        return cls(check, FAILURE, text, advice)
