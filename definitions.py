"""The reference project: will a flight from New York arrive late?"""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import dagster as dg
import pandera.polars as pa
import polars as pl

import flights_data
import mlops_assets as ml
from features import clock

if TYPE_CHECKING:
    from sklearn.base import ClassifierMixin

DAILY = dg.DailyPartitionsDefinition("2013-01-01", end_date="2014-01-01", timezone="America/New_York")
Utc = Annotated[pl.Datetime, "us", "UTC"]


class Departure(pa.DataFrameModel):
    """One scheduled departure from EWR, JFK or LGA."""

    flight_id: str = pa.Field(unique=True)
    scheduled_at: Utc
    landed_at: Utc = pa.Field(nullable=True)
    carrier: str
    origin: str = pa.Field(isin=["EWR", "JFK", "LGA"])
    dest: str
    distance: int = pa.Field(ge=0, description="Miles.")
    dep_delay: float = pa.Field(nullable=True, description="Minutes.")
    arr_delay: float = pa.Field(nullable=True, description="Minutes; null when cancelled.")
    air_time: float = pa.Field(nullable=True, description="Minutes.")


@ml.dataset(
    schema=Departure,
    partitions=DAILY,
    key="flight_id",
    event_timestamp="scheduled_at",
    known_at={"dep_delay": "landed_at", "arr_delay": "landed_at", "air_time": "landed_at", "landed_at": "landed_at"},
    call_per="range",  # one read of the file for a month or a year
)
def flights(window: ml.TimeWindow) -> pl.LazyFrame:
    """Every scheduled departure of one day."""
    return flights_data.departures(window)


@ml.dataset(
    partitions=DAILY,
    key=("origin", "observed_at"),
    event_timestamp="observed_at",
    created_timestamp="published_at",
    allow_empty=True,
    call_per="range",
)
def weather(window: ml.TimeWindow) -> pl.LazyFrame:
    """Hourly weather at the three airports."""
    return flights_data.observations(window)


dbt = ml.DbtProject("dbt_features")


def declare_punctuality(model: str, entity: ml.Entity, prefix: str) -> ml.FeatureView:
    """How late the flights of an entity were yesterday; the row of a day exists when the day has ended."""
    return ml.FeatureView(
        source=dbt.model(model, partitions=DAILY),
        entity=entity,
        event_timestamp="day",
        created_timestamp="as_of",
        ttl=timedelta(days=2),
        features={f"{prefix}_late_share_1d": float, f"{prefix}_mean_delay_1d": float},
        online=True,
    )


carrier_punctuality = declare_punctuality("carrier_punctuality", ml.Entity("carrier"), "carrier")
origin_punctuality = declare_punctuality("origin_punctuality", ml.Entity("origin"), "origin")
destination_punctuality = declare_punctuality("destination_punctuality", ml.Entity("destination", join_keys=("dest",)), "dest")
route_punctuality = declare_punctuality("route_punctuality", ml.Entity("route", join_keys=("origin", "dest")), "route")

# Of a past year. A live service would need hourly partitions or pushed rows: a daily partition exists when its day has ended.
origin_weather = ml.FeatureView(
    name="origin_weather",
    source=weather,
    entity=ml.Entity("origin"),
    event_timestamp="observed_at",
    created_timestamp="published_at",
    ttl=timedelta(hours=6),
    features=dict.fromkeys(flights_data.WEATHER, float),
    online=True,
)


@ml.training_set(
    features=[carrier_punctuality, origin_punctuality, destination_punctuality, route_punctuality, origin_weather, clock],
    columns=["carrier", "origin", "dest", "distance"],
    label="late",
    label_known_at="landed_at",
    event_timestamp="scheduled_at",
    split=ml.TimeSplit(validation=timedelta(days=14), holdout=timedelta(days=14)),
)
def departures(flights: pl.LazyFrame) -> pl.LazyFrame:
    """Flights that landed; late when 15 minutes or more behind schedule."""
    landed = flights.filter(pl.col("arr_delay").is_not_null() & pl.col("landed_at").is_not_null())
    return landed.select("flight_id", "scheduled_at", "landed_at", "carrier", "origin", "dest", "distance", late=pl.col("arr_delay") > 15)


class Hyperparameters(dg.Config):
    """Hyperparameters that the launchpad can set."""

    learning_rate: float = 0.05
    max_iter: int = 300


@ml.model(
    training_set=departures,
    metrics=["roc_auc", "neg_log_loss"],
    gates=[ml.Gate("roc_auc", at_least=0.65), ml.Gate("neg_log_loss", no_worse_than_champion_by=0.005)],
    slices=["origin", "carrier"],
    limits=[
        "Not for airports other than EWR, JFK and LGA, nor for flights that have departed.",
        "Not evaluated on seasons outside of the training rows.",
    ],
    cron_schedule="0 4 * * 1",
    cron_timezone="America/New_York",
)
def lateness(train: ml.Split, params: Hyperparameters) -> "ClassifierMixin":
    """Probability that a flight arrives late."""
    # imported here, because commands that only read the project do not train
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    categories = make_column_transformer(
        (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["carrier", "origin", "dest"]), remainder="passthrough"
    )
    trees = HistGradientBoostingClassifier(
        learning_rate=params.learning_rate, max_iter=params.max_iter, min_samples_leaf=100, l2_regularization=5.0, random_state=0
    )
    return make_pipeline(categories, trees).fit(train.X, train.y)


@ml.gate(lateness)
def fair_to_every_airport(candidate: ml.Candidate) -> ml.GateResult:
    """No airport's AUC is more than 0.1 below the overall one."""
    overall = candidate.evaluation.metric("roc_auc")
    worst = min((candidate.evaluation.metric("roc_auc", within=("origin", origin)), origin) for origin in ("EWR", "JFK", "LGA"))
    return ml.GateResult(
        passed=worst[0] >= overall - 0.1,
        reason=f"{worst[1]} has {worst[0]:.3f}, all have {overall:.3f}",
        value=worst[0],
        threshold=overall - 0.1,
    )


tomorrow = ml.BatchPrediction("tomorrow", model=lateness, dataset=flights)

lateness_api = ml.Service("lateness_api", model=lateness)

lateness_watch = ml.Monitor(
    "lateness_watch",
    of=lateness_api,
    partitions=DAILY,
    expectations=(ml.Drift(), ml.Performance("roc_auc", at_least=0.62)),
    on_failure=ml.Retrain(cooldown=timedelta(days=7)),
)

defs = ml.build_definitions(
    [
        flights,
        weather,
        dbt,
        carrier_punctuality,
        origin_punctuality,
        destination_punctuality,
        route_punctuality,
        origin_weather,
        departures,
        lateness,
        fair_to_every_airport,
        tomorrow,
        lateness_api,
        lateness_watch,
    ],
    platform=ml.Platform.from_env(),
)
