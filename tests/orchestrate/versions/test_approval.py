"""A person in the loop: exactly the version that was approved becomes champion."""

import dataclasses
from collections.abc import Iterator

import dagster as dg
import pytest

import mlops_assets as ml
from mlops_assets.cli.running import drop_decisions, models_with_approval, select_assets
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import Runner
from tests.home_template import HomeTemplate, open_home_template
from tests.projects import shop

MODEL = dataclasses.replace(shop.buyer, approval=True)


def signed(version: int, *, approved: bool = True, approver: str = "grace") -> dict:
    return {"approval__buyer_approval": {"version": version, "approver": approver, "reason": "looked at the slices", "approved": approved}}


def build(platform: ml.Platform, instance: dg.DagsterInstance) -> Runner:
    return Runner(ml.build_definitions([shop.visits, shop.crowds, shop.crowding, shop.examples, MODEL], platform=platform), instance)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Iterator[HomeTemplate]:
    """A home whose first version waits for a person."""
    with open_home_template(tmp_path_factory.mktemp("waiting")) as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOP_WORLD", "")
        runner = build(made.platform, made.instance)
        runner(*shop.DATA, partitions=f"{shop.day_of(0)}...{shop.day_of(4)}")
        job = runner.definitions.resolve_job_def("retrain_buyer")
        assert {k.to_user_string() for k in job.asset_layer.executable_asset_keys} == {
            "training_set/examples",
            "model/buyer_candidate",
            "version/buyer_version",
        }
        assert job.execute_in_process(instance=made.instance).success
        yield made


@pytest.fixture
def waiting(template, platform, instance, monkeypatch) -> Runner:
    """The project, on a copy of the home."""
    monkeypatch.setenv("SHOP_WORLD", "")
    template.copy_to(platform, instance)
    return build(platform, instance)


def build_approval_check(runner: Runner) -> tuple[bool, str]:
    key = dg.AssetCheckKey(asset_key("version/buyer"), "approved")
    record = runner.instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
    found = record.event.dagster_event.asset_check_evaluation_data
    return found.passed, found.description


def test_the_job_ends_where_a_person_decides_and_promotion_waits(waiting, platform) -> None:
    registry = open_stores(platform).registry
    assert registry.champion("buyer") is None
    assert build_approval_check(waiting) == (False, "version 1 is not approved yet")
    assert "version 1 of 'buyer' is not approved" in waiting.error("champion/buyer")
    waiting("approval/buyer", config=signed(1))
    assert build_approval_check(waiting) == (True, "version 1 approved by grace (self-declared): looked at the slices")
    waiting("champion/buyer")
    assert registry.champion("buyer").version == 1
    waiting("approval/buyer", config=signed(1))  # twice is once
    waiting("champion/buyer")
    assert len(registry.history("buyer")) == 1


def test_an_approval_counts_for_no_other_version_and_a_rejection_refuses(waiting, platform) -> None:
    waiting("approval/buyer", config=signed(1))
    waiting("champion/buyer")
    waiting("dataset/visits", partitions=shop.day_of(5))
    waiting("training_set/examples", "model/buyer", "version/buyer")
    assert "version 2 of 'buyer' is not approved" in waiting.error("champion/buyer")
    waiting("approval/buyer", config=signed(2, approved=False))
    assert "version 2 of 'buyer' is rejected" in waiting.error("champion/buyer")
    assert open_stores(platform).registry.champion("buyer").version == 1


def test_a_champion_runs_after_the_version_of_the_same_run(waiting, platform) -> None:
    waiting("approval/buyer", config=signed(1))
    waiting("dataset/visits", partitions=shop.day_of(5))
    waiting("training_set/examples")
    assert "version 2 of 'buyer' is not approved" in waiting.error("model/buyer", "version/buyer", "champion/buyer")
    assert [v.version for v in open_stores(platform).registry.versions("buyer")] == [1, 2]
    assert open_stores(platform).registry.champion("buyer") is None


def test_a_command_leaves_out_the_champion_of_a_version_that_waits_for_a_person(waiting) -> None:
    chosen = select_assets(waiting.definitions, 'key:"model/*" or key:"version/*" or key:"champion/*"')
    assert models_with_approval(waiting.definitions) == {"buyer"}
    left = [key.to_user_string() for key in drop_decisions(chosen, {"buyer"})]
    assert left == ["model/buyer_candidate", "version/buyer_version"]
    assert len(drop_decisions(chosen, set())) == 3
    assert drop_decisions(chosen[-1:], {"buyer"}) == chosen[-1:]


def test_what_is_not_signed_or_not_there_is_refused(waiting) -> None:
    assert "has no version 7" in waiting.error("approval/buyer", config=signed(7))
    assert "needs a name and a reason" in waiting.error("approval/buyer", config=signed(1, approver=" "))


def test_an_approval_makes_the_champion_follow(waiting) -> None:
    selection, cursor = dg.AssetSelection.assets(asset_key("champion/buyer")), None

    def asked() -> int:
        nonlocal cursor
        result = dg.evaluate_automation_conditions(waiting.definitions, waiting.instance, selection, cursor=cursor)
        cursor = result.cursor
        return result.total_requested

    assert asked() == 0
    waiting("approval/buyer", config=signed(1))
    assert asked() == 1
