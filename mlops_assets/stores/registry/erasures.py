"""The log of erasures, with actor, entity, time and reason of each. Its rows never change."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mlops_assets.stores.database import schema, sql

if TYPE_CHECKING:
    from collections.abc import Mapping

BEGUN, DONE = "begun", "done"


@dataclass(frozen=True)
class ErasureRecord:
    """One entry of the log.

    Parameters
    ----------
    state
        ``begun`` or ``done``. An erasure that is begun but not done still runs or was killed; a killed one is completed by the next
        request for its entity.
    entity
        The label of the entity, as :func:`entity_label` returns it.
    facts
        The deleted rows, and the versions that can no longer be reproduced.
    """

    at: datetime
    state: str
    actor: str
    reason: str
    entity: str
    facts: Mapping[str, Any]


class ErasureLog:
    """The log of a platform's erasures."""

    def __init__(self, database: sql.Database) -> None:
        self._database = database

    def add(self, state: str, *, actor: str, reason: str, entity: str, facts: Mapping[str, Any]) -> None:
        """Add an entry with the current time to the log; ``state`` is ``begun`` or ``done``."""
        row = {"at": sql.timestamp(), "state": state, "actor": actor, "reason": reason, "entity": entity, "facts": dict(facts)}
        with self._database.write_transaction() as connection:
            connection.execute(schema.erasures.insert().values(**row))

    def list(self) -> list[ErasureRecord]:
        """Return every entry of the log, oldest first."""
        with self._database.read_transaction() as connection:
            rows = connection.execute(sa.select(schema.erasures).order_by(schema.erasures.c.sequence)).mappings().all()
        return [ErasureRecord(datetime.fromisoformat(r["at"]), r["state"], r["actor"], r["reason"], r["entity"], r["facts"]) for r in rows]

    def find_unfinished(self, entity: str) -> ErasureRecord | None:
        """Return the first entry of an entity after its last ``done`` entry: the start of an erasure that was killed, or still runs.

        None when no erasure of the entity is unfinished.

        Parameters
        ----------
        entity
            The label of the entity in the log.
        """
        own = [record for record in self.list() if record.entity == entity]
        ended = max((i for i, record in enumerate(own) if record.state == DONE), default=-1)
        return own[ended + 1] if ended + 1 < len(own) else None


def entity_label(entity: Mapping[str, str], *, keep: bool = False) -> str:
    """Return the label of an entity in the log: the sha256 of its keys and values, or these themselves when ``keep`` is true."""
    text = json.dumps(sorted(entity.items()))
    return ", ".join(f"{k}={v}" for k, v in sorted(entity.items())) if keep else f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def open_erasure_log(url: str) -> ErasureLog:
    """Open the log at a SQLAlchemy URL."""
    return ErasureLog(sql.open_database(url))
