"""The rows of the online benchmark: 10,000 entities, three views of five features, one row for each; nothing but numpy."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

ENTITIES, VIEWS, FEATURES = 10_000, 3, 5
EVENT = datetime(2026, 1, 1, 12, tzinfo=UTC)
AT = 1_767_272_400_000_000  # an hour later, in microseconds


def names(view: int) -> list[str]:
    """Return the features of a view: four floats and a whole number."""
    return [f"f{view}_{i}" for i in range(FEATURES)]


def entities() -> list[str]:
    """Return the keys."""
    return [f"e{i:05d}" for i in range(ENTITIES)]


def columns(view: int) -> dict[str, np.ndarray]:
    """Return the values of a view."""
    rng = np.random.default_rng(view)
    return {name: rng.integers(0, 10**6, ENTITIES) if i == FEATURES - 1 else rng.random(ENTITIES) for i, name in enumerate(names(view))}


def asked(seed: int, count: int) -> list[str]:
    """Return the entities of one request."""
    return [f"e{i:05d}" for i in np.random.default_rng(seed).integers(0, ENTITIES, count)]
