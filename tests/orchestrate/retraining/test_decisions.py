"""The loop, step by step: served, watched, decided, retrained, rolled back; the service is a real one."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.retraining import decisions as loop
from mlops_assets.orchestrate.retraining.decisions import record_decision
from mlops_assets.serving.http import control
from mlops_assets.stores.platform.stores import open_stores
from tests.client import predict
from tests.conftest import Runner, metadata
from tests.memory_instance import open_memory_instance
from tests.projects import shop

SERVICE = "shop_api"


class Shop:
    """The project of a shop on a platform of its own, with its service running."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.world = folder / "world.json"
        os.environ["SHOP_WORLD"] = str(self.world)
        self.platform = ml.Platform.at(folder / "home")
        self.definitions = ml.build_definitions(shop.NOUNS, platform=self.platform)
        self.run = Runner(self.definitions, instance)
        self.instance = instance
        self.at = open_stores(self.platform)

    def train(self, days: int) -> None:
        self.run(*shop.DATA, partitions=f"{shop.day_of(0)}...{shop.day_of(days - 1)}")
        self.run(*shop.TRAIN)

    def serve(self) -> None:
        self.run(f"service/{SERVICE}")

    def turn(self, **changes: object) -> None:
        self.world.write_text(json.dumps(changes))

    @property
    def status(self) -> control.ServiceStatus:
        return control.status(self.platform.home, SERVICE)

    def live(self, day: int) -> dict[str, dg.ExecuteInProcessResult]:
        """Let one day pass: its visitors come, are predicted, and are looked at."""
        key = shop.day_of(day)
        self.run("dataset/visits", partitions=key)
        self.run("dataset/crowds", "features/crowds", partitions=key)
        self.run("online/crowds")
        assert len(predict(self.status.url, shop.requests_of(day))["predictions"]) == shop.ROWS
        self.run("predictions/shop_api", partitions=key)
        return {kind: self.run(f"{kind}_report/shop_watch", partitions=key) for kind in ("drift", "performance")}

    def sensor(self) -> dg.RunRequest | dg.SkipReason:
        found = next(s for s in self.definitions.sensors if s.name == "shop_watch_retrains")
        with dg.build_sensor_context(instance=self.instance) as context:
            return found(context)

    def retrain(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        job = self.definitions.resolve_job_def(request.job_name)
        return job.execute_in_process(instance=self.instance, tags=request.tags, raise_on_error=False)

    def champion(self) -> int:
        return self.at.registry.champion("buyer").version


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Iterator[Shop]:
    """A shop with five days of visits and a champion."""
    with pytest.MonkeyPatch.context() as patch, open_memory_instance() as instance:
        patch.setenv("SHOP_WORLD", "")
        made = Shop(tmp_path_factory.mktemp("template"), instance)
        made.train(5)
        yield made


@pytest.fixture
def world(template, tmp_path, monkeypatch) -> Iterator[Shop]:
    monkeypatch.setenv("SHOP_WORLD", "")
    shutil.copytree(template.platform.home, tmp_path / "home")
    with open_memory_instance(like=template.instance) as instance:
        found = Shop(tmp_path, instance)
        yield found
        assert not control.stop(found.platform.home, SERVICE).running


def passed(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {e.check_name: e.passed for e in result.get_asset_check_evaluations()}


def test_a_breach_retrains_once_promotes_and_the_service_follows(world) -> None:
    world.serve()
    assert world.champion() == 1
    calm = world.live(5)
    assert passed(calm["performance"])["roc_auc_at_least"]
    assert passed(calm["drift"])["no_drift"]
    assert "no open breach of the serving version 1" in world.sensor().skip_message

    world.turn(shift_from=6)
    broken = world.live(6)
    assert not passed(broken["performance"])["roc_auc_at_least"]
    told = metadata(broken["performance"], "performance_report/shop_watch")
    assert told["state"] == "breach"
    assert told["the loop"].startswith("retrain: 2024-03-07")
    assert Path(told["page"]).read_text().startswith("<!doctype html>")
    request = world.sensor()
    assert request.run_key.endswith("#1")
    assert world.sensor().run_key == request.run_key  # nothing ran: it is asked for again, under the same key
    workers = {w.pid for w in world.status.workers}
    assert world.retrain(request).success
    assert world.champion() == 2
    assert "Dagster run" in world.at.registry.history("buyer")[-1].reason
    assert {w.version for w in world.status.workers} == {2}
    assert {w.pid for w in world.status.workers} == workers
    assert isinstance(world.sensor(), dg.SkipReason)

    after = world.live(7)
    assert passed(after["performance"])["roc_auc_at_least"]
    world.turn(shift_from=99)  # tastes change back: bad again, and too early to train again
    again = world.live(8)
    assert not passed(again["performance"])["roc_auc_at_least"]
    assert "cooldown until 2024-03-12" in world.sensor().skip_message
    world.live(9)
    assert "cooldown until 2024-03-12" in world.sensor().skip_message
    assert len(world.at.decisions.decisions("buyer")) == 1
    world.live(10)
    request = world.sensor()
    assert world.retrain(request).success
    assert world.champion() == 3
    assert isinstance(world.sensor(), dg.SkipReason)
    assert all(d.closed for d in world.at.decisions.decisions("buyer"))


def test_drift_alone_warns_and_a_corrupted_feature_is_named_first(world) -> None:
    world.serve()
    world.turn(drift_from=6)
    clean, drifted = world.live(5), world.live(6)
    assert passed(clean["drift"])["no_drift"]
    assert not passed(drifted["drift"])["no_drift"]
    found = world.at.lake.read("drift_report/shop_watch")
    last = found.filter(pl.col("window_start") == found["window_start"].max()).sort("severity", descending=True)
    assert last["column"][0] == "price"
    evaluation = next(e for e in drifted["drift"].get_asset_check_evaluations())
    assert evaluation.severity is dg.AssetCheckSeverity.WARN
    world.turn(corrupt=[7])
    world.live(7)
    found = world.at.lake.read("drift_report/shop_watch").filter(pl.col("drifted")).sort("window_start", "severity")
    assert found["column"][-1] == "price"
    assert world.champion() == 1


def test_a_service_and_a_batch_predict_the_same_from_the_same(world) -> None:
    world.serve()
    world.live(5)
    world.run("predictions/shop_batch", partitions=shop.day_of(5))
    served, batch = (world.at.lake.read(f"predictions/{name}").sort("visit") for name in ("shop_api", "shop_batch"))
    assert list(served.schema.items()) == list(batch.schema.items())
    assert served.height == batch.height == shop.ROWS
    for column in ("visit", "at", "visitors", "price", "colour", "prediction", "input_hash", "model_version", "missing"):
        assert served[column].equals(batch[column]), column
    assert np.abs(served["probability"] - batch["probability"]).max() < 1e-9
    world.run("predictions/shop_api", partitions=shop.day_of(5))  # again: nothing twice
    assert world.at.lake.read("predictions/shop_api").height == shop.ROWS


def test_a_missing_feature_takes_its_default_and_says_so(world) -> None:
    world.serve()
    row = shop.requests_of(5)[0] | {"shop": "west"}
    answer = predict(world.status.url, [row])["predictions"][0]
    assert answer["missing"] == ["visitors"]
    line = next(Path(world.platform.home).glob("services/shop_api/log/*/*.jsonl")).read_text().splitlines()[-1]
    assert json.loads(line)["x"]["visitors"] == 200.0


def test_a_rollback_is_served_within_two_seconds_and_not_undone(world) -> None:
    world.serve()
    world.run("dataset/visits", partitions=shop.day_of(5))
    world.run(*shop.TRAIN, f"service/{SERVICE}")
    assert world.champion() == 2
    row = shop.requests_of(5)[:1]
    assert predict(world.status.url, row)["version"] == 2
    begun = time.monotonic()
    world.at.registry.rollback("buyer", actor="ada", reason="alarms")
    while {predict(world.status.url, row)["version"] for _ in range(8)} != {1}:
        assert time.monotonic() - begun < 30
    seconds = time.monotonic() - begun
    assert seconds < 2
    assert "was rolled back, and is not promoted automatically" in world.run.error("champion/buyer")
    assert world.champion() == 1


def test_reports_of_an_empty_day_and_of_late_labels_are_not_enough_data(world) -> None:
    world.serve()
    key = shop.day_of(5)
    predict(world.status.url, shop.requests_of(5)[:50])
    world.run("predictions/shop_api", partitions=key)
    world.run("dataset/visits", partitions=key)
    few = world.run("drift_report/shop_watch", "performance_report/shop_watch", partitions=key)
    assert passed(few) == {"no_drift": True, "roc_auc_at_least": True}
    assert metadata(few, "performance_report/shop_watch")["state"] == "not enough data"
    world.run("predictions/shop_api", partitions=shop.day_of(6))  # nobody asked that day
    world.run("dataset/visits", partitions=shop.day_of(6))
    empty = world.run("drift_report/shop_watch", "performance_report/shop_watch", partitions=shop.day_of(6))
    assert metadata(empty, "performance_report/shop_watch")["state"] == "not enough data"
    held = record_decision(world.at, next(iter(_built(world))), shop.shop_watch, world.instance)
    assert "no open breach" in held.reason


def _built(world: Shop):
    from mlops_assets.orchestrate.compiler.build import compiled_projects

    return [b.project for b in compiled_projects() if b.platform == world.platform]


def test_a_tick_collects_its_facts_once(world, monkeypatch) -> None:
    monitor, collected = shop.shop_watch, []
    collect = loop.collect_facts
    monkeypatch.setattr(loop, "collect_facts", lambda *given: collected.append(given) or collect(*given))
    loop.advance_loop(world.at, Project.from_items(shop.NOUNS), monitor, world.instance)
    assert len(collected) == 1
