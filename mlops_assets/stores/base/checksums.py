"""One checksum for JSON-like values."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def json_sha256(value: Any) -> str:  # noqa: ANN401  (what JSON holds)
    """Return the sha256 of a value as JSON with sorted keys: equal values have equal checksums."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
