"""The oracle of the lake's stress test: what must hold when nothing runs, whatever was killed when."""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import duckdb

from mlops_assets.compute.tables.content_hash import content_hash
from mlops_assets.compute.tables.stored_types import normalize
from mlops_assets.errors import LakeError
from mlops_assets.stores.lake.ducklake import DuckLake
from mlops_assets.stores.lake.protocol import PartitionRecord
from mlops_assets.stores.lake.rows import read_record
from tests.stress.lake_facts import DAILY, KEY, SOURCE, WHOLE, facts, rows, state, tables


class Oracle:
    """Compares the lake of a folder with what its processes have said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lake = DuckLake.open(folder / "lake")
        self.attempts = {fact["token"]: fact for fact in facts(folder, "attempt")}
        self.acknowledged = facts(folder, "acknowledged")
        self.written = [table for table in tables(self.lake) if table != DAILY]
        self.history = [record for table in tables(self.lake) for record in self._history(table)]

    def violations(self) -> list[str]:
        """Return every sentence that does not hold."""
        found = [
            *self._inlining(),
            *self._snapshots(),
            *self._tables(),
            *self._acknowledged(),
            *self._whole_attempts(),
            *self._pins(),
            *self._dbt(),
        ]
        for table in self.written:
            found += self._partitions(table)
        return found

    def _history(self, table: str) -> list[PartitionRecord]:
        """Every record, not only the last of each partition."""
        query = 'SELECT * FROM lake."_mlops"."partitions" WHERE table_name = ? ORDER BY snapshot'
        return [read_record(row) for row in self.lake.connections.cursor().execute(query, [table]).fetchall()]

    def _inlining(self) -> Iterator[str]:
        """Small writes are never kept in the catalog, even by those who attach the lake in their own way."""
        query = "SELECT value FROM ducklake_options('lake') WHERE option_name = 'data_inlining_row_limit'"
        if (kept := self.lake.connections.cursor().execute(query).fetchall()) != [("0",)]:
            yield f"the catalog may keep rows: {kept}"

    def _snapshots(self) -> Iterator[str]:
        """Snapshot ids are unique, each belongs to one attempt, and it is the one that its records name."""
        with closing(sqlite3.connect(self.lake.connections.catalog_path)) as catalog:
            ids = Counter(row[0] for row in catalog.execute("SELECT snapshot_id FROM ducklake_snapshot"))
        yield from (f"snapshot {snapshot} exists {n} times" for snapshot, n in ids.items() if n > 1)
        makers = defaultdict(list)
        for record in self.history:
            makers[record.snapshot].append((record.table, record.run_id))
        yield from (f"snapshot {snapshot} was made by {sorted(set(by))}" for snapshot, by in makers.items() if len(set(by)) > 1)
        yield from (f"snapshot {s} is recorded, but the newest is {max(ids)}" for s in makers if s > max(ids))
        query = (
            'SELECT count(*) FILTER (snapshot = {0}), count(*) FILTER (snapshot > {0}) FROM lake."_mlops"."partitions" AT (VERSION => {0})'
        )
        for snapshot in ids.keys() & makers:
            own, later = self.lake.connections.cursor().execute(query.format(snapshot)).fetchone()
            if (own, later) != (len(makers[snapshot]), 0):
                yield f"snapshot {snapshot} holds {own} records of {len(makers[snapshot])} that name it, and {later} of later ones"

    def _tables(self) -> Iterator[str]:
        """Nothing is left of a killed process: no temporary table, no table without its attempt."""
        known = {DAILY, *(attempt["table"] for attempt in self.attempts.values())}
        yield from (f"nobody meant to write '{table}'" for table in tables(self.lake) if table not in known)

    def _partitions(self, table: str) -> Iterator[str]:
        """The rows of each partition are those of one attempt, as recorded, and no others are there."""
        frame, records = self.lake.read(table), self.lake.records(table)
        if frame.height != sum(record.rows for record in records.values()):
            yield f"{table}: {frame.height} rows, but the records count {sum(r.rows for r in records.values())}"
        for partition, record in records.items():
            if partition not in self.attempts.get(record.run_id, {"sizes": ()})["sizes"]:
                yield f"{table} {partition}: {record.run_id} is recorded, who did not mean to write it"
                continue
            day, n = self.attempts[record.run_id]["sizes"][partition]
            found = frame if table == WHOLE else frame.filter(frame["at"].dt.strftime("%Y-%m-%d") == partition)
            if not found.sort(KEY).equals(rows(record.run_id, table, day, n)):
                tokens = dict(sorted(found["token"].value_counts().iter_rows()))
                yield f"{table} {partition}: recorded are {n} rows of {record.run_id}, there are {tokens or 'none'}"
            if record.content_hash != content_hash(normalize(found), KEY):
                yield f"{table} {partition}: the rows have not the recorded hash"

    def _acknowledged(self) -> Iterator[str]:
        """What was acknowledged is in the history, under the snapshot that was returned."""
        recorded = {(r.table, r.partition, r.run_id): r.snapshot for r in self.history}
        for done in self.acknowledged:
            for partition, (_, n) in self.attempts[done["token"]]["sizes"].items():
                found = recorded.get((done["table"], partition, done["token"]))
                unchanged = n == 0 and found is None  # it was empty before
                if found != done["snapshot"] and not unchanged:
                    yield f"{done['table']} {partition}: {done['token']} was acknowledged in snapshot {done['snapshot']} and is recorded in {found}"

    def _whole_attempts(self) -> Iterator[str]:
        """Of the partitions of one attempt all were written or none."""
        made = defaultdict(set)
        for record in self.history:
            made[record.run_id].add(record.partition)
        for token, attempt in self.attempts.items():
            wanted = {partition for partition, (_, n) in attempt["sizes"].items() if n}
            if made[token] & wanted not in (set(), wanted):
                yield f"{attempt['table']}: of {token} only {sorted(made[token])} were written"

    def _pins(self) -> Iterator[str]:
        """Every pinned snapshot can be read, and has exactly the rows it had."""
        for pin in facts(self.folder, "pin"):
            for table, then in pin["tables"].items():
                try:
                    now = state(self.lake, table, pin["snapshot"])
                except (duckdb.Error, LakeError) as error:
                    yield f"{table} at the pinned snapshot {pin['snapshot']} cannot be read: {str(error).splitlines()[0]}"
                else:
                    if now != then:
                        yield f"{table} at the pinned snapshot {pin['snapshot']} was {then} and is {now}"

    def _dbt(self) -> Iterator[str]:
        """dbt's table holds whole attempts only, none older than what dbt could see, and nothing that was built is lost."""
        built = max((fact["since"] for fact in facts(self.folder, "built")), default=None)
        if DAILY not in tables(self.lake):
            if built is not None:
                yield f"{DAILY} was built and is gone"
            return
        found = self.lake.read(DAILY).to_dicts()
        yield from (f"{DAILY} {day}: {n} rows" for day, n in Counter(row["day"] for row in found).items() if n > 1)
        for row in found:
            day, n = self.attempts[row["token"]]["sizes"][row["day"]]
            total = int(rows(row["token"], SOURCE, day, n)["value"].sum())
            if (row["n"], row["total"]) != (n, total):
                yield f"{DAILY} {row['day']}: {row['n']} rows of {row['token']}, who wrote {n}"
        if built is not None:
            yield from self._behind(built, {row["day"]: row["token"] for row in found})
        yield from self._dbt_record()

    def _behind(self, built: int, tokens: dict[str, str]) -> Iterator[str]:
        source = [record for record in self.history if record.table == SOURCE]
        made = {(record.partition, record.run_id): record.snapshot for record in source}
        for partition, seen in {r.partition: r.snapshot for r in source if r.snapshot <= built}.items():
            if made.get((partition, tokens.get(partition)), -1) < seen:
                yield f"{DAILY} {partition}: built after snapshot {seen}, but made from {tokens.get(partition, 'nothing')}"

    def _dbt_record(self) -> Iterator[str]:
        """The record of dbt's table is right unless the latest build was killed before it was recorded."""
        latest = max((fact["name"] for fact in facts(self.folder, "building")), default="")
        if latest not in {fact["name"] for fact in facts(self.folder, "recorded")}:
            return
        record, frame = self.lake.records(DAILY)[""], self.lake.read(DAILY)
        if (record.rows, record.content_hash) != (frame.height, content_hash(normalize(frame), ["day"])):
            yield f"{DAILY}: the rows are not those that are recorded"
