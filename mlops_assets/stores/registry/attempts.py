"""Attempts of automated runs. Automation retries the same inputs after a pause that doubles, up to a maximum number of attempts."""

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
    """The recorded attempts that have not succeeded, by table and partition. A killed attempt counts as failed."""

    def __init__(self, database: sql.Database) -> None:
        self._database = database

    def record_start(self, table: str, partitions: Sequence[Partition], run_id: str) -> None:
        """Record an attempt before it begins, so that a killed attempt is recorded too; partitions without ``inputs`` are skipped."""
        rows = [
            {"table_name": table, "partition": p.key, "inputs": p.inputs, "run_id": run_id, "started_at": sql.timestamp()}
            for p in partitions
            if p.inputs
        ]
        if rows:
            with self._database.write_transaction() as connection:
                connection.execute(schema.attempts.insert(), rows)

    def clear(self, table: str, partitions: Sequence[Partition]) -> None:
        """Delete the attempts at partitions that were written."""
        self._update_attempts(table, partitions, None)

    def record_failure(self, table: str, partitions: Sequence[Partition], error: str) -> None:
        """Record the error, cut to 2,000 characters, of each attempt at these partitions that has no error yet."""
        self._update_attempts(table, partitions, error)

    def find_blocked(
        self, table: str, inputs: Mapping[str, str], now: datetime, *, max_attempts: int = MAX_ATTEMPTS, backoff: timedelta = BACKOFF
    ) -> dict[str, str]:
        """Return partition → reason, for each partition that must not be attempted now.

        Parameters
        ----------
        table
            The table's key, ``<kind>/<name>``.
        inputs
            Partition → fingerprint of its current inputs. Attempts with other inputs do not count.
        now
            The current time, with a time zone.
        max_attempts, backoff
            The maximum number of attempts, and the pause from the start of the first attempt to the start of the second. The pause
            doubles after each attempt.
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
        return {partition: reason for partition, times in tries.items() if (reason := _explain_block(times, now, max_attempts, backoff))}

    def _update_attempts(self, table: str, partitions: Sequence[Partition], error: str | None) -> None:
        """Record an error of the attempts at these partitions that have none yet; without an error, delete the attempts."""
        matching = sa.and_(schema.attempts.c.table_name == table, schema.attempts.c.partition == sa.bindparam("p"))
        change = (
            schema.attempts.delete().where(matching)
            if error is None
            else schema.attempts.update().where(matching, schema.attempts.c.error.is_(None)).values(error=error[:2000])
        )
        if partitions:
            with self._database.write_transaction() as connection:
                connection.execute(change, [{"p": partition.key} for partition in partitions])


def _explain_block(times: Sequence[datetime], now: datetime, max_attempts: int, backoff: timedelta) -> str:
    """Return why a partition with attempts started at these times must not be attempted now; empty when it may be."""
    if len(times) >= max_attempts:
        return f"failed {len(times)} times on the same inputs; materialise it by hand, or change its inputs"
    retry_at = times[-1] + backoff * 2 ** (len(times) - 1)
    return f"waits until {retry_at:%H:%M:%S} UTC after attempt {len(times)}" if now < retry_at else ""


def open_attempts(url: str) -> Attempts:
    """Open the attempts at a SQLAlchemy URL."""
    return Attempts(sql.open_database(url))
