"""Online lookups from a notebook give what a training set gives of the same instant, with status and age."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.compute.features.point_in_time import ViewRows, sort_as_of
from mlops_assets.stores.lake.ducklake import DuckLake
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.stores.platform.stores import open_stores

NOW = datetime(2024, 3, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
FEATURES = {"late": float, "trips": int, "new": bool, "hub": str, "since": datetime, "codes": list[int], "place": Annotated[list[float], 2]}


def view(name: str = "carriers", **more) -> ml.FeatureView:
    source = ml.ExternalDataset(name, key=("carrier", "at"), event_timestamp="at")
    options = {"ttl": 2 * HOUR, "features": FEATURES, "online": True, "defaults": {"trips": 0, "hub": "none"}, **more}
    return ml.FeatureView(source=source, entity=ml.Entity("carrier"), event_timestamp="at", name=name, **options)


def write(platform: ml.Platform, declared: ml.FeatureView, rows: pl.DataFrame) -> None:
    """Write rows into the lake and the online store."""
    DuckLake.open(platform.lake).write(declared.key, rows, [Partition("all", None)], event_timestamp="at", key=("carrier", "at"))
    layout = sort_as_of(ViewRows(declared.name, rows, ("carrier",), "at", None, None, declared.feature_names))
    open_stores(platform).online.replace(declared.name, layout, join_keys=["carrier"], features=declared.feature_names)


@pytest.fixture
def platform(tmp_path) -> ml.Platform:
    made = ml.Platform.at(tmp_path)
    values = {
        "carrier": ["UA", "UA", "AA", "B6"],
        "at": pl.Series([NOW - HOUR, NOW + HOUR, NOW - 3 * HOUR, NOW - 2 * HOUR], dtype=pl.Datetime("us", "UTC")),
        "late": [0.5, 0.6, 0.7, None],
        "trips": pl.Series([3, 4, 5, None], dtype=pl.Int64),
        "new": [True, False, True, None],
        "hub": ["ORD", "SFO", "DFW", None],
        "since": pl.Series([NOW - 24 * HOUR, NOW, NOW, None], dtype=pl.Datetime("us", "UTC")),
        "codes": pl.Series([[1, 2], [], [3], None], dtype=pl.List(pl.Int64)),
        "place": pl.Series([[0.5, 1.5], [0.0, 0.0], [1.0, 1.0], None], dtype=pl.List(pl.Float64)),
    }
    write(made, view(), pl.DataFrame(values))
    return made


def test_a_lookup_equals_the_training_frame_of_that_instant(platform) -> None:
    entities = pl.DataFrame({"row": [1, 2, 3, 4, 5], "carrier": ["B6", "UA", "AA", "ZZ", None]})
    found = ml.lookup(view(), entities, at=NOW, platform=platform)
    spine = entities.with_columns(now=pl.lit(NOW).cast(pl.Datetime("us", "UTC")))
    wanted = ml.training_frame(spine, [view()], event_timestamp="now", platform=platform)
    assert found.drop("carriers_status", "carriers_age").equals(wanted.drop("now"))
    assert found.drop("carriers_status", "carriers_age").schema == wanted.drop("now").schema
    assert found["carriers_status"].to_list() == ["FRESH", "FRESH", "STALE", "MISSING", "MISSING"]
    assert found["carriers_age"].to_list() == [2 * HOUR, HOUR, 3 * HOUR, None, None]
    assert found["trips"].to_list() == [0, 3, 0, 0, 0]


def test_entities_are_a_mapping_mappings_or_a_frame_of_pandas(platform) -> None:
    named = {"carrier": "UA"}
    one = ml.lookup(view(), named, at=NOW, platform=platform)
    assert one.height == 1
    assert one.equals(ml.lookup([view()], [named], at=NOW, platform=platform))
    assert one.equals(ml.lookup([view()], pl.DataFrame([named]).to_pandas(), at=NOW, platform=platform))
    assert ml.lookup(view(), pl.DataFrame(schema={"carrier": pl.String}), platform=platform).schema == one.schema


def test_the_default_time_is_now(platform) -> None:
    found = ml.lookup(view(ttl=None), {"carrier": "UA"}, platform=platform)
    assert found["late"].item() == 0.6
    assert found["carriers_age"].item() > timedelta(days=300)


def test_a_renamed_view_is_looked_up_by_a_feature_of_a_view_before_it(platform) -> None:
    partners = view("partners", features={"partner": str}, defaults={})
    rows = pl.DataFrame({"carrier": ["AA"], "at": pl.Series([NOW], dtype=pl.Datetime("us", "UTC")), "partner": ["UA"]})
    write(platform, partners, rows)
    second = view().renamed("partner_", join_keys={"carrier": "partner"})
    found = ml.lookup([partners, second], {"carrier": "AA"}, at=NOW, platform=platform).row(0, named=True)
    assert (found["partner"], found["partner_late"], found["partner_carriers_status"]) == ("UA", 0.5, "FRESH")


def test_what_cannot_be_looked_up_is_named(platform) -> None:
    entity = {"carrier": "UA"}
    with pytest.raises(ml.DefinitionError, match="'features/carriers' is not online"):
        ml.lookup(view(online=False), entity, platform=platform)
    with pytest.raises(ml.DefinitionError, match="pinned to version 'abc'"):
        ml.lookup(view().at("abc"), entity, platform=platform)
    with pytest.raises(ml.errors.LakeError, match="never been materialised online"):
        ml.lookup(view("other"), entity, platform=platform)
    with pytest.raises(ml.DataError, match=r"lack the join key 'carrier'.*\n.*they have code"):
        ml.lookup(view(), {"code": "UA"}, platform=platform)
    with pytest.raises(ml.DataError, match="would add the column 'codes', which the entities already have"):
        ml.lookup([view(), view()], entity, platform=platform)
    with pytest.raises(ml.DataError, match="names no time zone"):
        ml.lookup(view(), entity, at=NOW.replace(tzinfo=None), platform=platform)
