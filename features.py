"""On-demand features of the reference project: NumPy and the standard library only, so that a service can run exactly this file."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np

import mlops_assets as ml


@ml.on_demand_features
def clock(scheduled_at: np.ndarray) -> dict[str, np.ndarray]:
    """Minute of the day and weekday of departure in New York; one function for training and for serving."""
    zone = ZoneInfo("America/New_York")  # a flight leaves at the same local time in winter and summer
    minutes = scheduled_at.astype("datetime64[m]").astype(np.int64)
    hours, positions = np.unique(minutes // 60, return_inverse=True)
    offsets = [datetime.fromtimestamp(hour * 3600, UTC).astimezone(zone).utcoffset() for hour in hours.tolist()]
    local = minutes + np.array([int(offset.total_seconds()) // 60 for offset in offsets if offset is not None])[positions]
    return {"minute": local % 1440, "weekday": (local // 1440 + 3) % 7}
