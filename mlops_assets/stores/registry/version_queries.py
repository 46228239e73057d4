"""Read versions and their current state. One version takes one query; all versions take one query for each kind of fact."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mlops_assets.compute.training.lifecycle import APPROVED, CHALLENGER, CHAMPION, DAMAGED, REJECTED, VersionFacts, find_state
from mlops_assets.errors import RegistryError, suggest_name
from mlops_assets.stores.database import schema
from mlops_assets.stores.database.cached_statements import build_select
from mlops_assets.stores.registry.records import AliasEvent, ApprovalDecision, CandidateRecord, DamageMark, Evidence, Version
from mlops_assets.values.asset_names import build_graph_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Key = tuple[str, int]


def versions(connection: sa.Connection, environment: str, model: str | None = None) -> list[Version]:
    """Return versions with their state in an environment, sorted by model and version.

    Parameters
    ----------
    connection
        A connection in a transaction, so that all queries see one state of the database.
    environment
        The environment whose aliases, approvals and evidence count.
    model
        The model; every model when None.
    """
    names, values = (() if model is None else ("model",)), ({} if model is None else {"model": model})
    parameters = {"environment": environment, **values}
    aliases = _group_aliases(connection.execute(build_select(schema.aliases, "environment", *names), parameters).all())
    moves = _last_moves(connection.execute(_alias_log_query(*names), parameters).all())
    approvals = {
        (row.model, row.version, row.digest): APPROVED if row.approved else REJECTED
        for row in connection.execute(build_select(schema.approvals, "environment", *names), parameters).all()
    }
    marks = {
        (row.model, row.version): (row.mark, row.reason) for row in connection.execute(build_select(schema.version_marks, *names), values)
    }
    touched = {*aliases, *moves, *marks, *((model_, number) for model_, number, _ in approvals)}
    unmoved_states = {passed: _derive_state((), passed == 1, "", None, "") for passed in (None, 0, 1)}
    result, rows = [], list[Any](connection.execute(_versions_query(*names), parameters).all())
    for model_, number, digest, run_id, artifact, snapshot, created_at, passed in rows:
        created, key = datetime.fromisoformat(created_at), (model_, number)
        if key not in touched:  # the usual case: only gates are recorded
            result.append(Version(model_, number, digest, run_id, artifact, snapshot, created, unmoved_states[passed]))
            continue
        mark, reason = marks.get(key, ("", ""))
        own_aliases, move, approval = aliases.get(key, ()), moves.get(key), approvals.get((model_, number, digest), "")
        state, damage, was = (
            _derive_state(own_aliases, passed == 1, approval, move, mark),
            reason if mark == DAMAGED else "",
            move is not None or CHAMPION in own_aliases,
        )
        result.append(Version(model_, number, digest, run_id, artifact, snapshot, created, state, own_aliases, approval, damage, was))
    return result


def version(connection: sa.Connection, environment: str, model: str, number: int, noun: str = "model") -> Version:
    """Return one version with its state in an environment, by one query; ``noun`` is for the error.

    Raises
    ------
    RegistryError
        There is no such version.
    """
    row = connection.execute(_VERSION, {"environment": environment, "model": model, "version": number}).mappings().first()
    if row is not None:
        aliases = tuple(alias for alias in (CHALLENGER, CHAMPION) if row[alias])
        move = None if row["move"] is None else (row["move"], row["moved_to"] == number)
        approval = _approval_text(row["approved"])
        facts = VersionFacts(aliases, bool(row["passed"]), approval, move, row["mark"] or "")
        was = CHAMPION in aliases or move is not None
        return _build_version(row, find_state(facts), aliases, approval, row["why"] if row["mark"] == DAMAGED else "", was_champion=was)
    numbers = [str(known_row.version) for known_row in connection.execute(build_select(schema.versions, "model"), {"model": model})]
    if not numbers:
        raise RegistryError(f"{noun} '{model}' has no registered version", hint=f"materialise {build_graph_key(f'version/{model}')} first")
    raise RegistryError(
        f"{noun} '{model}' has no version {number}", hint=suggest_name(str(number), numbers) + f"it has {', '.join(numbers)}"
    )


def new_version(candidate: CandidateRecord, number: int, at: str, evidence: Sequence[Evidence]) -> Version:
    """Return the version that this transaction has registered, without a query: only evidence is recorded about it yet."""
    state = _derive_state((), bool(evidence) and all(item.passed for item in evidence), "", None, "")
    created = datetime.fromisoformat(at)
    return Version(candidate.model, number, candidate.digest, candidate.run_id, candidate.artifact, candidate.snapshot, created, state)


def newest_number(connection: sa.Connection, model: str) -> int | None:
    """Return the number of the newest version of a model; None before the first version."""
    number: int | None = connection.execute(_NEWEST, {"model": model}).scalar()
    return number


def champion(connection: sa.Connection, environment: str, model: str) -> Version | None:
    """Return the champion of an environment with its state; None when there is none. One query, because services ask often."""
    row = connection.execute(_CHAMPION, {"environment": environment, "model": model}).mappings().first()
    if row is None:
        return None
    approval = _approval_text(row["approved"])
    damage = row["why"] if row["mark"] == DAMAGED else ""
    return _build_version(row, DAMAGED if damage else CHAMPION, (CHAMPION,), approval, damage, was_champion=True)


def alias_holder(connection: sa.Connection, environment: str, model: str, alias: str) -> Version | None:
    """Return the version that has an alias in an environment; None when none has it."""
    values = {"environment": environment, "model": model, "alias": alias}
    row = connection.execute(build_select(schema.aliases, *values), values).first()
    return None if row is None else version(connection, environment, model, row.version)


def alias_events(connection: sa.Connection, model: str) -> list[AliasEvent]:
    """Return the moves of a model's aliases in every environment, oldest first."""
    log = schema.alias_log
    rows = connection.execute(sa.select(log).filter_by(model=model).order_by(log.c.sequence)).mappings()
    omitted = ("sequence", "at", "evidence")
    return [
        AliasEvent(
            **{k: v for k, v in row.items() if k not in omitted}, evidence=tuple(row["evidence"]), at=datetime.fromisoformat(row["at"])
        )
        for row in rows
    ]


def evidence(connection: sa.Connection, environment: str, model: str, digest: str) -> tuple[Evidence, ...]:
    """Return the evidence about one candidate in an environment."""
    values = {"environment": environment, "model": model, "digest": digest}
    rows = connection.execute(build_select(schema.evidence, *values), values).mappings()
    return tuple(Evidence(**{k: v for k, v in row.items() if k not in ("environment", "model")}) for row in rows)


def approvals(connection: sa.Connection, model: str, number: int) -> list[ApprovalDecision]:
    """Return every decision on a version in every environment, oldest first."""
    table = schema.approvals
    rows = connection.execute(sa.select(table).filter_by(model=model, version=number).order_by(table.c.sequence)).mappings()
    omitted = ("sequence", "at")
    return [ApprovalDecision(**{k: v for k, v in row.items() if k not in omitted}, at=datetime.fromisoformat(row["at"])) for row in rows]


def marks(connection: sa.Connection, model: str, number: int) -> list[DamageMark]:
    """Return every mark of a version, oldest first."""
    table = schema.version_marks
    rows = connection.execute(sa.select(table).filter_by(model=model, version=number).order_by(table.c.sequence)).mappings()
    return [DamageMark(row["mark"], row["reason"], datetime.fromisoformat(row["at"])) for row in rows]


def _build_version(  # noqa: PLR0913  (facts of one version)
    row: Mapping[Any, Any], state: str, aliases: tuple[str, ...], approval: str, damage: str, *, was_champion: bool
) -> Version:
    columns = {name: row[name] for name in ("model", "version", "digest", "run_id", "artifact", "snapshot")}
    created = datetime.fromisoformat(row["created_at"])
    return Version(**columns, created_at=created, state=state, aliases=aliases, approval=approval, damage=damage, was_champion=was_champion)


def _approval_text(approved: bool | None) -> str:  # noqa: FBT001
    return "" if approved is None else APPROVED if approved else REJECTED


def _group_aliases(rows: Iterable[Any]) -> dict[Key, tuple[str, ...]]:
    """Return version → its aliases, sorted."""
    by_version: dict[Key, tuple[str, ...]] = {}
    for row in rows:
        key = (row.model, row.version)
        by_version[key] = tuple(sorted((*by_version.get(key, ()), row.alias)))
    return by_version


def _last_moves(rows: Iterable[Any]) -> dict[Key, tuple[str, bool]]:
    """Return version → the last move of the champion's alias to or from it: the kind of move, and whether it was to the version."""
    moves = {}
    for model, version_, previous, kind in rows:
        moves[model, version_] = (kind, True)
        if previous is not None and previous != version_:
            moves[model, previous] = (kind, False)
    return moves


def _derive_state(aliases: tuple[str, ...], passed: bool, approval: str, move: tuple[str, bool] | None, mark: str) -> str:  # noqa: FBT001
    return find_state(VersionFacts(aliases, passed, approval, move, mark))


@cache
def _versions_query(*names: str) -> sa.Select[Any]:
    """Return the query for the versions whose columns ``names`` have given values, sorted by model and version.

    The last column is 1 if every gate passed in an environment, 0 if a gate failed, and null if no gate was evaluated.
    """
    table, evidence_table = schema.versions, schema.evidence
    judged = (
        evidence_table.c.environment == sa.bindparam("environment"),
        evidence_table.c.model == table.c.model,
        evidence_table.c.digest == table.c.digest,
    )
    passed = sa.select(sa.func.min(sa.cast(evidence_table.c.passed, sa.Integer))).where(*judged).correlate(table).scalar_subquery()
    values = (table.c[n] == sa.bindparam(n) for n in names)
    return sa.select(table, passed).where(*values).order_by(table.c.model, table.c.version)


@cache
def _alias_log_query(*names: str) -> sa.Select[Any]:
    """Return the query for the moves of the champion's alias in an environment, oldest first, without evidence."""
    log = schema.alias_log
    values = (log.c[n] == sa.bindparam(n) for n in ("environment", *names))
    return (
        sa.select(log.c.model, log.c.version, log.c.previous, log.c.kind).where(*values, log.c.alias == CHAMPION).order_by(log.c.sequence)
    )


def _newest_value(column: sa.Column[Any], *where: sa.ColumnElement[bool]) -> sa.ScalarSelect[Any]:
    """Return the subquery for a column of the newest row that matches every condition."""
    return sa.select(column).where(*where).order_by(column.table.c.sequence.desc()).limit(1).scalar_subquery()


def _version_query() -> sa.Select[Any]:
    """Return the query for one version with every fact that decides its state."""
    version, log, approval = schema.versions, schema.alias_log, schema.approvals
    environment: sa.BindParameter[str] = sa.bindparam("environment")
    model: sa.BindParameter[str] = sa.bindparam("model")
    number: sa.BindParameter[int] = sa.bindparam("version")
    moved = (
        log.c.environment == environment,
        log.c.model == model,
        log.c.alias == CHAMPION,
        sa.or_(log.c.version == number, log.c.previous == number),
    )
    reviewed = (approval.c.environment == environment, approval.c.model == model, approval.c.version == number)
    marked = (schema.version_marks.c.model == model, schema.version_marks.c.version == number)
    evidence_table = schema.evidence
    judged = (evidence_table.c.environment == environment, evidence_table.c.model == model, evidence_table.c.digest == version.c.digest)
    holds = {
        alias: sa.exists().where(
            schema.aliases.c.environment == environment,
            schema.aliases.c.model == model,
            schema.aliases.c.alias == alias,
            schema.aliases.c.version == number,
        )
        for alias in (CHALLENGER, CHAMPION)
    }
    return sa.select(
        version,
        *(expression.label(alias) for alias, expression in holds.items()),
        _newest_value(log.c.kind, *moved).label("move"),
        _newest_value(log.c.version, *moved).label("moved_to"),
        _newest_value(approval.c.approved, *reviewed, approval.c.digest == version.c.digest).label("approved"),
        _newest_value(schema.version_marks.c.mark, *marked).label("mark"),
        _newest_value(schema.version_marks.c.reason, *marked).label("why"),
        sa.select(sa.func.min(sa.cast(evidence_table.c.passed, sa.Integer))).where(*judged).scalar_subquery().label("passed"),
    ).where(version.c.model == model, version.c.version == number)


def _champion_query() -> sa.Select[Any]:
    """Return the query for the champion with its last approval and its last mark, which decide its state."""
    version, alias = schema.versions, schema.aliases
    approval, mark = schema.approvals, schema.version_marks
    reviewed = sa.select(approval.c.approved).where(
        approval.c.environment == alias.c.environment,
        approval.c.model == version.c.model,
        approval.c.version == version.c.version,
        approval.c.digest == version.c.digest,
    )
    marked = sa.and_(mark.c.model == version.c.model, mark.c.version == version.c.version)
    return (
        sa.select(
            version,
            reviewed.order_by(approval.c.sequence.desc()).limit(1).scalar_subquery().label("approved"),
            sa.select(mark.c.mark).where(marked).order_by(mark.c.sequence.desc()).limit(1).scalar_subquery().label("mark"),
            sa.select(mark.c.reason).where(marked).order_by(mark.c.sequence.desc()).limit(1).scalar_subquery().label("why"),
        )
        .join(alias, sa.and_(alias.c.model == version.c.model, alias.c.version == version.c.version))
        .where(
            alias.c.environment == sa.bindparam("environment"),
            alias.c.model == sa.bindparam("model"),
            alias.c.alias == CHAMPION,
        )
    )


_CHAMPION, _VERSION = _champion_query(), _version_query()
_NEWEST = sa.select(sa.func.max(schema.versions.c.version)).where(schema.versions.c.model == sa.bindparam("model"))
