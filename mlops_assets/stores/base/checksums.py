"""The checksum of JSON-like values."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def json_sha256(value: Any) -> str:  # noqa: ANN401  (what JSON holds)
    """Return the sha256 of a value's JSON, whose keys are sorted so that their order does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
