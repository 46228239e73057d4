"""States of a version and the moves that each state allows: pure functions of recorded facts.

::

    registered → gates passed → approved → challenger → champion → archived
                               rejected                          → rolled back      and from anywhere: damaged, until it is restored
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

REGISTERED, GATES_PASSED, APPROVED, REJECTED = "registered", "gates passed", "approved", "rejected"
CHALLENGER, CHAMPION, ARCHIVED, ROLLED_BACK, DAMAGED = "challenger", "champion", "archived", "rolled back", "damaged"
PROMOTION, ROLLBACK, CHALLENGE, WITHDRAWAL = "promotion", "rollback", "challenge", "withdrawal"
RESTORED = "restored"

STATES = (REGISTERED, GATES_PASSED, APPROVED, REJECTED, CHALLENGER, CHAMPION, ARCHIVED, ROLLED_BACK, DAMAGED)
# Move → the states that allow it. A rejected version makes no move until a person approves it; a damaged one can only be withdrawn.
ALLOWED: Mapping[str, frozenset[str]] = {
    PROMOTION: frozenset({REGISTERED, GATES_PASSED, APPROVED, CHALLENGER, ARCHIVED, ROLLED_BACK}),
    CHALLENGE: frozenset({REGISTERED, GATES_PASSED, APPROVED, ARCHIVED, ROLLED_BACK}),
    ROLLBACK: frozenset({APPROVED, GATES_PASSED, CHALLENGER, ARCHIVED, ROLLED_BACK}),
    WITHDRAWAL: frozenset({CHALLENGER, DAMAGED}),
}


_VERB_PHRASES = {
    PROMOTION: "be promoted",
    CHALLENGE: "become the challenger",
    ROLLBACK: "be restored by a rollback",
    WITHDRAWAL: "be withdrawn",
}


@dataclass(frozen=True)
class VersionFacts:
    """Recorded facts of one version in one environment.

    Parameters
    ----------
    aliases
        The aliases that point to the version.
    gates_passed
        Whether there is evidence, and all of it passed.
    approval
        ``approved``, ``rejected``, or empty.
    last_move
        The last move of the alias ``champion`` to or from the version: its kind, and True if the alias moved to the version.
        None if the version never was champion.
    mark
        The last mark of the version, ``damaged`` or ``restored``; empty without a mark.
    """

    aliases: tuple[str, ...] = ()
    gates_passed: bool = False
    approval: str = ""
    last_move: tuple[str, bool] | None = None
    mark: str = ""


def find_state(facts: VersionFacts) -> str:
    """Return the state of a version: damaged first, then its alias, a rejection, past moves, and last its approval or gates.

    Parameters
    ----------
    facts
        All recorded facts of the version.
    """
    if facts.mark == DAMAGED:
        return DAMAGED
    if held := next((alias for alias in (CHAMPION, CHALLENGER) if alias in facts.aliases), ""):
        return held
    if facts.approval == REJECTED:
        return REJECTED
    if facts.last_move is not None:
        return ROLLED_BACK if facts.last_move == (ROLLBACK, False) else ARCHIVED
    return facts.approval or (GATES_PASSED if facts.gates_passed else REGISTERED)


def explain_refusal(kind: str, state: str) -> str:
    """Return a clause that refuses a kind of move, such as "it cannot be promoted"; empty when the state allows the move."""
    return "" if state in ALLOWED[kind] else f"it cannot {_VERB_PHRASES[kind]}"
