"""The registry's operations on candidates and versions that move no alias: submit, register, observe, mark and approve."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

import sqlalchemy as sa

from mlops_assets.compute.training.lifecycle import DAMAGED
from mlops_assets.errors import GateError, RegistryError
from mlops_assets.stores.database import schema, sql
from mlops_assets.stores.database.cached_statements import build_delete, build_insert, build_insert_if_new, build_upsert
from mlops_assets.stores.registry import version_queries
from mlops_assets.stores.registry.records import (
    CANARY,
    SHADOW,
    ApprovalDecision,
    CandidateRecord,
    DamageMark,
    Evidence,
    LiveEvidence,
    Version,
)
from mlops_assets.stores.registry.wording import MODEL_WORDING, Wording
from mlops_assets.values.names import validate_name

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

_DELETE_GATE_EVIDENCE = build_delete(schema.evidence, "environment", "model", "digest").where(
    schema.evidence.c.gate.not_in((SHADOW, CANARY))  # evidence from real requests stays
)
_CURRENT_CANDIDATE = (
    sa.select(schema.candidates)
    .join(
        schema.waiting,
        sa.and_(schema.waiting.c.model == schema.candidates.c.model, schema.waiting.c.digest == schema.candidates.c.digest),
    )
    .where(schema.waiting.c.environment == sa.bindparam("environment"), schema.waiting.c.model == sa.bindparam("model"))
)
_VERSION_NUMBERS = sa.select(  # the version of a candidate that is registered already, and the newest version of its model
    sa.select(schema.versions.c.version)
    .where(schema.versions.c.model == sa.bindparam("model"), schema.versions.c.digest == sa.bindparam("digest"))
    .scalar_subquery(),
    sa.select(sa.func.max(schema.versions.c.version)).where(schema.versions.c.model == sa.bindparam("model")).scalar_subquery(),
)


class Registrations:
    """The operations of the registry that move no alias.

    Parameters
    ----------
    database
        The database of the platform.
    environment
        The environment. Each has its own candidates, evidence and approvals; all share the versions.
    wording
        The words of errors.
    """

    def __init__(self, database: sql.Database, environment: str = "dev", wording: Wording = MODEL_WORDING) -> None:
        self._database = database
        self._environment = environment
        self._wording = wording

    def use_prompt_wording(self, evidence_steps: str) -> Self:
        """Return the same registry with errors about prompts instead of models.

        Parameters
        ----------
        evidence_steps
            The evaluations of the prompt, which hints name; empty for none.
        """
        return type(self)(self._database, self._environment, Wording("prompt", evidence_steps))

    def submit(self, candidate: CandidateRecord, evidence: Sequence[Evidence], *, replace: Collection[str] | None = None) -> None:
        """Record a candidate with its evidence, and make it the current candidate of its model, in one transaction.

        Parameters
        ----------
        candidate
            The candidate. A candidate that is submitted again keeps its first record; with ``replace``, it gets the new run.
        evidence
            The results of the gates. They replace earlier results about this candidate, except evidence from real requests.
        replace
            The gates whose earlier results are replaced, when other steps submit the results of other gates; None replaces those of all
            gates.

        Raises
        ------
        RegistryError
            Evidence names another digest.
        DefinitionError
            The model's name is invalid.
        """
        validate_name(candidate.model, "a model")
        if foreign := [e.gate for e in evidence if e.digest != candidate.digest]:
            raise RegistryError(
                f"evidence of gate '{foreign[0]}' is about another candidate than {candidate.digest[:12]}",
                hint="evaluate the gates for the submitted candidate",
            )
        key = {"environment": self._environment, "model": candidate.model, "digest": candidate.digest}
        with self._database.write_transaction() as connection:
            row = vars(candidate) | {"created_at": candidate.created_at.isoformat()}
            connection.execute(build_insert_if_new(schema.candidates), row)
            if replace is not None:  # the same prompt, evaluated again: its version should name the evaluation that passed
                facts = {name: row[name] for name in ("run_id", "artifact", "snapshot")}
                connection.execute(schema.candidates.update().filter_by(model=candidate.model, digest=candidate.digest).values(**facts))
            if replace is None:
                connection.execute(_DELETE_GATE_EVIDENCE, key)
            elif replace:
                connection.execute(schema.evidence.delete().filter_by(**key).where(schema.evidence.c.gate.in_(sorted(replace))))
            if evidence:
                connection.execute(build_insert(schema.evidence), [self._evidence_row(candidate.model, e) for e in evidence])
            connection.execute(build_upsert(schema.waiting), key)

    def candidate(self, model: str) -> tuple[CandidateRecord, tuple[Evidence, ...]] | None:
        """Return the current candidate of a model in this environment, and its evidence; None before the first candidate."""
        with self._database.read_transaction() as connection:
            record = self._candidate(connection, model)
            return None if record is None else (record, version_queries.evidence(connection, self._environment, model, record.digest))

    def register(self, model: str, gates: Mapping[str, str]) -> Version:
        """Register the current candidate as a version; registering the candidate again returns the same version.

        Parameters
        ----------
        model
            The name of the model.
        gates
            Gate → hash of its current definition.

        Raises
        ------
        RegistryError
            There is no candidate.
        GateError
            A gate was not evaluated for exactly this candidate, failed, or has changed since its evaluation.
        """
        with self._database.write_transaction() as connection:
            record = self._candidate(connection, model)
            if record is None:
                raise RegistryError(
                    f"{self._wording.noun} '{model}' has no candidate", hint=self._wording.describe_next_step(model, "first")
                )
            evidence_found = version_queries.evidence(connection, self._environment, model, record.digest)
            self._refuse_unproven(model, record.digest, evidence_found, gates, "registered")
            candidate_key = {"model": model, "digest": record.digest}
            numbers: Any = connection.execute(_VERSION_NUMBERS, candidate_key).one()
            registered, newest = numbers
            if registered is not None:
                return self._version(connection, model, registered)
            number, at = (newest or 0) + 1, sql.timestamp()
            connection.execute(build_insert(schema.versions), {**vars(record), "version": number, "created_at": at})
            return version_queries.new_version(record, number, at, evidence_found)

    def observe(self, model: str, version: int, live: LiveEvidence) -> None:
        """Record evidence about a version from real requests; it replaces earlier evidence of its kind in this environment.

        Parameters
        ----------
        model, version
            The version.
        live
            The evidence, of the kind ``shadow`` or ``canary``.

        Raises
        ------
        RegistryError
            There is no such version, or the evidence is of a kind other than these or about another digest.
        """
        with self._database.write_transaction() as connection:
            chosen = self._version(connection, model, version)
            if live.kind not in (SHADOW, CANARY) or live.digest != chosen.digest:
                raise RegistryError(
                    f"evidence of '{live.kind}' is about candidate {live.digest[:12]}, but version {version} of '{model}' is candidate {chosen.digest[:12]}",
                    hint=f"give evidence of {SHADOW} or {CANARY} about exactly this version",
                )
            row = self._evidence_row(model, live.evidence)
            key = {name: row[name] for name in ("environment", "model", "digest", "gate")}
            connection.execute(schema.evidence.delete().filter_by(**key))
            connection.execute(schema.evidence.insert().values(**row))

    def mark(self, model: str, version: int, mark: str, reason: str) -> None:
        """Record that the artifacts of a version are damaged or restored; a repeated mark is not recorded again.

        Parameters
        ----------
        model, version
            The version. The mark applies in every environment.
        mark
            ``damaged`` or ``restored``.
        reason
            The reason for the mark, such as the damage that was found.

        Raises
        ------
        RegistryError
            There is no such version.
        """
        with self._database.write_transaction() as connection:
            damaged = bool(self._version(connection, model, version).damage)
            if damaged is not (mark == DAMAGED):
                row = {"model": model, "version": version, "mark": mark, "reason": reason, "at": sql.timestamp()}
                connection.execute(schema.version_marks.insert().values(**row))

    def approve(self, model: str, version: int, *, approved: bool, approver: str, reason: str) -> ApprovalDecision:
        """Record the decision of a person about exactly one version, in this environment; the last decision counts.

        Parameters
        ----------
        model, version
            The version.
        approved
            Whether the version may be promoted.
        approver, reason
            The self-declared name of the person, and the reason; white space at their ends is removed.

        Raises
        ------
        RegistryError
            There is no such version, or the name or reason is empty.
        """
        if not approver.strip() or not reason.strip():
            raise RegistryError(
                f"an approval of '{model}' version {version} needs a name and a reason",
                hint="pass the name of the person who decides, and why",
            )
        with self._database.write_transaction() as connection:
            chosen = self._version(connection, model, version)
            row = {"model": model, "environment": self._environment, "version": version, "digest": chosen.digest, "approved": approved}
            row |= {"approver": approver.strip(), "reason": reason.strip(), "at": sql.timestamp()}
            connection.execute(schema.approvals.insert().values(**row))
            return ApprovalDecision(**row | {"at": _parse_time(row["at"])})  # type: ignore[arg-type]  # the keys are the fields

    def evidence(self, model: str, digest: str) -> tuple[Evidence, ...]:
        """Return the evidence about one candidate in this environment."""
        with self._database.read_transaction() as connection:
            return version_queries.evidence(connection, self._environment, model, digest)

    def approvals(self, model: str, version: int) -> list[ApprovalDecision]:
        """Return every decision on a version in every environment, oldest first."""
        with self._database.read_transaction() as connection:
            return version_queries.approvals(connection, model, version)

    def marks(self, model: str, version: int) -> list[DamageMark]:
        """Return every mark of a version, oldest first."""
        with self._database.read_transaction() as connection:
            return version_queries.marks(connection, model, version)

    def _evidence_row(self, model: str, item: Evidence) -> dict[str, Any]:
        return vars(item) | {
            "environment": self._environment,
            "model": model,
            "value": sql.finite_or_none(item.value),
            "threshold": sql.finite_or_none(item.threshold),
            "low": sql.finite_or_none(item.low),
            "high": sql.finite_or_none(item.high),
        }

    def _candidate(self, connection: sa.Connection, model: str) -> CandidateRecord | None:
        row = connection.execute(_CURRENT_CANDIDATE, {"environment": self._environment, "model": model}).mappings().first()
        return None if row is None else CandidateRecord(**{**row, "created_at": _parse_time(row["created_at"])})

    def _verify(self, connection: sa.Connection, model: str, digest: str, gates: Mapping[str, str], outcome: str) -> tuple[Evidence, ...]:
        """Read the evidence of a candidate in this environment, and check and return it as :meth:`_refuse_unproven` does."""
        return self._refuse_unproven(model, digest, version_queries.evidence(connection, self._environment, model, digest), gates, outcome)

    def _refuse_unproven(
        self, model: str, digest: str, evidence_found: Sequence[Evidence], gates: Mapping[str, str], outcome: str
    ) -> tuple[Evidence, ...]:
        """Return the evidence of each gate, in the order of ``gates``; raise GateError that names every gate that has not passed.

        ``gates`` maps each gate to the hash of its current definition; evidence for another definition does not count.
        """
        by_gate = {item.gate: item for item in evidence_found}
        refused = [text for name, definition in gates.items() if (text := _refusal_reason(name, definition, by_gate.get(name)))]
        if refused:
            raise GateError(
                f"candidate {digest[:12]} of '{model}' cannot be {outcome}: {'; '.join(refused)}",
                hint=self._wording.describe_next_step(model, "for a candidate that passes; the champion keeps serving"),
            )
        return tuple(by_gate[name] for name in gates)

    def _version(self, connection: sa.Connection, model: str, version: int) -> Version:
        return version_queries.version(connection, self._environment, model, version, self._wording.noun)


def _refusal_reason(name: str, definition: str, evidence: Evidence | None) -> str:
    """Return why a gate's evidence does not allow a candidate to pass; empty when it does."""
    if evidence is None:
        return f"gate '{name}' was never evaluated for it"
    if evidence.definition != definition:
        return f"gate '{name}', or what it reads, has changed since it was evaluated"
    return "" if evidence.passed else f"gate '{name}' failed ({evidence.reason})"


def _parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text)
