"""The skew check on a real service: green on real traffic, red when one feature is served wrong, patient with what came late."""

import dagster as dg
import polars as pl
import pytest

from mlops_assets.compute.features.assemble import bind_rows
from mlops_assets.compute.features.point_in_time import sort_as_of
from mlops_assets.serving.http import control
from tests.client import predict
from tests.orchestrate.retraining.test_decisions import SERVICE, Shop
from tests.projects import shop


@pytest.fixture
def world(tmp_path, instance, monkeypatch):
    monkeypatch.setenv("SHOP_WORLD", "")
    found = Shop(tmp_path, instance)
    yield found
    control.stop(found.platform.home, SERVICE)


def skew(result: dg.ExecuteInProcessResult) -> tuple[bool, dict, str, object]:
    check = next(e for e in result.get_asset_check_evaluations() if e.check_name == "no_skew")
    return check.passed, {name: value.value for name, value in check.metadata.items()}, check.description or "", check.severity


def serve(world: Shop, day: int) -> dg.ExecuteInProcessResult:
    predict(world.status.url, shop.requests_of(day))
    return world.run("predictions/shop_api", partitions=shop.day_of(day))


def arrive(world: Shop, day: int) -> None:
    world.run("dataset/visits", partitions=shop.day_of(day))
    world.run("dataset/crowds", "features/crowds", partitions=shop.day_of(day))


def test_green_on_real_traffic_red_on_a_wrong_value_patient_with_late_data(world) -> None:
    world.turn(growing=1)
    world.train(3)
    world.serve()
    arrive(world, 3)
    world.run("online/crowds")
    passed, facts, _, _ = skew(serve(world, 3))
    assert passed
    assert facts == {"values compared": shop.ROWS, "served wrong": 0, "changed since they were served": 0}

    # One shop's value of the day is written wrong into the online store, behind everybody's back.
    arrive(world, 4)
    world.run("online/crowds")
    rows = world.at.lake.read("features/crowds").filter((pl.col("shop") == "north") & (pl.col("day") == pl.col("day").max()))
    right = rows["visitors"][0]
    wrong = sort_as_of(bind_rows(shop.crowding, rows.with_columns(visitors=pl.lit(right + 0.5))))
    world.at.online.update("crowds", wrong, join_keys=["shop"], features=["visitors"])
    passed, facts, message, severity = skew(serve(world, 4))
    assert not passed
    assert severity is dg.AssetCheckSeverity.ERROR
    north = sum(row["shop"] == "north" for row in shop.requests_of(4))
    assert (facts["served wrong"], facts["changed since they were served"]) == (north, 0)
    assert f"feature 'visitors' of 'crowds' for shop = 'north' at {shop.BASE.replace(day=5):%Y-%m-%d}" in message
    assert f"served {right + 0.5}, offline it is {right}" in message

    # A day is served before its features are online: what was right at its time is told apart from what was wrong even then.
    arrive(world, 5)
    predict(world.status.url, shop.requests_of(5))
    assert f"'visitors' of view 'crowds' is {right + 0.5} online and {right} in the lake" in world.run.error("online/crowds")
    world.run("online/crowds")  # which begins anew, and heals it
    passed, facts, message, _ = skew(world.run("predictions/shop_api", partitions=shop.day_of(5)))
    assert not passed
    assert (facts["served wrong"], facts["changed since they were served"]) == (north, shop.ROWS - north)
    assert "for shop = 'north'" in message

    arrive(world, 6)
    predict(world.status.url, shop.requests_of(6))
    world.run("online/crowds")
    passed, facts, _, _ = skew(world.run("predictions/shop_api", partitions=shop.day_of(6)))
    assert passed
    assert (facts["served wrong"], facts["changed since they were served"]) == (0, shop.ROWS)
