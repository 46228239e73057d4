"""What is left of a home whose registry was deleted: a command must not begin again over it without a word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_assets.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SHA256 = 64  # letters


def refuse_remains(registry: Path) -> None:
    """Refuse to make a registry where artifacts or prediction logs of an earlier one remain.

    Parameters
    ----------
    registry
        The file of a registry that is missing or empty; the folders alongside it are those of the home.

    Raises
    ------
    RegistryError
        Something remains that only a registry can name.
    """
    home = registry.parent
    found = {"artifact(s)": _artifacts(home), "prediction log file(s)": list((home / "services").glob("*/log/*/*.jsonl"))}
    remains = [f"{len(files)} {what}, such as '{files[0]}'," for what, files in found.items() if files]
    if remains:
        raise RegistryError(
            f"the registry '{registry}' is missing or empty, but {' and '.join(remains)} remain",
            hint=f"restore '{registry.name}' from a backup; to begin again without versions and runs, move the remains away first",
        )


def _artifacts(home: Path) -> list[Path]:
    return [path for path in _files(home / "artifacts" / "sha256") if len(path.name) == _SHA256]


def _files(folder: Path) -> Iterator[Path]:
    return folder.glob("*/*")
