"""The state file of an as-of layout, protected by a checksum, and the search for damaged layout files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.stores.base.checksums import json_sha256
from mlops_assets.stores.base.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

STATE = "state.json"
_KEYS = {"definition", "snapshot", "partitions", "buckets"}
_BUCKET_KEYS = {"name", "rows", "size", "check"}


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a layout atomically."""
    write_atomically(folder / STATE, json.dumps({"state": state, "checksum": json_sha256(state)}).encode(), mode=0o666)


def read_state(folder: Path) -> dict[str, Any] | None:
    """Return the state of a layout; None when it is missing or damaged, so that the layout is rebuilt."""
    try:
        stored = json.loads((folder / STATE).read_text(encoding="utf-8"))
        state: dict[str, Any] = stored["state"]
        return state if stored["checksum"] == json_sha256(state) and _is_complete(state) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_complete(state: Mapping[str, Any]) -> bool:
    """Return whether a state has exactly the fields that this version of the program reads."""
    return state.keys() == _KEYS and all(file.keys() == _BUCKET_KEYS for file in state["buckets"])


def find_damaged_layouts(layouts: Path) -> Iterator[tuple[Path, str]]:
    """Yield the damaged files of all layouts, each with its problem; also each file or folder that is not a layout, with an empty problem.

    Parameters
    ----------
    layouts
        The folder of all layouts.
    """
    for folder in sorted(layouts.iterdir()) if layouts.is_dir() else ():
        if not folder.is_dir() or not ((folder / STATE).exists() or (folder / "lock").exists()):
            yield folder, ""
        elif (folder / STATE).exists():
            yield from _find_damage(folder)


def _find_damage(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield each damaged file of a layout with its problem; for a damaged state file nothing else."""
    state = read_state(folder)
    if state is None:
        yield folder / STATE, "its content has changed"
        return
    for file in state["buckets"]:
        path = folder / file["name"]
        if not path.exists():
            yield path, "it is missing"
        elif (path.stat().st_size, compute_file_checksum(path.read_bytes())) != (file["size"], file["check"]):
            yield path, "its content has changed"


def compute_file_checksum(content: Any) -> str:  # noqa: ANN401  (anything with a buffer)
    """Return a fast checksum of bytes: the sum and the XOR of their 64-bit words, in hex. Any single flipped bit changes both."""
    data = np.frombuffer(content, dtype=np.uint8)
    words = data[: len(data) // 8 * 8].view(np.uint64)
    rest = int.from_bytes(data[len(words) * 8 :].tobytes(), "little")
    return f"{(int(np.add.reduce(words)) + rest) % 2**64:016x}{int(np.bitwise_xor.reduce(words)) ^ rest:016x}"
