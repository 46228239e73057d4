"""The protocol of a model registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mlops_assets.stores.registry.alias_checks import ANY_VERSION

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

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
    """The interface of a registry, in which candidates are submitted with gate results, registered as versions and promoted to champion.

    A registry belongs to one environment. :class:`~mlops_assets.stores.registry.registry.SqlRegistry` documents parameters and errors.
    """

    def use_prompt_wording(self, evidence_steps: str) -> Registry:
        """Return the same registry with errors about prompts, which name the evaluations to materialise."""
        ...

    def submit(self, candidate: CandidateRecord, evidence: Sequence[Evidence], *, replace: Collection[str] | None = None) -> None:
        """Record a candidate with its evidence, and make it the current candidate of its model."""
        ...

    def candidate(self, model: str) -> tuple[CandidateRecord, tuple[Evidence, ...]] | None:
        """Return the current candidate of a model and its evidence; None before the first candidate."""
        ...

    def register(self, model: str, gates: Mapping[str, str]) -> Version:
        """Register the current candidate as a version; every gate must have passed for exactly this candidate."""
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
        """Verify every gate again, make a version the champion, and return it."""
        ...

    def rollback(self, model: str, *, actor: str, reason: str, version: int | None = None, expected: int | None = ANY_VERSION) -> Version:
        """Make an earlier champion the champion again and return it: ``version``, or the previous champion when None."""
        ...

    def challenge(  # noqa: PLR0913  (one transaction, described in full)
        self, model: str, gates: Mapping[str, str], *, version: int, actor: str, reason: str, expected: int | None = ANY_VERSION
    ) -> Version:
        """Verify every gate again, make a version the challenger, and return it."""
        ...

    def withdraw(self, model: str, *, actor: str, reason: str) -> Version:
        """Remove the alias of the challenger, and return the version that had it."""
        ...

    def observe(self, model: str, version: int, live: LiveEvidence) -> None:
        """Record evidence about a version from real requests; it replaces earlier evidence of its kind."""
        ...

    def mark(self, model: str, version: int, mark: str, reason: str) -> None:
        """Record that the artifacts of a version are ``damaged``, or that they are ``restored``."""
        ...

    def approve(self, model: str, version: int, *, approved: bool, approver: str, reason: str) -> ApprovalDecision:
        """Record and return the decision of a person about a version."""
        ...

    def versions(self, model: str | None = None) -> list[Version]:
        """Return the versions of a model, or of every model when None, sorted by model and version."""
        ...

    def champion(self, model: str) -> Version | None:
        """Return the champion, which serves predictions; None before the first promotion."""
        ...

    def challenger(self, model: str) -> Version | None:
        """Return the challenger; None when there is none."""
        ...

    def evidence(self, model: str, digest: str) -> tuple[Evidence, ...]:
        """Return the evidence about one candidate in this environment."""
        ...

    def approvals(self, model: str, version: int) -> list[ApprovalDecision]:
        """Return every decision on a version in every environment, oldest first."""
        ...

    def marks(self, model: str, version: int) -> list[DamageMark]:
        """Return every mark of a version, oldest first."""
        ...

    def history(self, model: str) -> list[AliasEvent]:
        """Return the moves of a model's aliases in every environment, oldest first."""
        ...
