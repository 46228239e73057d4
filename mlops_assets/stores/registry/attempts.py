"""What automation tried: the same inputs are tried again after a pause that doubles, and not for ever."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa

from mlops_assets.stores.database import schema, sql

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_assets.stores.lake.protocol import Partition

MAX_ATTEMPTS = 3
BACKOFF = timedelta(minutes=1)


class Attempts:
    """Attempts that have not succeeded, by table and partition; a killed one counts like a failed one."""

    def __init__(self, database: sql.Database) -> None:
        self._database = database

    def record_start(self, table: str, partitions: Sequence[Partition], run_id: str) -> None:
        """Record an attempt before it begins, so that a kill cannot hide it."""
        rows = [
            {"table_name": table, "partition": p.key, "inputs": p.inputs, "run_id": run_id, "started_at": sql.timestamp()}
            for p in partitions
            if p.inputs
        ]
        if rows:
            with self._database.write_transaction() as connection:
                connection.execute(schema.attempts.insert(), rows)

    def clear(self, table: str, partitions: Sequence[Partition]) -> None:
        """Forget the attempts of parts that are made."""
        self._change(table, partitions, None)

    def record_failure(self, table: str, partitions: Sequence[Partition], error: str) -> None:
        """Keep the error of the latest attempt."""
        self._change(table, partitions, error)

    def find_blocked(
        self, table: str, inputs: Mapping[str, str], now: datetime, *, max_attempts: int = MAX_ATTEMPTS, backoff: timedelta = BACKOFF
    ) -> dict[str, str]:
        """Return the partitions that must not be tried now, with the reason in words.

        Parameters
        ----------
        table
            ``<kind>/<name>``.
        inputs
            Partition → fingerprint of what it would be made from now; attempts on other inputs do not count.
        now
            Aware.
        max_attempts, backoff
            At most so many attempts; the pause after the first, which then doubles.
        """
        with self._database.read_transaction() as connection:
            rows = (
                connection.execute(sa.select(schema.attempts).filter_by(table_name=table).order_by(schema.attempts.c.sequence))
                .mappings()
                .all()
            )
        tries: dict[str, list[datetime]] = {}
        for row in rows:
            if inputs.get(row["partition"]) == row["inputs"]:
                tries.setdefault(row["partition"], []).append(datetime.fromisoformat(row["started_at"]))
        return {partition: reason for partition, times in tries.items() if (reason := _blocked_reason(times, now, max_attempts, backoff))}

    def _change(self, table: str, partitions: Sequence[Partition], error: str | None) -> None:
        mine = sa.and_(schema.attempts.c.table_name == table, schema.attempts.c.partition == sa.bindparam("p"))
        change = (
            schema.attempts.delete().where(mine)
            if error is None
            else schema.attempts.update().where(mine, schema.attempts.c.error.is_(None)).values(error=error[:2000])
        )
        if partitions:
            with self._database.write_transaction() as connection:
                connection.execute(change, [{"p": part.key} for part in partitions])


def _blocked_reason(times: Sequence[datetime], now: datetime, max_attempts: int, backoff: timedelta) -> str:
    if len(times) >= max_attempts:
        return f"failed {len(times)} times on the same inputs; materialise it by hand, or change its inputs"
    retry_at = times[-1] + backoff * 2 ** (len(times) - 1)
    return f"waits until {retry_at:%H:%M:%S} after attempt {len(times)}" if now < retry_at else ""


def open_attempts(url: str) -> Attempts:
    """Open the attempts at a SQLAlchemy URL."""
    return Attempts(sql.open_database(url))
