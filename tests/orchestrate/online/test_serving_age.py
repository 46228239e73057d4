"""A ttl that ends before the next row can be there is warned of when the project is built; a request about the past gets a hint that can help."""

import warnings
from datetime import UTC, datetime, timedelta

import dagster as dg
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression

import mlops_assets as ml
from mlops_assets.compute.tables.own_columns import LOGGED_AT, MODEL_VERSION
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.online.serving_age import explain_early_stamp, explain_short_ttl
from mlops_assets.orchestrate.online.skew import SkewReading, check_skew
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import Runner

OPEN = dg.DailyPartitionsDefinition("2024-01-01")
ENDED = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-02-01")
AHEAD = dg.DailyPartitionsDefinition("2024-01-01", end_offset=1)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
STAMPED = "SELECT shop, getvariable('window_start') AS as_of, count(*)::DOUBLE AS sold FROM sales GROUP BY shop"
NEWEST = 'SELECT shop, max("at") AS as_of, count(*)::DOUBLE AS sold FROM sales GROUP BY shop'


def view(ttl: timedelta | None, partitions=OPEN, query: str = NEWEST, **more) -> ml.FeatureView:
    return ml.FeatureView(
        name="sold",
        source=ml.Sql(query, partitions=partitions),
        entity=ml.Entity("shop"),
        event_timestamp="as_of",
        ttl=ttl,
        features={"sold": float},
        **{"online": True} | more,
    )


@pytest.mark.parametrize(
    ("declared", "age"),
    [
        (view(3 * HOUR), DAY),
        (view(DAY), None),
        (view(None), None),
        (view(3 * HOUR, ENDED), None),
        (view(3 * HOUR, AHEAD), None),
        (view(DAY, query=STAMPED), 2 * DAY),
        (view(DAY, query=STAMPED.replace("AS as_of", "as_of")), 2 * DAY),
        (view(DAY, query=STAMPED.replace("as_of", "as_of_day")), None),
        (view(2 * DAY, query=STAMPED), None),
        (view(DAY, AHEAD, STAMPED), None),
        (view(23 * HOUR, AHEAD, STAMPED), DAY),
        (view(HOUR, dg.HourlyPartitionsDefinition("2024-01-01-00:00"), STAMPED), 2 * HOUR),
    ],
)
def test_a_ttl_must_last_until_the_next_row_can_be_there(declared, age) -> None:
    found = list(explain_short_ttl(declared))
    assert len(found) == (age is not None)
    if age is not None:
        assert f"feature view 'sold' has a ttl of {declared.ttl}, but its newest row is up to {age} old" in found[0]
        assert f"Hint: set ttl={age!r} or more" in found[0]


def test_a_ttl_shorter_than_the_declared_freshness_is_warned_of() -> None:
    (found,) = explain_short_ttl(view(2 * DAY, freshness=4 * DAY))
    assert "freshness= allows its newest materialisation to be 4 days, 0:00:00 old" in found


ENDS = STAMPED.replace(" AS as_of,", " AS as_of, getvariable('window_end') AS known_from,")


@pytest.mark.parametrize(
    ("declared", "warned"),
    [
        (view(2 * DAY, query=STAMPED), True),
        (view(None, query=STAMPED), True),
        (view(2 * DAY, query=ENDS, created_timestamp="known_from"), False),
        (view(2 * DAY, query=NEWEST), False),
        (view(2 * DAY, ENDED, STAMPED), False),
        (view(2 * DAY, AHEAD, STAMPED), False),
        (view(2 * DAY, None, STAMPED), False),
    ],
)
def test_a_stamp_before_the_end_of_the_partition_needs_the_time_from_which_the_row_is_known(declared, warned) -> None:
    found = list(explain_early_stamp(declared))
    assert len(found) == warned
    if warned:
        assert "feature view 'sold' stamps rows with the start of their partition" in found[0]
        assert f"training finds a row up to {DAY} earlier than a service can" in found[0]


def project(declared: ml.FeatureView, *, served: bool, partitions=OPEN) -> list:
    @ml.dataset(partitions=partitions, key="sale", event_timestamp="at")
    def sales(window: ml.TimeWindow) -> pl.DataFrame:
        days = range((window.start - datetime(2024, 1, 1, tzinfo=UTC)).days, (window.end - datetime(2024, 1, 1, tzinfo=UTC)).days)
        at = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=day, hours=hour) for day in days for hour in range(0, 24, 4 - day % 3)]
        rows = {"sale": [f"{t:%m%d%H}" for t in at], "at": at, "shop": ["north"] * len(at), "paid": [float((7 * t.hour) % 5) for t in at]}
        return pl.DataFrame(rows, schema_overrides={"at": pl.Datetime("us", "UTC")})

    @ml.training_set(features=[declared], columns=[], label="paid", event_timestamp="at", split=ml.GroupSplit("sale"))
    def examples(sales: pl.LazyFrame) -> pl.LazyFrame:
        return sales.filter(pl.col("at") >= pl.datetime(2024, 1, 2, time_zone="UTC"))

    @ml.model(training_set=examples, metrics=["r2"])
    def spending(train: ml.Split) -> LinearRegression:
        return LinearRegression().fit(train.X, train.y)

    return [sales, declared, examples, spending, *([ml.Service("spending_api", model=spending)] if served else [])]


def test_the_project_warns_of_views_that_are_online_and_of_no_others(platform) -> None:
    with pytest.warns(UserWarning, match="its features are STALE or MISSING"):
        ml.build_definitions(project(view(3 * HOUR), served=True), platform=platform)
    with pytest.warns(UserWarning, match="name it as created_timestamp="):
        ml.build_definitions(project(view(2 * DAY, query=STAMPED), served=True), platform=platform)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ml.build_definitions(project(view(3 * HOUR, online=False), served=False), platform=platform)


def test_the_hint_about_a_request_for_the_past_says_that_the_online_store_keeps_recent_rows(platform, instance) -> None:
    nouns = project(view(DAY, ENDED, STAMPED), served=True, partitions=ENDED)
    runner, at = Runner(ml.build_definitions(nouns, platform=platform), instance), open_stores(platform)
    runner("dataset/sales", "features/sold", partitions="2024-01-01...2024-01-20")
    runner("online/sold", "training_set/examples", "model/spending", "version/spending", "champion/spending")
    reading, api = SkewReading(Project.from_items(nouns), at, at.lake.snapshot()), nouns[-1]

    def hint(day: int) -> str:
        rows = {"at": [datetime(2024, 1, day, 12, tzinfo=UTC)], "shop": ["north"], "sold": [None], MODEL_VERSION: [1]}
        served = pl.DataFrame(rows, schema_overrides={"at": pl.Datetime("us", "UTC"), "sold": pl.Float64})
        outcome = check_skew(reading, api, served.with_columns(pl.lit(datetime.now(UTC)).alias(LOGGED_AT)))
        assert not outcome.passed
        return outcome.hint

    past = hint(10)
    assert "the request is for 2024-01-10 12:00:00+00:00; online/sold_online holds rows from 2024-01-13 00:00:00+00:00 on" in past
    assert "Materialising it again adds no older rows" in past
    assert "ml.training_frame" in past
    assert hint(19) == "compare the online store with the lake: materialise online/sold_online again, and look at its check matches_offline"
