"""The records of the registry, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

SHADOW, CANARY = "shadow", "canary"


@dataclass(frozen=True)
class CandidateRecord:
    """A trained model that has been submitted to the registry.

    Parameters
    ----------
    digest
        Identifies it by what it was trained on and what it predicts.
    artifact
        The sha256 of the candidate's manifest.
    snapshot
        The snapshot of the lake with the training data.
    """

    model: str
    digest: str
    run_id: str
    artifact: str
    snapshot: int
    created_at: datetime


@dataclass(frozen=True)
class Evidence:
    """The result of one gate for exactly one candidate.

    Parameters
    ----------
    definition
        The hash of the gate as it was declared.
    relative
        Whether the gate compares with the champion.
    champion
        The digest of the champion in the comparison; ``""`` when there was none.
    low, high
        The confidence interval of the difference, for a relative gate.
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
    """A registered candidate. It never changes; only aliases move between versions.

    Parameters
    ----------
    state
        As in :mod:`mlops_assets.compute.training.lifecycle`, in this environment.
    approval
        ``approved``, ``rejected``, or empty before a decision, in this environment.
    damage
        The reason why the artifacts cannot be used; empty when they are intact.
    was_champion
        Whether the version is or was champion in this environment.
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
    """The result of comparing a challenger with the champion on real requests; it counts as a gate that is named by ``kind``.

    Parameters
    ----------
    kind
        ``shadow`` (answers that no client received) or ``canary`` (a share of the requests).
    digest, champion
        The two candidates that were compared.
    rows
        The number of requests that both answered, or that have a label.
    value, low, high
        The difference and its confidence interval.
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
        """The same facts as :class:`Evidence` of a gate."""
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
    """A record that a version's artifacts are ``damaged``, or were ``restored`` later."""

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
class ApprovalDecision:
    """The decision of a person about one version; the name of the person is self-declared."""

    model: str
    environment: str
    version: int
    digest: str
    approved: bool
    approver: str
    reason: str
    at: datetime
