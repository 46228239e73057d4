"""Orders of customers, of whom one wants to be forgotten: bad rows set aside, a view by customer and one by shop, a model."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import dagster as dg
import pandera.polars as pa
import polars as pl
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

import mlops_assets as ml
from tests.projects import deadly

VICTIM = "zq-victim-7731"  # no other file of a platform holds these letters by chance
MAIL = "zq-mail-of-the-victim"
DAYS = 6
START = datetime(2024, 1, 1, tzinfo=UTC)
DAILY = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-07")
WHOLE = "2024-01-01...2024-01-06"
GONE: list[str] = []  # customers that the source has forgotten as well
Utc = Annotated[pl.Datetime, "us", "UTC"]


class Order(pa.DataFrameModel):
    """One order."""

    order: str = pa.Field(unique=True)
    customer: str
    mail: str
    shop: str
    at: Utc
    amount: float = pa.Field(ge=0)
    returned: int


def source(day: int) -> pl.DataFrame:
    """The orders of one day; the victim orders from the second day on, and one order of theirs is bad."""
    names = [*(f"c{i}" for i in range(9)), *([VICTIM] * 3 if day >= 1 else [])]
    rows = [
        {
            "order": f"{day}-{i}",
            "customer": name,
            "mail": MAIL if name == VICTIM else f"{name}@example.org",
            "shop": "ab"[i % 2],
            "at": START + timedelta(days=day, hours=i),
            "amount": -1.0 if name == VICTIM and i == 11 and day == 2 else float(10 * day + i),
            "returned": (i + day) % 2,
        }
        for i, name in enumerate(names)
        if name not in GONE
    ]
    return pl.DataFrame(rows, schema_overrides={"at": pl.Datetime("us", "UTC"), "returned": pl.Int64})


def build(platform: ml.Platform) -> dg.Definitions:
    """Compile the project."""

    @ml.dataset(schema=Order, partitions=DAILY, key="order", event_timestamp="at", quarantine=0.5)
    def orders(window: ml.TimeWindow) -> pl.DataFrame:
        return pl.concat([source(day) for day in range((window.start - START).days, (window.end - START).days)])

    common = {"event_timestamp": "at", "partitions": DAILY}

    @ml.feature_view(**common, entity=ml.Entity("customer"), features={"spent": float}, online=True)
    def spending(orders: pl.LazyFrame) -> pl.LazyFrame:
        return orders.select("customer", "at", spent=pl.col("amount"))

    @ml.feature_view(**common, entity=ml.Entity("shop"), features={"takings": float}, online=True)
    def takings(orders: pl.LazyFrame) -> pl.LazyFrame:
        return orders.group_by("shop", pl.col("at").dt.truncate("1d")).agg(takings=pl.col("amount").sum())

    @ml.training_set(
        features=[spending, takings],
        columns=["amount"],
        label="returned",
        event_timestamp="at",
        split=ml.GroupSplit("order", validation=0.25, holdout=0.25),
    )
    def returns(orders: pl.LazyFrame) -> pl.LazyFrame:
        return orders.drop("mail")

    @ml.model(training_set=returns, metrics=["roc_auc"], gates=[ml.Gate("roc_auc", at_least=0.0)])
    def returned(train: ml.Split) -> Pipeline:
        return make_pipeline(SimpleImputer(), LogisticRegression()).fit(train.X, train.y)

    service = ml.Service("returns_api", model=returned)
    return ml.build_definitions([orders, spending, takings, returns, returned, service], platform=platform)


deadly.obey()
defs = build(ml.Platform.from_env())
