"""Content-addressed bytes, in a folder or on S3."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Protocol

from mlops_assets.errors import ArtifactError, MissingExtraError, PlatformError
from mlops_assets.stores.files import write_whole


class Artifacts(Protocol):
    """Bytes named by their sha256."""

    def put(self, data: bytes) -> str:
        """Store bytes and return their sha256; storing them again changes nothing."""
        ...

    def get(self, sha256: str) -> bytes:
        """Return verified bytes; raise ArtifactError when they are missing or not those that were stored."""
        ...

    def exists(self, sha256: str) -> bool:
        """Whether something is stored under this name."""
        ...

    def url(self, sha256: str) -> str:
        """Return where the bytes lie."""
        ...


class FsspecArtifacts:
    """Artifacts on any file system that fsspec knows.

    Parameters
    ----------
    root
        A folder, or a URL such as ``s3://bucket/prefix``. S3 takes ``AWS_ENDPOINT_URL`` and the usual credentials from the environment.
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
        """Store bytes and return their sha256."""
        digest = hashlib.sha256(data).hexdigest()
        path = self._path(digest)
        if self._fs.exists(path) and _sha256(self._fs.cat_file(path)) == digest:
            return digest
        if self._local:
            _write(Path(path), data)
        else:
            self._fs.pipe_file(path, data)  # S3 shows an object only when it is complete
        return digest

    def get(self, sha256: str) -> bytes:
        """Return verified bytes."""
        path = self._path(sha256)
        try:
            data: bytes = self._fs.cat_file(path)
        except FileNotFoundError as error:
            raise ArtifactError(
                f"artifact {sha256} is missing at {self.url(sha256)}", hint="restore it from a backup, or train the version again"
            ) from error
        if (actual := _sha256(data)) != sha256:
            raise ArtifactError(
                f"artifact {sha256} holds other bytes, with sha256 {actual}",
                hint="it was changed after it was stored: restore it, or train the version again",
            )
        return data

    def exists(self, sha256: str) -> bool:
        """Whether something is stored under this name."""
        return bool(self._fs.exists(self._path(sha256)))

    def url(self, sha256: str) -> str:
        """Return where the bytes lie."""
        return str(self._fs.unstrip_protocol(self._path(sha256)))

    def _path(self, sha256: str) -> str:
        return f"{self._root}/sha256/{sha256[:2]}/{sha256}"


def open_artifacts(url: str) -> Artifacts:
    """Open the artifacts below a folder or an fsspec URL."""
    return FsspecArtifacts(url)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(path: Path, data: bytes) -> None:
    try:
        write_whole(path, data)
    except OSError as error:
        raise PlatformError(
            f"artifacts cannot be written to '{path.parent}': {error.strerror}", hint="make the folder writable, or set MLOPS_ARTIFACTS"
        ) from error
