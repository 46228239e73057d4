"""What the registry remembers, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

CHAMPION, ROLLED_BACK = "champion", "rolled back"
PROMOTION, ROLLBACK = "promotion", "rollback"


@dataclass(frozen=True)
class CandidateRecord:
    """A trained model that waits to be judged.

    Parameters
    ----------
    digest
        Identifies it by what it was trained on and what it predicts.
    artifact
        The sha256 of its manifest.
    snapshot
        The state of the lake it was trained on.
    """

    model: str
    digest: str
    run_id: str
    artifact: str
    snapshot: int
    created_at: datetime


@dataclass(frozen=True)
class Evidence:
    """What one gate found of one candidate; it counts for nothing else.

    Parameters
    ----------
    definition
        The hash of the gate as it was declared.
    relative
        Whether the gate compares with the champion.
    champion
        The digest of the champion it was compared with; ``""`` when there was none.
    low, high
        The interval of the difference that a relative gate looked at.
    """

    gate: str
    definition: str
    digest: str
    passed: bool
    relative: bool = False
    champion: str = ""
    value: float | None = None
    threshold: float | None = None
    reason: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Version:
    """A registered candidate; only its aliases move.

    Parameters
    ----------
    state
        ``registered``, ``champion``, ``archived`` (was champion) or ``rolled back``.
    approval
        ``approved``, ``rejected``, or empty when nobody has decided, in this environment.
    """

    model: str
    version: int
    digest: str
    run_id: str
    artifact: str
    snapshot: int
    created_at: datetime
    state: str
    aliases: tuple[str, ...] = ()
    approval: str = ""


@dataclass(frozen=True)
class AliasEvent:
    """One move of an alias, by a promotion or a rollback."""

    model: str
    environment: str
    alias: str
    version: int
    previous: int | None
    kind: str
    actor: str
    reason: str
    evidence: tuple[Mapping[str, Any], ...]
    at: datetime


@dataclass(frozen=True)
class Approval:
    """What a person decided of one version; the name is self-declared."""

    model: str
    environment: str
    version: int
    digest: str
    approved: bool
    approver: str
    reason: str
    at: datetime
