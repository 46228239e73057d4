"""Compare installed library versions with those of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_EXACT_TO_MINOR = ("scikit-learn",)  # whose minor versions change what is stored


@dataclass(frozen=True)
class LibraryChange:
    """A library whose installed version differs from the version in training.

    Parameters
    ----------
    installed
        Empty when it is not installed.
    serious
        Whether the major version differs, or scikit-learn's minor version, because a stored model may then predict differently.
    """

    name: str
    trained: str
    installed: str
    serious: bool

    def __str__(self) -> str:
        """Return both versions as text."""
        return f"{self.name} {self.trained} then, {self.installed or 'not installed'} now"


def find_library_changes(trained: Mapping[str, str], installed: Mapping[str, str]) -> list[LibraryChange]:
    """Return changed libraries, incompatible ones first.

    Parameters
    ----------
    trained, installed
        Name → version.
    """
    found = [
        LibraryChange(name, then, now, _is_serious(name, then, now))
        for name, then in trained.items()
        if (now := installed.get(name, "")) != then
    ]
    return sorted(found, key=lambda other: (not other.serious, other.name))


def _is_serious(name: str, then: str, now: str) -> bool:
    parts = 2 if name in _EXACT_TO_MINOR else 1
    return then.split(".")[:parts] != now.split(".")[:parts]
