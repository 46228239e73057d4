"""The protocol of a model registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mlops_assets.stores.registry.alias_checks import ANY_VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_assets.stores.registry.records import (
        AliasEvent,
        ApprovalDecision,
        CandidateRecord,
        DamageMark,
        Evidence,
        LiveEvidence,
        Version,
    )


class Registry(Protocol):
    """The interface of a registry, in which candidates are submitted with evidence, registered as versions and promoted to champion."""

    def submit(self, candidate: CandidateRecord, evidence: Sequence[Evidence]) -> None:
        """Submit the candidate of a model with its evidence."""
        ...

    def candidate(self, model: str) -> tuple[CandidateRecord, tuple[Evidence, ...]] | None:
        """Return the candidate of a model and its evidence."""
        ...

    def register(self, model: str, gates: Mapping[str, str]) -> Version:
        """Register the candidate as a version; every gate must have passed for exactly this candidate."""
        ...

    def promote(  # noqa: PLR0913  (one transaction, described in full)
        self,
        model: str,
        gates: Mapping[str, str],
        *,
        actor: str,
        reason: str,
        version: int | None = None,
        approval: bool = False,
        expected: int | None = ANY_VERSION,
        source: str = "",
    ) -> Version:
        """Make a version the champion, verifying every gate again."""
        ...

    def rollback(self, model: str, *, actor: str, reason: str, version: int | None = None, expected: int | None = ANY_VERSION) -> Version:
        """Make an earlier champion the champion again: ``version``, or the previous champion when None."""
        ...

    def challenge(  # noqa: PLR0913  (one transaction, described in full)
        self, model: str, gates: Mapping[str, str], *, version: int, actor: str, reason: str, expected: int | None = ANY_VERSION
    ) -> Version:
        """Make a version the challenger."""
        ...

    def withdraw(self, model: str, *, actor: str, reason: str) -> Version:
        """Remove the alias of the challenger."""
        ...

    def observe(self, model: str, version: int, live: LiveEvidence) -> None:
        """Record evidence about a version from real requests."""
        ...

    def mark(self, model: str, version: int, mark: str, reason: str) -> None:
        """Record that the artifacts of a version are damaged, or that they are restored."""
        ...

    def approve(self, model: str, version: int, *, approved: bool, approver: str, reason: str) -> ApprovalDecision:
        """Record the decision of a person about a version."""
        ...

    def versions(self, model: str | None = None) -> list[Version]:
        """Return versions, oldest first."""
        ...

    def champion(self, model: str) -> Version | None:
        """Return the champion, which serves predictions, or None."""
        ...

    def challenger(self, model: str) -> Version | None:
        """Return the challenger, or None."""
        ...

    def evidence(self, model: str, digest: str) -> tuple[Evidence, ...]:
        """Return the evidence about one candidate."""
        ...

    def approvals(self, model: str, version: int) -> list[ApprovalDecision]:
        """Return every decision on a version, oldest first."""
        ...

    def marks(self, model: str, version: int) -> list[DamageMark]:
        """Return every mark of a version, oldest first."""
        ...

    def history(self, model: str) -> list[AliasEvent]:
        """Return the moves of a model's aliases, oldest first."""
        ...
