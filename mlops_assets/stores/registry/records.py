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
        A hash of the training's inputs and of the candidate's predictions, which identifies the candidate.
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
    digest
        The digest of the candidate.
    relative
        Whether the gate compares with the champion.
    champion
        The digest of the champion in the comparison; ``""`` when there was none, or when the gate is not relative.
    value, threshold
        The number that the gate compares, and its bound; None for a gate without them.
    low, high
        The confidence interval of the value, or of its difference from the champion's for a relative gate; None without an interval.
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
        A state of :mod:`mlops_assets.compute.training.lifecycle`. Like aliases and approval, it is that of the registry's environment.
    aliases
        ``champion`` or ``challenger``, where the version has the alias.
    approval
        The last decision of a person: ``approved``, ``rejected``, or empty before a decision.
    damage
        The reason why the artifacts cannot be used; empty when they are intact.
    was_champion
        Whether the version is or was champion in the registry's environment.
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
    """The result of comparing a challenger with the champion on real requests; it counts as the result of a gate named ``kind``.

    Parameters
    ----------
    kind
        ``shadow`` (no client received the challenger's answers) or ``canary`` (the challenger answered a share of the requests).
    digest, champion
        The digests of the challenger and of the champion.
    rows
        The number of compared requests: those that both versions answered, or those with a label.
    value, low, high
        The difference of challenger and champion, and its confidence interval.
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
        """The result as :class:`Evidence` of a gate named ``kind``; the number of rows is appended to the reason."""
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
    """A record that the artifacts of a version are ``damaged``, or that they were ``restored``."""

    mark: str
    reason: str
    at: datetime


@dataclass(frozen=True)
class AliasEvent:
    """One move of an alias.

    Parameters
    ----------
    previous
        The version that had the alias before; None when no version had it.
    kind
        ``promotion``, ``rollback``, ``challenge`` or ``withdrawal``. A withdrawal removes the alias from ``version``.
    evidence
        The gate results that allowed the move, each a mapping with the fields of :class:`Evidence`.
    """

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
