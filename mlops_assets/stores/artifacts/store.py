"""Content-addressed bytes, in a folder or on S3."""

from __future__ import annotations

import hashlib
import os
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mlops_assets.errors import ArtifactError, InstallationError, MissingExtraError
from mlops_assets.stores.base.files import write_atomically
from mlops_assets.stores.base.lock import hold_lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager


@dataclass(frozen=True)
class StoredFile:
    """One file of the store.

    Parameters
    ----------
    name
        The sha256 of the content. A partial file that a killed process left has another name.
    size
        The size in bytes.
    at
        The time when the file was last stored.
    """

    name: str
    size: int
    at: datetime


class Artifacts(Protocol):
    """Bytes named by their sha256."""

    def put(self, data: bytes) -> str:
        """Store bytes and return their sha256; storing equal bytes again only updates the time of the file."""
        ...

    def get(self, sha256: str) -> bytes:
        """Return the bytes with this sha256; raise ArtifactError when they are missing or have another sha256."""
        ...

    def exists(self, sha256: str) -> bool:
        """Return whether bytes with this sha256 are stored."""
        ...

    def url(self, sha256: str) -> str:
        """Return the URL at which bytes with this sha256 are stored, or would be."""
        ...

    def files(self) -> Iterator[StoredFile]:
        """Yield every stored file, including partial files of killed processes."""
        ...

    def remove(self, name: str, *, before: datetime) -> bool:
        """Remove a file unless it was stored at ``before`` or later; return whether it was removed."""
        ...


class FsspecArtifacts:
    """Artifacts on any file system that fsspec knows.

    Parameters
    ----------
    root
        A folder, or a URL such as ``s3://bucket/prefix``. S3 takes ``AWS_ENDPOINT_URL`` and the usual credentials from the environment.

    Raises
    ------
    MissingExtraError
        The package for this kind of URL is not installed.
    """

    def __init__(self, root: str) -> None:
        import fsspec

        options: dict[str, Any] = {}
        if root.startswith("s3://") and (endpoint := os.environ.get("AWS_ENDPOINT_URL")):
            options["client_kwargs"] = {"endpoint_url": endpoint}
        try:
            self._fs, self._root = fsspec.core.url_to_fs(root, **options)
        except ImportError as error:
            raise MissingExtraError.from_extra("s3fs", "s3") from error
        self._local = "://" not in root

    def put(self, data: bytes) -> str:
        """Store bytes and return their sha256; a damaged file of that name is replaced.

        Raises
        ------
        InstallationError
            The folder cannot be written, or the disk is full.
        """
        digest = hashlib.sha256(data).hexdigest()
        path = self._path(digest)
        if not self._local:
            self._fs.pipe_file(path, data)  # S3 shows complete objects only; equal bytes are sent again, which updates the time
            return digest
        with self._lock_folder(path):
            if self._fs.exists(path) and _sha256(self._fs.cat_file(path)) == digest:
                Path(path).touch()
                return digest
        _write(Path(path), data)
        return digest

    def files(self) -> Iterator[StoredFile]:
        """Yield every stored file, including partial files of killed processes."""
        entries = self._fs.find(f"{self._root}/sha256", detail=True)
        for path, info in entries.items():
            if not path.endswith("/lock"):
                yield StoredFile(path.rsplit("/", 1)[-1], int(info["size"]), _modification_time(info))

    def remove(self, name: str, *, before: datetime) -> bool:
        """Remove a file unless it was stored at ``before`` or later; return whether it was removed."""
        path = (
            next((p for p in self._fs.find(f"{self._root}/sha256") if p.endswith(f"/{name}")), "") if len(name) != 64 else self._path(name)
        )
        with self._lock_folder(path):
            self._fs.invalidate_cache()
            if not path or not self._fs.exists(path) or _modification_time(self._fs.info(path)) >= before:
                return False
            self._fs.rm_file(path)
        return True

    def _lock_folder(self, path: str) -> AbstractContextManager[None]:
        """Hold the lock of all removals, so that no file disappears meanwhile; on S3 or without a writable folder, do nothing."""
        folder = Path(self._root) / "sha256"
        return hold_lock(folder / "lock") if self._local and path and folder.is_dir() and os.access(folder, os.W_OK) else nullcontext()

    def get(self, sha256: str) -> bytes:
        """Return the bytes with this sha256; raise ArtifactError when they are missing or have another sha256."""
        path = self._path(sha256)
        try:
            data: bytes = self._fs.cat_file(path)
        except FileNotFoundError as error:
            raise ArtifactError(
                f"artifact {sha256} is missing at {self.url(sha256)}",
                hint="restore it from a backup; `mlops doctor` names the version that needs it",
            ) from error
        if (actual := _sha256(data)) != sha256:
            raise ArtifactError(
                f"artifact {sha256} was changed after it was stored: its bytes have the sha256 {actual}",
                hint="restore it from a backup; `mlops doctor` names the version that needs it",
            )
        return data

    def exists(self, sha256: str) -> bool:
        """Return whether bytes with this sha256 are stored."""
        return bool(self._fs.exists(self._path(sha256)))

    def url(self, sha256: str) -> str:
        """Return the URL at which bytes with this sha256 are stored, or would be."""
        return str(self._fs.unstrip_protocol(self._path(sha256)))

    def _path(self, sha256: str) -> str:
        return f"{self._root}/sha256/{sha256[:2]}/{sha256}"


def open_artifacts(url: str) -> Artifacts:
    """Return the artifacts in a folder or at an fsspec URL; the first write creates the folder."""
    return FsspecArtifacts(url)


def _modification_time(info: dict[str, Any]) -> datetime:
    at = info.get("LastModified", info.get("mtime", info.get("created")))
    return at.astimezone(UTC) if isinstance(at, datetime) else datetime.fromtimestamp(float(at or 0), UTC)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomically(path, data)
    except OSError as error:
        raise InstallationError(
            f"artifacts cannot be written to '{path.parent}': {error.strerror}", hint="make the folder writable, or set MLOPS_ARTIFACTS"
        ) from error
