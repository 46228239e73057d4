"""On-demand features of the reference project: numpy only, so that a service can run exactly this file."""

import numpy as np

import mlops_assets as ml


@ml.on_demand_features
def clock(scheduled_at: np.ndarray) -> dict[str, np.ndarray]:
    """Hour and weekday of departure; one function for training and for serving."""
    hours = scheduled_at.astype("datetime64[h]").astype(int)
    return {"hour": hours % 24, "weekday": (hours // 24 + 3) % 7}
