"""Find damage in LMDB files before they are mapped, because a read past the end of a mapped file kills the process."""

from __future__ import annotations

import struct
import subprocess
import sys
from typing import TYPE_CHECKING

from mlops_assets.errors import InstallationError

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC = 0xBEEFC0DE
# A meta page of LMDB's format: 16 bytes of page header, magic, version, address and size of the map, two tables of 48 bytes (the first
# begins with the page size), the last page, and the transaction.
_META = struct.Struct("<16xII16xI92xQQ")
_PROBE = """
import sys, lmdb
with lmdb.open(sys.argv[1], readonly=True, lock=False, max_dbs=4096) as environment, environment.begin() as transaction:
    for name, _ in transaction.cursor():
        table = environment.open_db(bytes(name), txn=transaction, create=False)
        for key, value in transaction.cursor(table):
            bytes(key), bytes(value)
"""


def find_header_damage(folder: Path) -> str:
    """Return a description of a damaged header or a missing end of a store's file; ``""`` when the file can be mapped.

    Parameters
    ----------
    folder
        The folder of the store. A folder without a store file counts as undamaged.
    """
    path = folder / "data.mdb"
    if not path.exists():
        return ""
    size = path.stat().st_size
    if not size:
        return "the file is empty"
    with path.open("rb") as file:
        first = _parse_meta_page(file.read(_META.size))
        if first is None:
            return "it does not begin as an LMDB file does"
        page_size, last, transaction = first
        file.seek(page_size)
        second = _parse_meta_page(file.read(_META.size))
    if second is None:
        return "its second page is not one of LMDB's"
    if second[2] > transaction:
        last = second[1]
    # A page that is freed in its own transaction is never written: only a walk over all pages shows whether the end is missing.
    return find_lmdb_damage(folder, check_header=False) if size < (last + 1) * page_size else ""


def find_lmdb_damage(folder: Path, *, check_header: bool = True) -> str:
    """Return a description of the damage in a store's file; ``""`` when it is intact or missing.

    A separate process reads every record, because reading a damaged file can kill the process.

    Parameters
    ----------
    folder
        The folder of the store.
    check_header
        Whether to check the header first, and to read no record when it is damaged.
    """
    if check_header and (problem := find_header_damage(folder)):
        return problem
    if not (folder / "data.mdb").exists():
        return ""
    result = subprocess.run([sys.executable, "-c", _PROBE, str(folder)], capture_output=True, text=True, check=False)  # noqa: S603  (ours)
    if result.returncode < 0:
        return "the file is shorter than its pages"
    return (result.stderr.strip().splitlines() or ["it cannot be read"])[-1] if result.returncode else ""


def refuse_damaged(folder: Path) -> None:
    """Raise InstallationError when a store's file is too damaged to be mapped."""
    if problem := find_header_damage(folder):
        raise build_damaged_store_error(folder, problem)


def build_damaged_store_error(folder: Path, problem: str) -> InstallationError:
    """Return the error of a store whose file is damaged."""
    return InstallationError(
        f"the online store '{folder / 'data.mdb'}' is damaged: {problem}", hint="rebuild it from the lake: mlops doctor --fix"
    )


class ReplacedStoreError(InstallationError):
    """The file of a store was replaced after this process had mapped it."""


class MappedFile:
    """The mapped file of a store, checked before each read, because a read past the end of a truncated file kills the process.

    Parameters
    ----------
    folder
        The folder of the store.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._path = folder, folder / "data.mdb"
        info = self._path.stat()
        self._inode, self._size = info.st_ino, info.st_size

    def check_unchanged(self) -> None:
        """Raise ReplacedStoreError when the file was replaced, and InstallationError when it is missing or shorter than before.

        LMDB itself never shortens the file.
        """
        try:
            info = self._path.stat()
        except OSError as error:
            raise build_damaged_store_error(self.folder, f"it cannot be found ({error.strerror})") from error
        if info.st_ino != self._inode:
            raise ReplacedStoreError(
                f"the online store '{self._path}' was replaced while it was open",
                hint="open it again; a service's workers do so by themselves",
            )
        if info.st_size < self._size:
            raise build_damaged_store_error(self.folder, f"it has {info.st_size} bytes instead of {self._size}")
        self._size = info.st_size


def _parse_meta_page(data: bytes) -> tuple[int, int, int] | None:
    """Return page size, number of the last page, and transaction id of a meta page; None when the bytes are not a meta page."""
    if len(data) < _META.size:
        return None
    magic, _, page_size, last, transaction = _META.unpack_from(data)
    return (page_size, last, transaction) if magic == _MAGIC and 512 <= page_size <= 65536 else None
