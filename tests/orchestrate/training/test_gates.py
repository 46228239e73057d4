"""Gates in a real project: every slice, intervals of the difference from the champion, predictions that are none."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial

import dagster as dg
import pytest
from sklearn.dummy import DummyClassifier

import mlops_assets as ml
from mlops_assets.compute.training.evaluate import MAX_SLICES
from mlops_assets.errors import DefinitionError
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import Runner
from tests.home_template import HomeTemplate, open_home_template
from tests.projects import shop

TABLES = [shop.visits, shop.crowds, shop.crowding, shop.examples]
TRAIN = ("training_set/examples", "model/buyer")


def model(*gates: ml.Gate, slices: tuple[str, ...] = ("shop",)):
    return dataclasses.replace(shop.buyer, gates=gates, slices=slices)


def build(platform: ml.Platform, instance: dg.DagsterInstance, trained) -> Runner:
    return Runner(ml.build_definitions([*TABLES, trained], platform=platform), instance)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Iterator[HomeTemplate]:
    """A home with two days of visits."""
    with open_home_template(tmp_path_factory.mktemp("gates")) as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOP_WORLD", "")
        build(made.platform, made.instance, shop.buyer)(*shop.DATA, partitions=f"{shop.day_of(0)}...{shop.day_of(1)}")
        yield made


@pytest.fixture
def project(template, platform, instance, monkeypatch) -> Callable[..., Runner]:
    """A function that builds a runner for a model, on a copy of the home."""
    monkeypatch.setenv("SHOP_WORLD", "")
    template.copy_to(platform, instance)
    return partial(build, platform, instance)


def test_gates_see_every_slice_and_the_interval_of_the_difference(project, platform) -> None:
    surely = ml.Gate("roc_auc", no_worse_than_champion_by=0.5, confidence=0.9)
    everywhere = ml.Gate("roc_auc", at_least=0.6, slice="shop", min_rows=20)
    runner = project(model(surely, everywhere))
    runner(*shop.DATA, partitions=f"{shop.day_of(2)}...{shop.day_of(4)}")
    result = runner(*TRAIN, "version/buyer", "champion/buyer")
    checks = {e.check_name: e for e in result.get_asset_check_evaluations() if e.asset_key.to_user_string() == "model/buyer_candidate"}
    assert "no champion yet" in checks[surely.name].description
    assert "holds in all 2 slices by shop, lowest in shop" in checks["roc_auc_at_least_every_shop"].description

    runner("dataset/visits", partitions=shop.day_of(5))
    result = runner(*TRAIN)
    (row,) = (record.data for record in result.asset_materializations_for_node("model__buyer_candidate")[0].metadata["metrics"].records)
    low, high = (float(bound) for bound in row["95 % CI of Δ"].split(" … "))
    assert low <= row["Δ"] <= high
    found = {e.gate: e for e in open_stores(platform).registry.candidate("buyer")[1]}[surely.name]
    assert found.relative
    assert low <= found.low <= found.high <= high  # 90 % is within 95 %
    (check,) = [e for e in result.get_asset_check_evaluations() if e.check_name == surely.name]
    assert check.metadata["interval, low"].value == found.low
    again = {e.gate: e for e in open_stores(platform).registry.candidate("buyer")[1]}[surely.name]
    runner("model/buyer")
    assert again == found  # the digest is the seed

    surely_better = project(model(ml.Gate("roc_auc", better_than_champion_by=0.0, confidence=0.95)))
    assert "begins below 0" in surely_better("model/buyer", ok=False).get_asset_check_evaluations()[-1].description


def test_a_slice_that_fails_blocks_and_is_named(project, platform) -> None:
    runner = project(model(ml.Gate("roc_auc", at_least=0.9999, slice="shop", min_rows=20)))
    runner(*TRAIN, ok=False)
    error = runner.error("version/buyer")
    assert "gate 'roc_auc_at_least_every_shop' failed (fails in 2 of 2 slices by shop, worst in shop" in error
    assert "rows): roc_auc 0." in error
    assert open_stores(platform).registry.versions("buyer") == []


def test_slices_that_gates_name_are_measured_for_candidate_and_champion_however_rare_they_are(project, platform) -> None:
    runner = project(shop.buyer)
    runner(*TRAIN, "version/buyer", "champion/buyer")
    runner("dataset/visits", partitions=shop.day_of(2))
    runner("training_set/examples")
    rows = open_stores(platform).lake.read("training_set/examples")
    visits = rows.filter(rows["split"] == "holdout")["visit"].sort()[: MAX_SLICES + 5]  # each visit has one row
    gates = [ml.Gate("accuracy", no_worse_than_champion_by=1.0, slice=("visit", visit)) for visit in visits]
    runner = project(dataclasses.replace(model(*gates, slices=("visit",)), metrics=("accuracy",)))
    reasons = [check.description for check in runner("model/buyer").get_asset_check_evaluations()]
    assert len([reason for reason in reasons if "the champion has" in reason]) == len(gates) == MAX_SLICES + 5


def test_predictions_that_are_all_the_same_are_refused_with_their_number(project, platform) -> None:
    @ml.model(training_set=shop.examples, metrics=["roc_auc"])
    def buyer(train: ml.Split) -> DummyClassifier:
        return DummyClassifier().fit(train.X, train.y)

    runner = project(buyer)
    runner("training_set/examples")
    error = runner.error("model/buyer")
    rows = open_stores(platform).lake.read("training_set/examples")
    holdout = int((rows["split"] == "holdout").sum())
    assert "the candidate of 'model/buyer' predicts the same, 0." in error
    assert f"for all {holdout} rows of the holdout" in error
    assert open_stores(platform).registry.candidate("buyer") is None


def test_a_slice_column_must_be_measured(project) -> None:
    with pytest.raises(DefinitionError, match="judges slices of 'shop'.*\n.*add 'shop' to slices="):
        project(model(ml.Gate("roc_auc", at_least=0.6, slice="shop"), slices=()))
