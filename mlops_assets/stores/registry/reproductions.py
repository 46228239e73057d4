"""Verdicts on whether a version can be reproduced, each from one retraining. A recorded verdict never changes."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mlops_assets.stores.database import schema, sql

if TYPE_CHECKING:
    from collections.abc import Mapping

FAILED = "FAILED"  # the verdict when an error prevented the retraining


@dataclass(frozen=True)
class Reproduction:
    """The verdict of retraining one version and comparing it with the registered candidate.

    Parameters
    ----------
    digest
        The digest of the version: the verdict is about exactly this candidate.
    mode
        The libraries of the retraining: ``current`` or ``locked``.
    verdict
        ``IDENTICAL``, ``EQUIVALENT`` or ``DIFFERENT``; ``FAILED`` when an error prevented the retraining.
    field
        The first field of the candidate's record that differs after the retraining; empty when none does, ``error`` for ``FAILED``.
    was, now
        The value of this field in the registered candidate's record, and its value after the retraining; None and the message of the
        error for ``FAILED``.
    facts
        Every difference, the code that ran, and the duration; for ``FAILED`` the class and the hint of the error; JSON-like.
    """

    model: str
    version: int
    digest: str
    mode: str
    verdict: str
    field: str = ""
    was: Any = None
    now: Any = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    at: datetime = dataclasses.field(default_factory=lambda: datetime.now(UTC))

    @property
    def is_reproducible(self) -> bool:
        """Whether the retrained candidate is identical or equivalent, so that the version can be reproduced."""
        return self.verdict not in ("DIFFERENT", FAILED)

    @property
    def text(self) -> str:
        """The version, the verdict and the first difference, or the error, in one line."""
        if self.verdict == FAILED:
            return f"{self.model}@{self.version} {FAILED}: {self.now}"
        difference = f": {self.field} was {self.was}, is {self.now}" if self.field else ""
        return f"{self.model}@{self.version} {self.verdict}{difference}"


class Reproductions:
    """The verdicts of one platform."""

    def __init__(self, database: sql.Database) -> None:
        self._database = database

    def add(self, reproduction: Reproduction) -> None:
        """Record the verdict of a reproduction."""
        row = {name: getattr(reproduction, name) for name in ("model", "version", "digest", "mode", "verdict", "field")}
        values = {
            "was": json.dumps(reproduction.was),
            "now": json.dumps(reproduction.now),
            "facts": dict(reproduction.facts),
            "at": reproduction.at.isoformat(),
        }
        with self._database.write_transaction() as connection:
            connection.execute(schema.reproductions.insert().values(**row, **values))

    def list(self, model: str) -> list[Reproduction]:
        """Return the verdicts about the versions of a model, oldest first."""
        query = sa.select(schema.reproductions).filter_by(model=model).order_by(schema.reproductions.c.sequence)
        with self._database.read_transaction() as connection:
            rows = connection.execute(query).mappings().all()
        return [_parse_row(row) for row in rows]

    def find_latest(self, model: str, digest: str) -> Reproduction | None:
        """Return the last verdict about the version with a digest; None when there is none."""
        return next((reproduction for reproduction in reversed(self.list(model)) if reproduction.digest == digest), None)


def _parse_row(row: sa.RowMapping) -> Reproduction:
    plain = {name: row[name] for name in ("model", "version", "digest", "mode", "verdict", "field", "facts")}
    return Reproduction(**plain, was=json.loads(row["was"]), now=json.loads(row["now"]), at=datetime.fromisoformat(row["at"]))


def open_reproductions(url: str) -> Reproductions:
    """Open the verdicts at a SQLAlchemy URL."""
    return Reproductions(sql.open_database(url))
