"""Store the as-of layouts of feature views on disk, and update them from partitions that have changed in the lake.

:mod:`mlops_assets.compute.features.layout` defines layouts and their buckets; each bucket is one file. A layout is derived from the lake,
and is rebuilt when its files are missing or damaged. Its state records the content hashes of its source partitions, so that a layout is
used only for a snapshot with the same content.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mlops_assets.compute.features.assemble import bind_rows, rename_layout
from mlops_assets.compute.features.entity_hash import hash_entities
from mlops_assets.compute.features.layout import EVENT, AsOfLayout, find_entity_ranges
from mlops_assets.compute.features.point_in_time import (
    ROWS_PER_BUCKET,
    ViewRows,
    build_layout,
    choose_bucket_count,
    drop_dominated,
    join_buckets,
    sort_as_of,
    split_buckets,
)
from mlops_assets.stores.base.lock import hold_lock
from mlops_assets.stores.lake.layout_files import STATE, compute_file_checksum, read_state, write_state
from mlops_assets.stores.lake.verified_reads import read_view
from mlops_assets.values.window import join_windows, window_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow as pa

    from mlops_assets.stores.lake.protocol import Lake
    from mlops_assets.values.features import FeatureView

FORMAT = 1
MAX_TRUST_SECONDS = 60.0  # after this time, verified files are read in full and verified again


@dataclass(frozen=True)
class _BucketFile:
    """One bucket on disk: the name of its file, the number of its rows, and the size (bytes) and checksum of the file."""

    name: str
    rows: int
    size: int
    check: str


@dataclass(frozen=True)
class _LayoutState:
    """The state of a layout: a hash of its definition, its snapshot, partition key → content hash of the view, and its files."""

    definition: str
    snapshot: int
    partitions: Mapping[str, str]
    buckets: tuple[_BucketFile, ...]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.buckets)


@dataclass(frozen=True, eq=False)
class _OpenLayout:
    """The mapped and verified files of a layout, cached because notebooks and batch jobs load the same layout repeatedly.

    ``stamps`` are the inode and modification time of each file, ``entities`` the position of each entity in each bucket.
    """

    state: _LayoutState
    stamps: tuple[tuple[int, int] | None, ...]
    tables: tuple[pa.Table, ...]
    entities: tuple[pl.DataFrame, ...]
    verified_at: float
    snapshot_checked: int = -1  # the last snapshot that was found to have this content


class Layouts:
    """The layouts of one lake, stored in a folder and cached in this object.

    Parameters
    ----------
    folder
        The folder of all layouts, created if needed.
    lake
        The lake with the tables of the views.
    """

    def __init__(self, folder: Path, lake: Lake) -> None:
        self._folder = folder
        self._lake = lake
        self._open: dict[Path, _OpenLayout] = {}

    def load(self, view: FeatureView, *, snapshot: int | None = None, as_known: bool = True) -> AsOfLayout:
        """Return the layout of a view in a snapshot, with the new names if the view is renamed; build or update the files when needed.

        Parameters
        ----------
        view
            The feature view.
        snapshot
            The snapshot; the newest when None. If it is older than the layout on disk, a layout is built in memory.
        as_known
            As in :func:`mlops_assets.compute.features.point_in_time.point_in_time_join`.

        Raises
        ------
        LakeError
            The view's table does not exist in that snapshot, or cannot be read.
        ArtifactError
            The view's rows in the lake are damaged.
        DataError
            The view has two different rows of one entity and time.
        """
        upkeep = _LayoutUpdate(self._folder, self._lake, view, as_known, self._open)
        return rename_layout(view, upkeep.layout(self._lake.snapshot() if snapshot is None else snapshot))

    def remove(self, unwanted: Callable[[str, str], bool]) -> int:
        """Remove layouts from the disk and return their number. A process that has opened a layout can still read it.

        Parameters
        ----------
        unwanted
            A function that returns whether to remove a layout. It takes the view's name and pinned version; the version is empty for the
            declared view.
        """
        removed = 0
        for folder in sorted(self._folder.iterdir()) if self._folder.exists() else ():
            name, *pinned, _ = folder.name.split("-")
            if unwanted(name, "".join(pinned)):
                with hold_lock(folder / "lock"):
                    (folder / STATE).unlink(missing_ok=True)
                    shutil.rmtree(folder)
                removed += 1
        return removed


class _LayoutUpdate:
    """Loads, updates or builds one layout."""

    def __init__(self, folder: Path, lake: Lake, view: FeatureView, as_known: bool, cache: dict[Path, _OpenLayout]) -> None:  # noqa: FBT001
        self._view, self._lake, self._as_known, self._cache = view, lake, as_known, cache
        self._folder = folder / "-".join(filter(None, (view.name, view.pinned, "known" if as_known else "event")))
        self._times = tuple(dict.fromkeys(t for t in (view.event_timestamp, view.created_timestamp) if t))
        self._columns = tuple(dict.fromkeys((*view.entity.join_keys, *self._times, *view.feature_names)))
        declaration = [FORMAT, view.entity.join_keys, view.event_timestamp, view.created_timestamp, view.feature_names, as_known]
        self._definition = hashlib.sha256(json.dumps(declaration).encode()).hexdigest()

    def layout(self, snapshot: int) -> AsOfLayout:
        """Return the layout in a snapshot: cached, read from files, or built; only a snapshot older than the files is built in memory."""
        if (cached := self._cache.get(self._folder)) is not None and cached.snapshot_checked == snapshot and self._is_unchanged(cached):
            return self._assemble(cached)  # a snapshot never changes
        hashes = {key: record.content_hash for key, record in self._lake.records(self._view.key, snapshot=snapshot).items()}
        if (loaded := self._load_current(hashes, snapshot)) is not None:
            return loaded
        self._folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(self._folder / "lock"):
            if (loaded := self._load_current(hashes, snapshot)) is not None:
                return loaded  # another process has updated it meanwhile
            stored = self._read_state()
            if stored is not None and stored.snapshot > snapshot:
                return self._build_in_memory(snapshot)
            changed = None if stored is None else self._changed_buckets(stored, hashes, snapshot)
            if stored is None or changed is None:
                self._publish(
                    [self._write_bucket(number, part) for number, part in enumerate(self._build_buckets(snapshot))], hashes, snapshot
                )
            else:
                written = {number: self._write_bucket(number, part) for number, part in changed.items()}
                self._publish([written.get(number, file) for number, file in enumerate(stored.buckets)], hashes, snapshot)
        new_files = self._load_current(hashes, snapshot)
        return self._build_in_memory(snapshot) if new_files is None else new_files  # another process has published a newer snapshot

    def _load_current(self, hashes: Mapping[str, str], snapshot: int) -> AsOfLayout | None:
        """Return the stored layout; None when it is missing or damaged, or was built from other content than ``hashes``."""
        state, cached = self._read_state(), self._cache.get(self._folder)
        if state is None or state.partitions != hashes:
            return None
        opened = cached if cached is not None and self._is_unchanged(cached) else self._open_buckets(state)
        if opened is None:
            return None
        self._cache[self._folder] = replace(opened, snapshot_checked=snapshot)
        return self._assemble(opened)

    def _assemble(self, opened: _OpenLayout) -> AsOfLayout:
        return join_buckets(self._bind_view(), pl.DataFrame(opened.tables[0].slice(0, 0)).schema, opened.entities, opened.tables)

    def _is_unchanged(self, cached: _OpenLayout) -> bool:
        """Return whether the cached files were verified within ``MAX_TRUST_SECONDS`` and have not changed since."""
        return (
            time.monotonic() - cached.verified_at < MAX_TRUST_SECONDS
            and cached.state == self._read_state()
            and cached.stamps == self._read_file_stamps(cached.state)
        )

    def _read_file_stamps(self, state: _LayoutState) -> tuple[tuple[int, int] | None, ...]:
        """Return the inode and the modification time in nanoseconds of each file; None for a missing file."""
        return tuple(_read_file_stamp(self._folder / file.name) for file in state.buckets)

    def _open_buckets(self, state: _LayoutState) -> _OpenLayout | None:
        """Open all buckets and verify their checksums; return None when one is missing or damaged."""
        stamps = self._read_file_stamps(state)
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # checksums and comparisons release the GIL
            opened = [bucket for bucket in pool.map(self._open_bucket, range(len(state.buckets)), state.buckets) if bucket is not None]
        if len(opened) < len(state.buckets):
            return None
        tables, entities = zip(*opened, strict=True)
        return _OpenLayout(state, stamps, tables, entities, time.monotonic())

    def _open_bucket(self, number: int, file: _BucketFile) -> tuple[pa.Table, pl.DataFrame] | None:
        """Return the rows of a bucket, and the start and end of each entity's rows; None when the file is missing or damaged."""
        keys = list(self._view.entity.join_keys)
        table = self._map_file(file)
        return None if table is None else (table, find_entity_ranges(pl.DataFrame(table.select(keys)), keys, number))

    def _read_state(self) -> _LayoutState | None:
        """Return the stored state; None when it is missing, damaged, or of another definition."""
        stored = read_state(self._folder)
        if stored is None or stored["definition"] != self._definition:
            return None
        return _LayoutState(
            stored["definition"], stored["snapshot"], stored["partitions"], tuple(_BucketFile(**file) for file in stored["buckets"])
        )

    def _map_file(self, file: _BucketFile) -> pa.Table | None:
        """Map a bucket's file into memory and verify its checksum; return None when the file is missing or damaged."""
        import pyarrow as pa

        try:
            mapped = pa.memory_map(str(self._folder / file.name))
        except FileNotFoundError:
            return None
        content = mapped.read_buffer()
        return (
            pa.ipc.open_file(pa.BufferReader(content)).read_all()
            if (len(content), compute_file_checksum(content)) == (file.size, file.check)
            else None
        )

    def _build_in_memory(self, snapshot: int) -> AsOfLayout:
        return build_layout(self._bind_view(read_view(self._lake, self._view, self._columns, snapshot=snapshot)), as_known=self._as_known)

    def _build_buckets(self, snapshot: int) -> list[pl.DataFrame]:
        rows = self._order_rows(read_view(self._lake, self._view, self._columns, snapshot=snapshot))
        return split_buckets(rows, self._view.entity.join_keys, choose_bucket_count(rows.height))

    def _order_rows(self, source: pl.DataFrame) -> pl.DataFrame:
        return sort_as_of(self._bind_view(source), as_known=self._as_known)

    def _bind_view(self, rows: pl.DataFrame | None = None) -> ViewRows:
        return bind_rows(self._view, pl.DataFrame() if rows is None else rows)

    def _changed_buckets(self, stored: _LayoutState, hashes: Mapping[str, str], snapshot: int) -> dict[int, pl.DataFrame] | None:
        """Return bucket number → all its rows, for each bucket that changes; None when all buckets must be rebuilt."""
        if self._view.partitions is None or any(key not in hashes for key in stored.partitions):
            return None
        changed = [key for key, digest in hashes.items() if stored.partitions.get(key) != digest]
        rewritten = [span for key in changed if key in stored.partitions and (span := window_of(self._view.partitions, key))]
        new = self._read_partitions(changed, snapshot)
        if stored.rows + new.height > 2 * ROWS_PER_BUCKET * len(stored.buckets):
            return None
        old = [self._map_file(file) for file in stored.buckets]
        if any(table is None for table in old):
            return None
        tables = [pl.DataFrame(table) for table in old]
        if not rewritten:
            return self._merge_buckets(tables, self._order_rows(new))
        # A bucket with a row of a rewritten partition is rebuilt, because rows that this row dominated may become visible.
        inside = pl.any_horizontal((pl.col(EVENT) >= span.start) & (pl.col(EVENT) < span.end) for span in join_windows(rewritten))
        removed = {number for number, table in enumerate(tables) if table.select(inside.any()).item()}
        return self._rebuild_buckets(removed | self._find_bucket_numbers(new, len(tables)), len(tables), snapshot)

    def _read_partitions(self, keys: Sequence[str], snapshot: int) -> pl.DataFrame:
        """Return the verified rows of some partitions in a snapshot; no rows for no partitions."""
        spans = join_windows(span for span in (window_of(self._view.partitions, key) for key in keys) if span is not None)
        if not spans:
            return self._lake.read(self._view.key, snapshot=snapshot, columns=self._columns).clear()
        return pl.concat(read_view(self._lake, self._view, self._columns, snapshot=snapshot, window=span) for span in spans)

    def _find_bucket_numbers(self, rows: pl.DataFrame, count: int) -> set[int]:
        """Return the numbers of the buckets to which the entities of some rows belong."""
        keys = list(self._view.entity.join_keys)
        return {int(number) for number in np.unique(hash_entities(rows.select(keys).drop_nulls().unique()) % np.uint64(count))}

    def _rebuild_buckets(self, numbers: set[int], count: int, snapshot: int) -> dict[int, pl.DataFrame]:
        """Rebuild some buckets from all rows of the view, because rows that a changed row dominated may become visible."""
        source = read_view(self._lake, self._view, self._columns, snapshot=snapshot).drop_nulls(list(self._view.entity.join_keys))
        parts = split_buckets(source, self._view.entity.join_keys, count)
        return {number: self._order_rows(parts[number]) for number in numbers}

    def _merge_buckets(self, old: Sequence[pl.DataFrame], new: pl.DataFrame) -> dict[int, pl.DataFrame] | None:
        """Return the buckets that get new rows, with old and new rows merged and without dominated rows; None when the columns differ."""
        if any(table.schema != new.schema for table in old):
            return None
        parts = enumerate(split_buckets(new, self._view.entity.join_keys, len(old)))
        return {number: drop_dominated(pl.concat([old[number], added]), self._bind_view()) for number, added in parts if added.height}

    def _publish(self, files: Sequence[_BucketFile], hashes: Mapping[str, str], snapshot: int) -> None:
        """Publish new files by one rename of the state file, then remove the files that the new state does not list."""
        state = _LayoutState(self._definition, snapshot, hashes, tuple(files))
        write_state(self._folder, asdict(state))
        listed = {file.name for file in state.buckets} | {STATE, "lock"}
        for path in self._unlisted_files(listed):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def _unlisted_files(self, listed: set[str]) -> Iterator[Path]:
        return (path for path in self._folder.iterdir() if path.name not in listed)

    def _write_bucket(self, number: int, rows: pl.DataFrame) -> _BucketFile:
        """Write the rows of a bucket to a new file and return its description; the state file does not list it yet."""
        name = f"bucket-{number:04}-{uuid.uuid4().hex[:12]}.arrow"
        rows.write_ipc(self._folder / name, compression="uncompressed", compat_level=pl.CompatLevel.oldest())
        content = (self._folder / name).read_bytes()
        return _BucketFile(name, rows.height, len(content), compute_file_checksum(content))


def _read_file_stamp(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(FileNotFoundError):
        info = path.stat()
        return info.st_ino, info.st_mtime_ns
    return None
