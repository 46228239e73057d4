"""Freshness: what a view declares becomes Dagster's own policy, and Dagster's own daemon says when it is broken."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import polars as pl
import pytest
from dagster._core.definitions.freshness import FreshnessState
from dagster._core.test_utils import create_test_daemon_workspace_context, freeze_time
from dagster._core.workspace.load_target import PythonFileTarget
from dagster._daemon.freshness import FreshnessDaemon

import mlops_assets as ml
from mlops_assets.orchestrate.core.steps import asset_key
from tests.conftest import ROOT
from tests.projects import fresh

HOURS = timedelta(hours=1)


def policy(platform, *args, **more):
    nouns = fresh.view("v", *args, **more)
    specs = ml.build_definitions(nouns, platform=platform).resolve_all_asset_specs()
    return next(s for s in specs if s.key == asset_key("features/v")).freshness_policy


def window(fail: timedelta, warn: timedelta | None) -> dg.FreshnessPolicy:
    return dg.FreshnessPolicy.time_window(fail_window=fail, warn_window=warn)


def test_the_ttl_says_how_old_a_view_may_be_but_never_less_than_two_partitions(platform) -> None:
    assert policy(platform, ttl=timedelta(days=4)) == window(96 * HOURS, 72 * HOURS)
    assert policy(platform, ttl=timedelta(hours=3)) == window(48 * HOURS, 36 * HOURS)  # nothing comes more often than once a day
    assert policy(platform, None, ttl=timedelta(hours=4)) == window(4 * HOURS, 3 * HOURS)
    assert policy(platform, None, ttl=timedelta(seconds=5)) == window(timedelta(minutes=1), None)
    assert policy(platform) is None


def test_what_is_declared_comes_before_the_ttl_and_dagsters_own_before_both(platform) -> None:
    assert policy(platform, ttl=timedelta(days=4), freshness=timedelta(hours=8)) == window(8 * HOURS, 6 * HOURS)
    by_schedule = policy(platform, ttl=timedelta(days=4), freshness="0 6 * * *")
    assert by_schedule == dg.FreshnessPolicy.cron("0 6 * * *", lower_bound_delta=timedelta(days=1), timezone="UTC")
    own = window(timedelta(days=9), None)
    assert policy(platform, freshness=timedelta(hours=8), freshness_policy=own) == own


def test_a_view_whose_partitions_have_ended_never_alarms_unless_dagsters_own_policy_says_so(platform) -> None:
    assert policy(platform, fresh.ENDED, ttl=timedelta(days=4), freshness="0 6 * * *") is None
    own = window(timedelta(days=9), None)
    assert policy(platform, fresh.ENDED, freshness_policy=own) == own
    future = dg.DailyPartitionsDefinition("2024-01-01", end_date=datetime.now(UTC) + timedelta(days=30))
    assert policy(platform, future, ttl=timedelta(days=4)) is not None


def test_a_schedule_that_is_none_is_refused(platform) -> None:
    with pytest.raises(ml.DefinitionError, match="'features/v' has freshness='daily', which is not a cron schedule"):
        policy(platform, freshness="daily")


def test_datasets_pass_dagsters_own_policy_through(platform) -> None:
    own = window(timedelta(days=9), None)
    made = ml.dataset(freshness_policy=own)(rows)
    [spec] = ml.build_definitions([made], platform=platform).resolve_all_asset_specs()
    assert spec.freshness_policy == own


def rows() -> pl.DataFrame:
    return pl.DataFrame()


def test_dagsters_daemon_finds_the_views_that_are_too_old(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "home"))
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster" / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")  # no word about freshness: it is on
    keys = {name: asset_key(f"features/{name}") for name in ("by_ttl", "by_schedule", "of_the_past")}
    target = PythonFileTarget(str(ROOT / "tests" / "projects" / "fresh.py"), "defs", str(ROOT), "fresh")
    with (
        dg.DagsterInstance.from_config(str(tmp_path / "dagster")) as instance,
        create_test_daemon_workspace_context(target, instance) as workspace,
    ):
        assert FreshnessDaemon.daemon_type() in instance.get_required_daemon_types()

        def states(moment: datetime) -> dict[str, FreshnessState]:
            with freeze_time(moment):
                list(FreshnessDaemon().run_iteration(workspace))
            found = instance.get_freshness_state_records(list(keys.values()))
            return {name: found[key].freshness_state for name, key in keys.items() if key in found}

        now, past = datetime.now(UTC), {"of_the_past": FreshnessState.NOT_APPLICABLE}
        assert states(now) == dict.fromkeys(("by_ttl", "by_schedule"), FreshnessState.UNKNOWN) | past
        for key in keys.values():
            instance.report_runless_asset_event(dg.AssetMaterialization(key))
        assert states(now + timedelta(minutes=1)) == dict.fromkeys(("by_ttl", "by_schedule"), FreshnessState.PASS) | past
        later = {"by_ttl": FreshnessState.WARN, "by_schedule": FreshnessState.FAIL} | past
        assert states(now + timedelta(days=3, hours=1)) == later
        assert states(now + timedelta(days=4, hours=1))["by_ttl"] is FreshnessState.FAIL
