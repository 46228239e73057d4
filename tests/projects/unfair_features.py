"""On-demand features that a service cannot compute as training does: each breaks the rule in its own way."""

import numpy as np

import mlops_assets as ml


@ml.on_demand_features
def centred(amount: np.ndarray) -> dict[str, np.ndarray]:
    """The mean of all rows decides."""
    return {"centred": amount - amount.mean()}


@ml.on_demand_features
def ranked(amount: np.ndarray) -> dict[str, np.ndarray]:
    """The place among all rows."""
    return {"rank": amount.argsort().argsort()}


@ml.on_demand_features
def drawn(amount: np.ndarray) -> dict[str, np.ndarray]:
    """Another number each time."""
    return {"drawn": np.random.default_rng().random(len(amount))}


@ml.on_demand_features
def lonely(amount: np.ndarray) -> dict[str, np.ndarray]:
    """Fails for one row."""
    return {"step": np.interp(amount, amount[[0, 1]], [0.0, 1.0])}


@ml.on_demand_features
def fair(amount: np.ndarray, at: np.ndarray, name: np.ndarray) -> dict[str, np.ndarray]:
    """Each row by itself."""
    hours = at.astype("datetime64[h]").astype(int)
    return {"log": np.log1p(np.abs(amount)), "hour": hours % 24, "length": np.array([len(n or "") for n in name])}
