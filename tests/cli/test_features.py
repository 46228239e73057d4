"""The feature store from the command line: what is listed and shown, what a service would look up, and what cannot be asked."""

import json
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.cli.features import _parse_entity
from tests.cli.test_cli import good, mlops
from tests.conftest import ROOT

SHOP = ("-f", str(ROOT / "tests" / "projects" / "shop.py"))


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    days = ("--partitions", "2024-03-01...2024-03-03")
    good(mlops(folder, "run", *SHOP, "--select", 'key:"dataset/*" or key:"features/*"', *days))
    good(mlops(folder, "run", *SHOP, "--select", 'key:"online/*"'))
    return folder


def test_views_are_listed_with_what_they_hold(shop) -> None:
    (row,) = json.loads(good(mlops(shop, "features", "list", *SHOP, "--json", "-")))
    assert (row["view"], row["entity"], row["features"], row["rows"], row["models"]) == ("crowds", "shop", "visitors", 4, "buyer")
    assert row["newest"].startswith("2024-03-03 00:00")


def test_one_view_with_figures_lineage_versions_and_users(shop) -> None:
    found = json.loads(good(mlops(shop, "features", "show", "crowds", *SHOP, "--json", "-")))
    assert found["view"]["services"] == "shop_api"
    (figures,) = found["features"]
    assert (figures["feature"], figures["declared"], figures["rows"], figures["mean"]) == ("visitors", "float", 4, "200")
    assert figures["histogram"].count("█") == 1
    assert {"column": "visitors", "sources": "dataset/crowds.visitors"} in found["lineage"]
    assert [version["lake snapshot"] for version in found["versions"]] == ["now"]


def test_what_a_service_would_look_up(shop) -> None:
    asked = ("features", "online", "crowds", *SHOP, "--json", "-", "--entity", "shop=north", "--entity", "shop=nowhere")
    north, nowhere = json.loads(good(mlops(shop, *asked, "--at", "2024-03-03T06:00")))
    assert north == {"shop": "north", "visitors": 200.0, "status": "FRESH", "age": "6:00:00"}
    assert nowhere == {"shop": "nowhere", "visitors": None, "status": "MISSING", "age": ""}
    old, _ = json.loads(good(mlops(shop, *asked, "--at", "2024-03-09T00:00")))
    assert old["status"] == "STALE"


def test_an_entity_of_another_type_is_refused_with_the_types_of_the_join_keys() -> None:
    view = SimpleNamespace(key="features/crowds", entity=SimpleNamespace(join_keys=("shop", "day")))
    rows = pl.DataFrame(schema={"shop": pl.Int64, "day": pl.Date})
    with pytest.raises(ml.errors.DataError, match="'shop=north,day=2024-03-01' does not have the types") as refused:
        _parse_entity(view, rows, "shop=north,day=2024-03-01")
    assert refused.value.hint == "the join keys are shop (Int64), day (Date)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "crowd"), "there is no feature view 'crowd'\nHint: did you mean 'crowds'?"),
        (("online", "crowds", "--entity", "north"), "'north' does not name an entity of 'features/crowds'\nHint: give shop=..."),
        (("skew", "shop_ap"), "there is no service 'shop_ap'\nHint: did you mean 'shop_api'?"),
        (
            ("skew", "shop_api", "--partitions", "foo"),
            "service 'shop_api' has no partition 'foo'\nHint: there are 2024-03-01 to 2024-03-30",
        ),
        (("skew", "shop_api", "--partitions", "2025-01-01"), "service 'shop_api' has no partition '2025-01-01'"),
        (("remove", "crowds@deadbeef"), "'features/crowds' has no version 'deadbeef'"),
    ],
)
def test_an_impossible_request_is_refused_with_a_hint(shop, arguments, message) -> None:
    done = mlops(shop, "features", *arguments, *SHOP)
    assert done.returncode == 1
    assert message in done.stderr


def test_the_version_in_use_is_not_removed(shop) -> None:
    found = json.loads(good(mlops(shop, "features", "show", "crowds", *SHOP, "--json", "-")))
    refused = mlops(shop, "features", "remove", f"crowds@{found['versions'][0]['version']}", *SHOP)
    assert refused.returncode == 1
    assert "is the current version" in refused.stderr
