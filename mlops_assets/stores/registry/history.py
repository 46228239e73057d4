"""The history of a model in order: refused candidates, versions, approvals, damage, and every move of an alias."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mlops_assets.stores.database import schema, sql
from mlops_assets.stores.registry.version_queries import alias_events

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REFUSAL, REGISTRATION, APPROVAL, REJECTION = "refusal", "registration", "approval", "rejection"
_EVERYWHERE = ""


@dataclass(frozen=True)
class HistoryEvent:
    """One event in the history of a model.

    Parameters
    ----------
    at
        The time, with a time zone.
    kind
        ``refusal`` (of a candidate, by its gates), ``registration``, ``approval``, ``rejection``, ``damaged``, ``restored``, or the move of
        an alias: ``promotion``, ``rollback``, ``challenge``, ``withdrawal``.
    environment
        The environment; empty when the event concerns all environments.
    candidate
        The digest of the candidate.
    version
        The version; None for a candidate that was not registered.
    alias, previous
        The alias that moved, and the version that had it before; empty and None for other events.
    actor, reason
        The person or process that acted, and the reason.
    evidence
        The results of the gates that refused a candidate or allowed a move, each with at least ``gate``, ``passed`` and ``reason``.
    """

    at: datetime
    kind: str
    environment: str
    candidate: str
    version: int | None = None
    alias: str = ""
    previous: int | None = None
    actor: str = ""
    reason: str = ""
    evidence: tuple[Mapping[str, Any], ...] = ()


def model_history(url: str, model: str) -> list[HistoryEvent]:
    """Return the history of a model in every environment, oldest first.

    Parameters
    ----------
    url
        The URL of the database.
    model
        The name of the model.
    """
    with sql.open_database(url).read_transaction() as connection:
        digests = {v.version: v.digest for v in connection.execute(sa.select(schema.versions).filter_by(model=model))}
        events = [
            *_list_refusals(connection, model, set(digests.values())),
            *_list_registrations(connection, model),
            *_list_approvals(connection, model),
            *_list_marks(connection, model, digests),
            *_list_alias_moves(connection, model, digests),
        ]
    return sorted(events, key=lambda event: event.at)  # events at the same time stay in this order


def _list_refusals(connection: sa.Connection, model: str, registered: set[str]) -> Iterator[HistoryEvent]:
    """Yield the refusal of each candidate that is not registered and failed a gate, at the time of the candidate's creation."""
    candidates, gates = schema.candidates, schema.evidence
    joined = sa.select(gates, candidates.c.created_at).join(
        candidates, (candidates.c.model == gates.c.model) & (candidates.c.digest == gates.c.digest)
    )
    rows = connection.execute(joined.where(gates.c.model == model).order_by(candidates.c.created_at, gates.c.gate)).mappings()
    by_candidate: dict[tuple[str, str], list[Mapping[Any, Any]]] = {}
    for row in rows:
        if row["digest"] not in registered:
            by_candidate.setdefault((row["environment"], row["digest"]), []).append(row)
    for (environment, digest), evidence_rows in by_candidate.items():
        failed = [f"{row['gate']}: {row['reason']}" for row in evidence_rows if not row["passed"]]
        if failed:
            evidence = tuple({"gate": row["gate"], "reason": row["reason"], "passed": row["passed"]} for row in evidence_rows)
            at = datetime.fromisoformat(evidence_rows[0]["created_at"])
            yield HistoryEvent(at, REFUSAL, environment, digest, reason="; ".join(failed), evidence=evidence)


def _list_registrations(connection: sa.Connection, model: str) -> Iterator[HistoryEvent]:
    table = schema.versions
    for row in connection.execute(sa.select(table).filter_by(model=model).order_by(table.c.version)):
        yield HistoryEvent(datetime.fromisoformat(row.created_at), REGISTRATION, _EVERYWHERE, row.digest, row.version)


def _list_approvals(connection: sa.Connection, model: str) -> Iterator[HistoryEvent]:
    table = schema.approvals
    for row in connection.execute(sa.select(table).filter_by(model=model).order_by(table.c.sequence)):
        kind = APPROVAL if row.approved else REJECTION
        at = datetime.fromisoformat(row.at)
        yield HistoryEvent(at, kind, row.environment, row.digest, row.version, actor=row.approver, reason=row.reason)


def _list_marks(connection: sa.Connection, model: str, digests: Mapping[int, str]) -> Iterator[HistoryEvent]:
    table = schema.version_marks
    for row in connection.execute(sa.select(table).filter_by(model=model).order_by(table.c.sequence)):
        yield HistoryEvent(datetime.fromisoformat(row.at), row.mark, _EVERYWHERE, digests[row.version], row.version, reason=row.reason)


def _list_alias_moves(connection: sa.Connection, model: str, digests: Mapping[int, str]) -> Iterator[HistoryEvent]:
    for event in alias_events(connection, model):
        digest = digests[event.version]
        yield HistoryEvent(
            event.at,
            event.kind,
            event.environment,
            digest,
            event.version,
            event.alias,
            event.previous,
            event.actor,
            event.reason,
            event.evidence,
        )
