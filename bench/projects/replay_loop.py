"""Policies of retraining as one would write them: cut the rows by time, fit, predict until the next fit, measure each month."""

import json
import sys
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

ZONE = ZoneInfo("America/New_York")
START, END = datetime(2013, 4, 1, tzinfo=ZONE), datetime(2014, 1, 1, tzinfo=ZONE)
X = [  # in the order of the training set: another one breaks ties between splits differently
    *(f"{name}_{value}_1d" for name in ("carrier", "origin", "dest", "route") for value in ("late_share", "mean_delay")),
    *("dewp", "humid", "precip", "pressure", "temp", "visib", "wind_dir", "wind_gust", "wind_speed"),
    *("minute", "weekday", "carrier", "origin", "dest", "distance"),
]


def fit(rows: pl.DataFrame):
    categories = make_column_transformer(
        (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["carrier", "origin", "dest"]), remainder="passthrough"
    )
    trees = HistGradientBoostingClassifier(learning_rate=0.05, max_iter=300, min_samples_leaf=100, l2_regularization=5.0, random_state=0)
    return make_pipeline(categories, trees).fit(rows.select(X), rows["late"].to_numpy())


def known(rows: pl.DataFrame, time: datetime, window: timedelta | None) -> pl.DataFrame:
    found = rows.filter((pl.col("scheduled_at") < time) & (pl.col("landed_at") <= time))
    return (
        found
        if window is None
        else found.filter(pl.col("scheduled_at") >= found["scheduled_at"].max() + timedelta(microseconds=1) - window)
    )


def live(rows: pl.DataFrame, every: timedelta | None, window: timedelta | None) -> tuple[np.ndarray, int]:
    """Return the probability of each row of the period, and the number of fits."""
    days = [START.date() + timedelta(days=n) for n in range((END.date() - START.date()).days + 1)]
    ends = [datetime(d.year, d.month, d.day, tzinfo=ZONE).astimezone(UTC) for d in days]
    times, last = [ends[0]], ends[0]
    for end in ends[1:-1]:
        if every is not None and end >= last + every:
            times, last = [*times, end], end
    parts = []
    for begin, stop in zip(times, [*times[1:], ends[-1]], strict=True):
        chosen = rows.filter(pl.col("scheduled_at").is_between(begin, stop, closed="left"))
        parts.append(fit(known(rows, begin, window)).predict_proba(chosen.select(X))[:, 1])
    return np.concatenate(parts), len(times)


def main() -> None:
    rows = pl.read_ipc(sys.argv[1])
    period = rows.filter(pl.col("scheduled_at").is_between(START.astimezone(UTC), END.astimezone(UTC), closed="left"))
    months = period["scheduled_at"].dt.convert_time_zone(ZONE.key).dt.month().to_numpy()
    late = period["late"].to_numpy()
    windows: list[dict[str, float]] = [{} for _ in range(4, 13)]
    fits = {}
    for policy in sys.argv[2:]:
        every = timedelta(days=30) if policy.startswith("every") else None
        shares, fits[policy] = live(rows, every, timedelta(days=90) if "window" in policy else None)
        for number, month in enumerate(range(4, 13)):
            windows[number][policy] = float(roc_auc_score(late[months == month], shares[months == month]))
    print(json.dumps({"windows": windows, "fits": fits}))


if __name__ == "__main__":
    main()
