"""Versions as they are now: one query for each kind of fact, however many versions there are."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mlops_assets.compute.lifecycle import APPROVED, CHAMPION, DAMAGED, REJECTED, VersionFacts, state_of
from mlops_assets.errors import RegistryError, nearest
from mlops_assets.stores import schema
from mlops_assets.stores.records import AliasEvent, Approval, Evidence, Mark, Version

if TYPE_CHECKING:
    from collections.abc import Mapping

Key = tuple[str, int]
Asked = dict[str, Any]


def versions(connection: sa.Connection, environment: str, **asked: Any) -> list[Version]:  # noqa: ANN401  (values of columns)
    """Return versions as they are in an environment, oldest first.

    Parameters
    ----------
    connection
        Within a transaction, so that all facts are of one instant.
    environment
        Whose aliases, approvals and evidence count.
    asked
        ``model=`` and ``version=``, when not all are wanted.
    """
    table = schema.versions
    rows = connection.execute(sa.select(table).filter_by(**asked).order_by(table.c.model, table.c.version)).mappings().all()
    if not rows:
        return []
    aliases, moves = _aliases(connection, environment, asked), _moves(connection, environment, asked)
    approvals, marks = _approvals(connection, environment, asked), _marks(connection, asked)
    passed = _passed(connection, environment, asked, rows[0]["digest"] if len(rows) == 1 else None)
    found = []
    for row in rows:
        key = (row["model"], row["version"])
        approval = approvals.get((*key, row["digest"]), "")
        mark, why = marks.get(key, ("", ""))
        held = tuple(sorted(aliases[key]))
        facts = VersionFacts(held, passed.get((row["model"], row["digest"]), False), approval, moves.get(key), mark)
        was = CHAMPION in held or key in moves
        found.append(_version(row, state_of(facts), held, approval, why if mark == DAMAGED else "", was_champion=was))
    return found


def version(connection: sa.Connection, environment: str, model: str, number: int) -> Version:
    """Return one version.

    Raises
    ------
    RegistryError
        There is no such version.
    """
    if found := versions(connection, environment, model=model, version=number):
        return found[0]
    numbers: list[int] = list(connection.execute(sa.select(schema.versions.c.version).filter_by(model=model)).scalars())
    known = [str(n) for n in numbers]
    raise RegistryError(
        f"model '{model}' has no version {number}", hint=nearest(str(number), known) + f"it has {', '.join(known) or 'none'}"
    )


def champion(connection: sa.Connection, environment: str, model: str) -> Version | None:
    """Return the version that predicts: one query, because services ask for it all the time."""
    row = connection.execute(_CHAMPION, {"environment": environment, "model": model}).mappings().first()
    if row is None:
        return None
    approval = {None: "", True: APPROVED, False: REJECTED}[row["approved"]]
    damage = row["why"] if row["mark"] == DAMAGED else ""
    return _version(row, DAMAGED if damage else CHAMPION, (CHAMPION,), approval, damage, was_champion=True)


def holder(connection: sa.Connection, environment: str, model: str, alias: str) -> Version | None:
    """Return the version that holds an alias."""
    held = sa.select(schema.aliases.c.version).filter_by(environment=environment, model=model, alias=alias)
    number = connection.execute(held).scalar()
    return None if number is None else version(connection, environment, model, number)


def history(connection: sa.Connection, model: str) -> list[AliasEvent]:
    """Return the moves of a model's aliases in every environment, oldest first."""
    log = schema.alias_log
    rows = connection.execute(sa.select(log).filter_by(model=model).order_by(log.c.sequence)).mappings()
    told = ("sequence", "at", "evidence")
    return [
        AliasEvent(**{k: v for k, v in row.items() if k not in told}, evidence=tuple(row["evidence"]), at=datetime.fromisoformat(row["at"]))
        for row in rows
    ]


def evidence(connection: sa.Connection, environment: str, model: str, digest: str) -> tuple[Evidence, ...]:
    """Return what was found of one candidate in an environment."""
    rows = connection.execute(sa.select(schema.evidence).filter_by(environment=environment, model=model, digest=digest)).mappings()
    return tuple(Evidence(**{k: v for k, v in row.items() if k not in ("environment", "model")}) for row in rows)


def approvals(connection: sa.Connection, model: str, number: int) -> list[Approval]:
    """Return every decision on a version in every environment, oldest first."""
    table = schema.approvals
    rows = connection.execute(sa.select(table).filter_by(model=model, version=number).order_by(table.c.sequence)).mappings()
    told = ("sequence", "at")
    return [Approval(**{k: v for k, v in row.items() if k not in told}, at=datetime.fromisoformat(row["at"])) for row in rows]


def marks(connection: sa.Connection, model: str, number: int) -> list[Mark]:
    """Return every mark of a version, oldest first."""
    table = schema.version_marks
    rows = connection.execute(sa.select(table).filter_by(model=model, version=number).order_by(table.c.sequence)).mappings()
    return [Mark(row["mark"], row["reason"], datetime.fromisoformat(row["at"])) for row in rows]


def _version(  # noqa: PLR0913  (what is known of it)
    row: Mapping[Any, Any], state: str, aliases: tuple[str, ...], approval: str, damage: str, *, was_champion: bool
) -> Version:
    own = {name: row[name] for name in ("model", "version", "digest", "run_id", "artifact", "snapshot")}
    made = datetime.fromisoformat(row["created_at"])
    return Version(**own, created_at=made, state=state, aliases=aliases, approval=approval, damage=damage, was_champion=was_champion)


def _aliases(connection: sa.Connection, environment: str, asked: Asked) -> dict[Key, list[str]]:
    found: dict[Key, list[str]] = defaultdict(list)
    table = schema.aliases
    for row in connection.execute(sa.select(table.c.model, table.c.version, table.c.alias).filter_by(environment=environment, **asked)):
        found[row.model, row.version].append(row.alias)
    return found


def _moves(connection: sa.Connection, environment: str, asked: Asked) -> dict[Key, tuple[str, bool]]:
    """Return how the champion's alias last came to each version, or went from it."""
    log, found = schema.alias_log, {}
    mine = sa.select(log.c.model, log.c.version, log.c.previous, log.c.kind).filter_by(environment=environment, alias=CHAMPION)
    if "model" in asked:
        mine = mine.filter_by(model=asked["model"])
    if "version" in asked:
        mine = mine.where(sa.or_(log.c.version == asked["version"], log.c.previous == asked["version"]))
    for row in connection.execute(mine.order_by(log.c.sequence)):
        found[row.model, row.version] = (row.kind, True)
        if row.previous is not None and row.previous != row.version:
            found[row.model, row.previous] = (row.kind, False)
    return found


def _approvals(connection: sa.Connection, environment: str, asked: Asked) -> dict[tuple[str, int, str], str]:
    """Return the last word on each version and digest."""
    table = schema.approvals
    columns = sa.select(table.c.model, table.c.version, table.c.digest, table.c.approved)
    rows = connection.execute(columns.filter_by(environment=environment, **asked).order_by(table.c.sequence))
    return {(row.model, row.version, row.digest): APPROVED if row.approved else REJECTED for row in rows}


def _marks(connection: sa.Connection, asked: Asked) -> dict[Key, tuple[str, str]]:
    table = schema.version_marks
    rows = connection.execute(sa.select(table).filter_by(**asked).order_by(table.c.sequence))
    return {(row.model, row.version): (row.mark, row.reason) for row in rows}


def _passed(connection: sa.Connection, environment: str, asked: Asked, digest: str | None) -> dict[tuple[str, str], bool]:
    """Return of which candidates all evidence passed."""
    table = schema.evidence
    mine = sa.select(table.c.model, table.c.digest, sa.func.min(sa.cast(table.c.passed, sa.Integer)).label("all"))
    mine = mine.filter_by(environment=environment, **{k: v for k, v in asked.items() if k == "model"})
    if digest is not None:
        mine = mine.filter_by(digest=digest)
    return {(row.model, row.digest): bool(row.all) for row in connection.execute(mine.group_by(table.c.model, table.c.digest))}


def _champion() -> sa.Select[Any]:
    """Return the query for the champion with its last approval and its last mark."""
    version, alias = schema.versions, schema.aliases
    approval, mark = schema.approvals, schema.version_marks
    said = sa.select(approval.c.approved).where(
        approval.c.environment == alias.c.environment,
        approval.c.model == version.c.model,
        approval.c.version == version.c.version,
        approval.c.digest == version.c.digest,
    )
    marked = sa.and_(mark.c.model == version.c.model, mark.c.version == version.c.version)
    return (
        sa.select(
            version,
            said.order_by(approval.c.sequence.desc()).limit(1).scalar_subquery().label("approved"),
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


_CHAMPION = _champion()
