"""What the registry remembers, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

SHADOW, CANARY = "shadow", "canary"


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
        As in :mod:`mlops_assets.compute.training.lifecycle`, in this environment.
    approval
        ``approved``, ``rejected``, or empty when nobody has decided, in this environment.
    damage
        Why its artifacts cannot be used; empty when they can.
    was_champion
        Whether it is champion or was, in this environment.
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
    damage: str = ""
    was_champion: bool = False


@dataclass(frozen=True)
class LiveEvidence:
    """What was seen of a challenger beside the champion on real requests; counts like a gate's evidence, under the name of its kind.

    Parameters
    ----------
    kind
        ``shadow`` (answers nobody got) or ``canary`` (a share of the requests).
    digest, champion
        Who was compared with whom.
    rows
        Requests that both answered, or that have a label.
    value, low, high
        The difference, and its interval.
    """

    kind: str
    digest: str
    champion: str
    passed: bool
    reason: str
    rows: int
    value: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def evidence(self) -> Evidence:
        """The same as evidence of a gate."""
        reason = f"{self.reason} ({self.rows} rows)"
        return Evidence(
            self.kind,
            self.kind,
            self.digest,
            self.passed,
            relative=True,
            champion=self.champion,
            value=self.value,
            reason=reason,
            low=self.low,
            high=self.high,
        )


@dataclass(frozen=True)
class DamageMark:
    """What was found of a version's artifacts: ``damaged``, or ``restored`` since."""

    mark: str
    reason: str
    at: datetime


@dataclass(frozen=True)
class AliasEvent:
    """One move of an alias: a promotion, a rollback, a challenge or its withdrawal."""

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
