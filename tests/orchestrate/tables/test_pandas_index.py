"""A pandas frame whose index would be lost is refused wherever it enters."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pandas as pd
import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.errors import DataError
from mlops_assets.stores.platform.stores import open_stores
from tests.projects import stream

AT = datetime(2024, 1, 1, tzinfo=UTC)
ROWS = pd.DataFrame({"shop": ["a", "b"], "at": [AT, AT], "sold": [1, 2]})
INDEXED = ROWS.set_index("shop")
LOST = "has an index of its own (Index named shop, the first value is 'a'), which would be lost"


@ml.dataset(key="shop", event_timestamp="at")
def sales() -> pl.DataFrame:
    return pl.from_pandas(ROWS).with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))


@ml.dataset()
def of_a_dataset() -> pd.DataFrame:
    return INDEXED


@ml.feature_view(entity=ml.Entity("shop"), event_timestamp="at", features={"sold": int})
def of_a_view(sales: pd.DataFrame) -> pd.DataFrame:
    return sales.groupby("shop").max()


@ml.training_set(label="sold", columns=["shop"], split=ml.TimeSplit(timedelta(hours=1), timedelta(hours=1)), event_timestamp="at")
def of_a_training_set(sales: pd.DataFrame) -> pd.DataFrame:
    return sales.set_index("shop")


@dg.asset
def by_hand() -> pd.DataFrame:
    return INDEXED


@ml.dataset()
def of_a_plain_asset(by_hand: pd.DataFrame) -> pd.DataFrame:
    return by_hand.reset_index()


def test_a_step_refuses_an_index_of_what_a_function_or_a_plain_asset_gives(run, platform) -> None:
    nouns = [sales, of_a_dataset, of_a_view, of_a_training_set, by_hand, of_a_plain_asset]
    runner = run(ml.build_definitions(nouns, platform=platform))
    runner("dataset/sales", "by_hand")
    for key in ("dataset/of_a_dataset", "features/of_a_view", "training_set/of_a_training_set", "dataset/of_a_plain_asset"):
        message = runner.error(key)
        assert LOST in message, message
        assert ".reset_index()" in message.split("Hint: ")[1]
        assert open_stores(platform).lake.schema(key) == {}
    assert "asset 'by_hand'" in message


def test_a_notebook_and_a_push_refuse_an_index(platform, tmp_path) -> None:
    with pytest.raises(DataError, match="the spine: the pandas frame has an index of its own"):
        ml.training_frame(INDEXED, [], event_timestamp="at", platform=platform)
    project = stream.Project(ml.Platform.at(tmp_path / "home"))
    pushed = pl.DataFrame([stream.row("a", 1)]).to_pandas().set_index("ship")
    with pytest.raises(DataError, match="a push: the pandas frame has an index of its own .*; nothing was pushed"):
        project.push(pushed)


@pytest.mark.parametrize("frame", [ROWS, ROWS.head(0), ROWS[ROWS["sold"] > 9], ROWS.iloc[1:], ROWS[::2]], ids=str)
def test_an_index_that_only_counts_rows_or_has_none_is_no_loss(frame, platform) -> None:
    assert ml.training_frame(frame, [], event_timestamp="at", platform=platform).height == len(frame)
