"""Record files and environment variables that a user's function reads while it runs.

An audit hook of the interpreter reports opened files. Files that a library opens in native code are not reported.
"""

from __future__ import annotations

import hashlib
import os
import site
import sys
import sysconfig
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ABSENT = "absent"
_DESCRIPTIONS = {"file": "the file", "variable": "the environment variable"}
# Not all of /usr and /opt: projects are often installed as /usr/src/app and /opt/dagster/app.
_SYSTEM = ("/proc", "/sys", "/lib", "/lib64", "/etc", "/bin")
_INTERPRETER_FOLDERS = ("bin", "etc", "include", "lib", "lib64", "libexec", "share")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_TRANSPARENT_FILES = {
    os.__file__,
    "<frozen os>",
    "<frozen _collections_abc>",
}  # their frames lie between project code and the read of a variable


@dataclass
class OutsideReads:
    """Files and environment variables that a user's function reads in addition to its arguments.

    Parameters
    ----------
    ignored
        Folders whose files are not recorded, because they do not affect results, such as the folders of the platform.
    files, variables
        Absolute paths and names, in the order of the first read.
    written
        Files that were also opened for writing.
    noted
        Path, mode and flags of each opened file.
    """

    ignored: tuple[str, ...] = ()
    files: dict[str, None] = field(default_factory=dict)
    variables: dict[str, None] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)
    noted: set[tuple[object, ...]] = field(default_factory=set, repr=False)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record reads until the context ends, in every thread of this process."""
        _install_hook()
        _recorders.append(self)
        try:
            yield
        finally:
            _recorders.remove(self)

    def note_file(self, path: object, mode: object, flags: object) -> None:
        """Note an opened file as written, or as read. Reads of code, of libraries and in ignored folders are not noted."""
        if not isinstance(path, (str, bytes, os.PathLike)) or (path, mode, flags) in self.noted:
            return
        self.noted.add((path, mode, flags))
        name = os.path.realpath(os.fsdecode(path))
        writes = any(letter in str(mode or "") for letter in "wax+") or (isinstance(flags, int) and bool(flags & _WRITING))
        if writes:
            self.written.add(name)
        elif not (is_library_file(name) or name.startswith(self.ignored) or name.endswith((".py", ".pyc", ".so"))):
            self.files[name] = None

    @property
    def whole_environment(self) -> bool:
        """Whether the code copied the whole environment, so that the variables it uses are unknown."""
        return len(self.variables) > 1 and set(os.environ) <= set(self.variables)

    def hashes(self) -> dict[str, str]:
        """Return ``file:PATH`` or ``variable:NAME`` → current content hash of each read.

        Excluded are files that were also written (they are results), files that no longer exist, and a copied environment.
        """
        files = [name for name in self.files if name not in self.written and Path(name).is_file()]
        variables = () if self.whole_environment else self.variables
        return hash_outside([*(f"file:{_shorten_path(name)}" for name in files), *(f"variable:{name}" for name in variables)])

    def describe_reads(self) -> list[str]:
        """Return a text for each read in :meth:`hashes`, such as ``the file 'a.csv'``."""
        return [f"{_DESCRIPTIONS[kind]} '{name}'" for kind, name in (read.split(":", 1) for read in self.hashes())]


def hash_outside(names: list[str]) -> dict[str, str]:
    """Return the current content hash of files and environment variables by name, sorted; ``absent`` for a read that fails.

    Parameters
    ----------
    names
        ``file:PATH`` or ``variable:NAME``, as :meth:`OutsideReads.hashes` returns them.
    """
    return {name: _hash_content(*name.split(":", 1)) for name in sorted(names)}


def describe_changes(recorded: Mapping[str, str]) -> list[str]:
    """Return a text for each recorded read whose content has changed or is gone.

    ``recorded`` is the result of an earlier :meth:`OutsideReads.hashes`.
    """
    now = hash_outside(list(recorded))
    changed = [(*name.split(":", 1), digest) for name, digest in now.items() if digest != recorded[name]]
    return [f"{_DESCRIPTIONS[kind]} '{name}' {'is gone' if digest == ABSENT else 'has changed'}" for kind, name, digest in changed]


def _hash_content(kind: str, name: str) -> str:
    """Return the sha256 of a file or environment variable; ``absent`` when it does not exist or cannot be read."""
    if kind == "variable":
        value = os.environ.get(name)
        return ABSENT if value is None else hashlib.sha256(value.encode()).hexdigest()
    try:
        with Path(name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ABSENT


def _shorten_path(name: str) -> str:
    """Return a path inside the working folder relative to this folder, so that a project may move."""
    here = str(Path.cwd()) + os.sep
    return name.removeprefix(here)


_recorders: list[OutsideReads] = []


def is_library_file(path: str) -> bool:
    """Return whether a file belongs to the interpreter, an installed package or the system.

    Parameters
    ----------
    path
        Absolute.
    """
    return path.startswith(_library_folders())


@cache
def _library_folders() -> tuple[str, ...]:
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, "/usr", "/usr/local"}
    folders = {f"{prefix}/{name}" for prefix in prefixes for name in _INTERPRETER_FOLDERS}
    folders |= {path for name, path in sysconfig.get_paths().items() if name != "data"} | set(site.getsitepackages())
    folders |= {str(Path(__file__).parents[2]), f"{tempfile.gettempdir()}/joblib", *_SYSTEM}
    return tuple(dict.fromkeys(path + os.sep for folder in sorted(folders) for path in (folder, os.path.realpath(folder))))


def _audit_hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _recorders and event == "open":
        path, mode, flags = arguments
        for recorder in tuple(_recorders):
            recorder.note_file(path, mode, flags)


class _Environment(type(os.environ)):  # type: ignore[misc]  # the only class of its kind
    """The environment variables, which record each read by project code."""

    def __getitem__(self, key: str) -> str:
        if _recorders and _is_read_by_project():
            for recorder in tuple(_recorders):
                recorder.variables[key] = None
        return super().__getitem__(key)  # type: ignore[no-any-return]


def _is_read_by_project() -> bool:
    """Return whether the current read of an environment variable comes from project code, not from a library."""
    frame: Any = sys._getframe(2)  # noqa: SLF001  (no public function returns the caller)
    while frame is not None and frame.f_code.co_filename in _TRANSPARENT_FILES:
        frame = frame.f_back
    name = "" if frame is None else frame.f_code.co_filename
    return not (is_library_file(name) or name.startswith("<"))


@cache
def _install_hook() -> None:
    """Install the audit hook at the first recording, so that programs without recordings have no overhead."""
    _library_folders()  # before the hook: finding them opens files
    sys.addaudithook(_audit_hook)
    os.environ.__class__ = _Environment
