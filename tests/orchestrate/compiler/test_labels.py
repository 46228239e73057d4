"""The asset graph reads at any zoom: no two nodes share a label, and a label says what its node is."""

import importlib
from types import SimpleNamespace

import dagster as dg
import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.core.io_manager import LakeIOManager
from mlops_assets.orchestrate.core.project import TableRef
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.asset_names import build_graph_key, find_declared_name, select_nodes
from mlops_assets.values.upkeep import Upkeep
from tests.projects import meters, shop

PROJECTS = ("customers", "damaged", "formats", "redis_stream", "repeatable", "sales", "shop", "tail_file")


def labels_of(definitions: dg.Definitions) -> list[str]:
    return [spec.key.path[-1] for spec in definitions.resolve_all_asset_specs()]


@pytest.mark.parametrize("name", PROJECTS)
def test_no_two_nodes_share_a_label(name) -> None:
    labels = labels_of(importlib.import_module(f"tests.projects.{name}").defs)
    assert labels
    assert len(labels) == len(set(labels))


def test_a_label_says_what_its_node_is(platform) -> None:
    found = set(labels_of(ml.build_definitions(shop.NOUNS, platform=platform, upkeep=Upkeep())))
    assert found == {
        "visits",
        "crowds",
        "crowds_features",
        "crowds_online",
        "examples",
        "buyer_candidate",
        "buyer_version",
        "buyer_champion",
        "shop_batch_predictions",
        "shop_api",
        "shop_api_predictions",
        "shop_watch_drift",
        "shop_watch_performance",
        "lake_upkeep",
    }


def test_tables_alongside_a_dataset_have_labels_of_their_own_and_keep_their_names_in_the_lake(platform, run) -> None:
    world = meters.World()
    runner = run(meters.build(platform, world, quality=meters.QUALITY, quarantine=True))
    assert set(labels_of(runner.definitions)) == {"readings", "readings_quarantine", "readings_limits"}
    runner("dataset/readings", partitions=meters.ALL)
    assert {"quality/readings", "quarantine/readings"} <= set(open_stores(platform).lake.tables())


@pytest.mark.parametrize(("table", "node"), [("drift_report/watch", "watch_drift"), ("features/weather", "weather_features")])
def test_a_plain_asset_reads_a_table_by_its_key_in_the_graph(platform, table, node) -> None:
    rows, manager = pl.DataFrame({"a": [1, 2]}), LakeIOManager(platform)
    open_stores(platform).lake.write(table, rows, [Partition("")])
    manager.add_tables(SimpleNamespace(by_key={"features/weather": TableRef("features/weather")}))
    asked = dg.build_input_context(
        asset_key=dg.AssetKey([table.split("/")[0], node]), dagster_type=dg.PythonObjectDagsterType(pl.DataFrame)
    )
    assert manager.load_input(asked).equals(rows)


def test_two_nodes_of_one_label_are_refused_with_both_names(platform) -> None:
    @ml.dataset()
    def flights() -> pl.DataFrame:
        return pl.DataFrame({"a": [1]})

    raw = dg.AssetSpec(["raw", "flights"])
    message = (
        "'dataset/flights' and 'raw/flights' would both have the label 'flights' in the asset graph\nHint: give one of them another name"
    )
    with pytest.raises(DefinitionError) as refused:
        ml.build_definitions([flights, raw], platform=platform)
    assert str(refused.value) == message
    named_like_a_candidate = dg.AssetSpec(["flights_limits"])
    learning = ml.dataset(key="a", event_timestamp="at", partitions=meters.DAILY, quality=meters.QUALITY)(flights.function.function)
    with pytest.raises(DefinitionError, match="'quality/flights_limits' and 'flights_limits'"):
        ml.build_definitions([learning, named_like_a_candidate], platform=platform)
    plain = [dg.AssetSpec(["a", "x"]), dg.AssetSpec(["b", "x"])]  # these are not ours to name
    assert labels_of(ml.build_definitions(plain, platform=platform)) == ["x", "x"]


def test_a_selection_names_nodes() -> None:
    keys = ("model/lateness", "features/weather", "features/my_features", "dataset/flights", "predictions/label_api", "predictions/daily")
    assert [build_graph_key(key).partition("/")[2] for key in keys] == [
        "lateness_candidate",
        "weather_features",
        "my_features",
        "flights",
        "label_api_predictions",
        "daily_predictions",
    ]
    assert select_nodes("online/weather", "service/api") == 'key:"online/weather_online" or key:"service/api"'
    for kind in ("model", "version", "champion", "approval", "online", "quarantine", "quality", "drift_report", "service"):
        assert find_declared_name(build_graph_key(f"{kind}/lateness")) == "lateness"
