"""Compare installed library versions with the versions of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_EXACT_TO_MINOR = ("scikit-learn",)  # libraries whose minor versions change the stored format


@dataclass(frozen=True)
class LibraryChange:
    """A library whose installed version differs from the version in training.

    Parameters
    ----------
    name
        The library.
    trained, installed
        The version in training, and the installed version; the latter is empty when the library is not installed.
    serious
        Whether the major version (for scikit-learn, also the minor version) differs: a stored model may then predict differently.
    """

    name: str
    trained: str
    installed: str
    serious: bool

    def __str__(self) -> str:
        """Return the name and both versions as text."""
        return f"{self.name} {self.trained} then, {self.installed or 'not installed'} now"


def find_library_changes(trained: Mapping[str, str], installed: Mapping[str, str]) -> list[LibraryChange]:
    """Return the libraries of a training whose installed version differs, serious changes first, then by name.

    Parameters
    ----------
    trained, installed
        Name → version.
    """
    changes = [
        LibraryChange(name, then, now, _is_serious(name, then, now))
        for name, then in trained.items()
        if (now := installed.get(name, "")) != then
    ]
    return sorted(changes, key=lambda change: (not change.serious, change.name))


def _is_serious(name: str, then: str, now: str) -> bool:
    parts = 2 if name in _EXACT_TO_MINOR else 1
    return then.split(".")[:parts] != now.split(".")[:parts]
