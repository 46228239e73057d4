"""The model registry: candidates, evidence, immutable versions, moving aliases and their log."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import sqlalchemy as sa

from mlops_assets.errors import GateError, RegistryError, nearest
from mlops_assets.stores import schema, sql
from mlops_assets.stores.records import CHAMPION, PROMOTION, ROLLBACK, ROLLED_BACK, AliasEvent, Approval, CandidateRecord, Evidence, Version
from mlops_assets.values.names import checked_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Registry(Protocol):
    """Candidates are submitted with evidence, registered as versions, promoted to champion."""

    def submit(self, candidate: CandidateRecord, evidence: Sequence[Evidence]) -> None:
        """Make this the candidate of its model, with this evidence."""
        ...

    def candidate(self, model: str) -> tuple[CandidateRecord, tuple[Evidence, ...]] | None:
        """Return the candidate of a model and its evidence."""
        ...

    def register(self, model: str, gates: Mapping[str, str]) -> Version:
        """Register the candidate; every gate must have passed for exactly it."""
        ...

    def promote(  # noqa: PLR0913  (one transaction, described in full)
        self, model: str, gates: Mapping[str, str], *, actor: str, reason: str, version: int | None = None, approval: bool = False
    ) -> Version:
        """Make a version the champion, verifying every gate again."""
        ...

    def rollback(self, model: str, *, actor: str, reason: str, version: int | None = None) -> Version:
        """Make the champion before this one the champion again."""
        ...

    def approve(self, model: str, version: int, *, approved: bool, approver: str, reason: str) -> Approval:
        """Record what a person decided of a version."""
        ...

    def versions(self, model: str | None = None) -> list[Version]:
        """Return versions, oldest first."""
        ...

    def champion(self, model: str) -> Version | None:
        """Return the version that predicts, or None."""
        ...

    def history(self, model: str) -> list[AliasEvent]:
        """Return the moves of a model's aliases, oldest first."""
        ...


class SqlRegistry:
    """The registry in a database.

    Parameters
    ----------
    database
        Where.
    environment
        Separates candidates, evidence and aliases; versions are shared.
    """

    def __init__(self, database: sql.Database, environment: str = "dev") -> None:
        self._database = database
        self._environment = environment

    def submit(self, candidate: CandidateRecord, evidence: Sequence[Evidence]) -> None:
        """Make this the candidate of its model, with this evidence, in one transaction.

        Parameters
        ----------
        candidate
            Submitting it again changes nothing but the evidence.
        evidence
            Replaces what was known of this digest.

        Raises
        ------
        RegistryError
            Evidence names another digest.
        """
        checked_name(candidate.model, "a model")
        if other := [e.gate for e in evidence if e.digest != candidate.digest]:
            raise RegistryError(
                f"evidence of gate '{other[0]}' is about another candidate than {candidate.digest[:12]}",
                hint="judge the candidate that is submitted",
            )
        mine = {"environment": self._environment, "model": candidate.model, "digest": candidate.digest}
        with self._database.writing() as connection:
            known = sa.select(schema.candidates.c.digest).filter_by(model=candidate.model, digest=candidate.digest)
            if connection.execute(known).first() is None:
                connection.execute(
                    schema.candidates.insert().values(**asdict(candidate) | {"created_at": candidate.created_at.isoformat()})
                )
            connection.execute(schema.evidence.delete().filter_by(**mine))
            if evidence:
                connection.execute(schema.evidence.insert(), [self._evidence_row(candidate.model, e) for e in evidence])
            connection.execute(schema.waiting.delete().filter_by(environment=self._environment, model=candidate.model))
            connection.execute(schema.waiting.insert().values(**mine))

    def candidate(self, model: str) -> tuple[CandidateRecord, tuple[Evidence, ...]] | None:
        """Return the candidate of a model and its evidence; None before the first."""
        with self._database.reading() as connection:
            found = self._waiting(connection, model)
            return None if found is None else (found, self._evidence(connection, model, found.digest))

    def register(self, model: str, gates: Mapping[str, str]) -> Version:
        """Register the candidate as a version; the same candidate is always the same version.

        Parameters
        ----------
        model
            Its name.
        gates
            Gate → definition hash, as declared now.

        Raises
        ------
        RegistryError
            There is no candidate.
        GateError
            A gate was not evaluated, failed, or changed since, for exactly this candidate.
        """
        with self._database.writing() as connection:
            found = self._waiting(connection, model)
            if found is None:
                raise RegistryError(f"model '{model}' has no candidate", hint=f"materialise model/{model} first")
            self._verify(connection, model, found.digest, gates, "registered")
            old = connection.execute(sa.select(schema.versions.c.version).filter_by(model=model, digest=found.digest)).scalar()
            if old is None:
                last = connection.execute(sa.select(sa.func.max(schema.versions.c.version)).filter_by(model=model)).scalar()
                old = (last or 0) + 1
                row = {k: v for k, v in asdict(found).items() if k != "created_at"}
                connection.execute(schema.versions.insert().values(**row, version=old, created_at=sql.now()))
            return self._version(connection, model, old)

    def promote(  # noqa: PLR0913  (one transaction, described in full)
        self, model: str, gates: Mapping[str, str], *, actor: str, reason: str, version: int | None = None, approval: bool = False
    ) -> Version:
        """Make a version the champion, in one transaction; a champion stays as it is.

        Parameters
        ----------
        model, gates
            As in :meth:`register`; every gate is verified again, and a relative one must have met the champion of now.
        actor, reason
            For the log.
        version
            The newest registered one when None; one that was rolled back is promoted only when it is named.
        approval
            Whether a person must have approved exactly this version.

        Raises
        ------
        RegistryError
            There is no such version, or it was rolled back.
        GateError
            As in :meth:`register`, a gate compared with another champion, or nobody has approved.
        """
        with self._database.writing() as connection:
            newest = sa.select(sa.func.max(schema.versions.c.version)).filter_by(model=model)
            wanted = version if version is not None else connection.execute(newest).scalar()
            if wanted is None:
                raise RegistryError(f"model '{model}' has no registered version", hint=f"materialise version/{model} first")
            chosen = self._version(connection, model, wanted)
            current = self._champion(connection, model)
            if current is not None and current.version == wanted:
                return chosen
            if version is None and chosen.state == ROLLED_BACK:
                raise RegistryError(
                    f"version {wanted} of '{model}' was rolled back, and is not promoted by itself",
                    hint=f"train a better one, or say `mlops models promote {model} --version {wanted}`",
                )
            found = self._verify(connection, model, chosen.digest, gates, "promoted")
            self._verify_comparison(model, found, current)
            if approval and chosen.approval != "approved":
                raise GateError(
                    f"version {wanted} of '{model}' is {chosen.approval or 'not approved'}",
                    hint=f"materialise approval/{model}, or say `mlops models approve {model} {wanted} --approver NAME --reason WHY`",
                )
            return self._move(connection, chosen, current, PROMOTION, actor, reason, found)

    def rollback(self, model: str, *, actor: str, reason: str, version: int | None = None) -> Version:
        """Make an earlier champion the champion again, in one transaction.

        Parameters
        ----------
        model
            Its name.
        actor, reason
            For the log.
        version
            One that was champion in this environment; the one before the present champion when None.

        Raises
        ------
        RegistryError
            There is no champion, or the version never was one.
        """
        with self._database.writing() as connection:
            current = self._champion(connection, model)
            if current is None:
                raise RegistryError(f"model '{model}' has no champion in '{self._environment}'", hint="there is nothing to roll back")
            log = schema.alias_log
            mine = sa.select(log).filter_by(environment=self._environment, model=model, alias=CHAMPION).order_by(log.c.sequence.desc())
            events = connection.execute(mine).mappings().all()
            came = next(e for e in events if e["version"] == current.version and e["kind"] == PROMOTION)
            wanted = version if version is not None else came["previous"]
            held = sorted({e["version"] for e in events} - {current.version})
            if wanted not in held:
                raise RegistryError(
                    f"version {'none' if wanted is None else wanted} of '{model}' was not champion in '{self._environment}' before version {current.version}",
                    hint=f"earlier champions are {', '.join(map(str, held)) or 'none'}",
                )
            return self._move(connection, self._version(connection, model, wanted), current, ROLLBACK, actor, reason, ())

    def approve(self, model: str, version: int, *, approved: bool, approver: str, reason: str) -> Approval:
        """Record what a person decided of exactly one version, in this environment; the last word counts.

        Parameters
        ----------
        model, version
            What it is about.
        approved
            Whether it may be promoted.
        approver, reason
            Who decided, by their own word, and why.

        Raises
        ------
        RegistryError
            There is no such version, or nobody signed.
        """
        if not approver.strip() or not reason.strip():
            raise RegistryError(f"an approval of '{model}' version {version} needs a name and a reason", hint="say who decides, and why")
        with self._database.writing() as connection:
            chosen = self._version(connection, model, version)
            row = {"model": model, "environment": self._environment, "version": version, "digest": chosen.digest, "approved": approved}
            row |= {"approver": approver.strip(), "reason": reason.strip(), "at": sql.now()}
            connection.execute(schema.approvals.insert().values(**row))
            return Approval(**row | {"at": _time(row["at"])})  # type: ignore[arg-type]  # the keys are the fields

    def versions(self, model: str | None = None) -> list[Version]:
        """Return versions, oldest first; of every model when None."""
        query = sa.select(schema.versions.c.model, schema.versions.c.version).order_by(schema.versions.c.model, schema.versions.c.version)
        with self._database.reading() as connection:
            rows = connection.execute(query if model is None else query.filter_by(model=model)).all()
            return [self._version(connection, str(row[0]), int(row[1])) for row in rows]

    def champion(self, model: str) -> Version | None:
        """Return the version that predicts, or None before the first promotion."""
        with self._database.reading() as connection:
            return self._champion(connection, model)

    def history(self, model: str) -> list[AliasEvent]:
        """Return the moves of a model's aliases in every environment, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(schema.alias_log).filter_by(model=model).order_by(schema.alias_log.c.sequence)).mappings()
            return [
                AliasEvent(
                    **{k: v for k, v in row.items() if k not in ("sequence", "at", "evidence")},
                    evidence=tuple(row["evidence"]),
                    at=_time(row["at"]),
                )
                for row in rows
            ]

    def _evidence_row(self, model: str, item: Evidence) -> dict[str, Any]:
        return asdict(item) | {
            "environment": self._environment,
            "model": model,
            "value": sql.finite(item.value),
            "threshold": sql.finite(item.threshold),
            "low": sql.finite(item.low),
            "high": sql.finite(item.high),
        }

    def _waiting(self, connection: sa.Connection, model: str) -> CandidateRecord | None:
        query = sa.select(schema.candidates).join(
            schema.waiting,
            sa.and_(schema.waiting.c.model == schema.candidates.c.model, schema.waiting.c.digest == schema.candidates.c.digest),
        )
        query = query.where(schema.waiting.c.environment == self._environment, schema.waiting.c.model == model)
        row = connection.execute(query).mappings().first()
        return None if row is None else CandidateRecord(**{**row, "created_at": _time(row["created_at"])})

    def _evidence(self, connection: sa.Connection, model: str, digest: str) -> tuple[Evidence, ...]:
        rows = connection.execute(
            sa.select(schema.evidence).filter_by(environment=self._environment, model=model, digest=digest)
        ).mappings()
        return tuple(Evidence(**{k: v for k, v in row.items() if k not in ("environment", "model")}) for row in rows)

    def _verify(self, connection: sa.Connection, model: str, digest: str, gates: Mapping[str, str], what: str) -> tuple[Evidence, ...]:
        """Return the evidence for exactly this candidate, or refuse with every gate that lacks it."""
        found = {item.gate: item for item in self._evidence(connection, model, digest)}
        refused = [text for name, definition in gates.items() if (text := _refusal(name, definition, found.get(name)))]
        if refused:
            raise GateError(
                f"candidate {digest[:12]} of '{model}' cannot be {what}: {'; '.join(refused)}",
                hint=f"materialise model/{model} for a candidate that passes; the champion keeps serving",
            )
        return tuple(found[name] for name in gates)

    def _verify_comparison(self, model: str, found: Sequence[Evidence], current: Version | None) -> None:
        for item in found:
            if item.relative and item.champion != (current.digest if current else ""):
                raise GateError(
                    f"gate '{item.gate}' compared candidate {item.digest[:12]} of '{model}' with {item.champion[:12] or 'no champion'}, not with the champion of now",
                    hint=f"materialise model/{model} again: the candidate is then compared with the present champion",
                )

    def _move(  # noqa: PLR0913  (one row of the log)
        self,
        connection: sa.Connection,
        chosen: Version,
        current: Version | None,
        kind: str,
        actor: str,
        reason: str,
        found: Sequence[Evidence],
    ) -> Version:
        """Move the alias and write why into the log."""
        row = {"environment": self._environment, "model": chosen.model, "alias": CHAMPION}
        connection.execute(schema.aliases.delete().filter_by(**row))
        connection.execute(schema.aliases.insert().values(**row, version=chosen.version))
        log = {"kind": kind, "previous": current.version if current else None, "actor": actor, "reason": reason}
        connection.execute(
            schema.alias_log.insert().values(**row, version=chosen.version, **log, evidence=[asdict(e) for e in found], at=sql.now())
        )
        return self._version(connection, chosen.model, chosen.version)

    def _champion(self, connection: sa.Connection, model: str) -> Version | None:
        row = connection.execute(
            sa.select(schema.aliases.c.version).filter_by(environment=self._environment, model=model, alias=CHAMPION)
        ).scalar()
        return None if row is None else self._version(connection, model, row)

    def _version(self, connection: sa.Connection, model: str, version: int) -> Version:
        row = connection.execute(sa.select(schema.versions).filter_by(model=model, version=version)).mappings().first()
        if row is None:
            found: list[int] = list(connection.execute(sa.select(schema.versions.c.version).filter_by(model=model)).scalars())
            known = [str(number) for number in found]
            raise RegistryError(
                f"model '{model}' has no version {version}", hint=nearest(str(version), known) + f"it has {', '.join(known) or 'none'}"
            )
        mine = sa.select(schema.aliases.c.alias).filter_by(environment=self._environment, model=model, version=version)
        held: tuple[str, ...] = tuple(connection.execute(mine).scalars())
        state = CHAMPION if CHAMPION in held else self._past(connection, model, version)
        approval = self._approval(connection, model, version, row["digest"])
        return Version(**{**row, "created_at": _time(row["created_at"])}, state=state, aliases=held, approval=approval)

    def _past(self, connection: sa.Connection, model: str, version: int) -> str:
        """Return what became of a version that is not the champion."""
        log = schema.alias_log
        mine = sa.select(log.c.kind, log.c.previous).filter_by(environment=self._environment, model=model, alias=CHAMPION)
        last = connection.execute(
            mine.where(sa.or_(log.c.version == version, log.c.previous == version)).order_by(log.c.sequence.desc())
        ).first()
        if last is None:
            return "registered"
        return ROLLED_BACK if (last.kind, last.previous) == (ROLLBACK, version) else "archived"

    def _approval(self, connection: sa.Connection, model: str, version: int, digest: str) -> str:
        found = schema.approvals
        mine = sa.select(found.c.approved).filter_by(environment=self._environment, model=model, version=version, digest=digest)
        last = connection.execute(mine.order_by(found.c.sequence.desc())).first()
        return "" if last is None else "approved" if last.approved else "rejected"


def _refusal(name: str, definition: str, found: Evidence | None) -> str:
    if found is None:
        return f"gate '{name}' was never evaluated for it"
    if found.definition != definition:
        return f"gate '{name}' has changed since it was evaluated"
    return "" if found.passed else f"gate '{name}' failed ({found.reason})"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def open_registry(url: str, environment: str = "dev") -> SqlRegistry:
    """Open the registry at a SQLAlchemy URL."""
    return SqlRegistry(sql.database(url), environment)
