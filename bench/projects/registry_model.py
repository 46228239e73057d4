"""The model that both registries keep: nothing of either in here."""

from __future__ import annotations

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

COLUMNS = 14
VERSIONS = 1000


def rows(count: int, seed: int = 0) -> np.ndarray:
    """Return rows that are the same wherever they are made."""
    return np.random.default_rng(seed).normal(size=(count, COLUMNS))


def fitted() -> HistGradientBoostingClassifier:
    """Return a classifier of 100 trees."""
    X = rows(5000)
    return HistGradientBoostingClassifier(max_iter=100, random_state=0).fit(X, X[:, 0] + X[:, 1] ** 2 > 1)


def small() -> LogisticRegression:
    """Return a linear classifier: what is left of loading it is the registry."""
    X = rows(5000)
    return LogisticRegression().fit(X, X[:, 0] > 0)


def asked() -> np.ndarray:
    """Return the rows whose predictions are compared."""
    return rows(200, seed=1)
