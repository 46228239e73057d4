"""A kind of candidate that is no estimator goes through training, gates, registration, opening and reproduction."""

import dataclasses
import importlib
import re
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.errors import ArtifactError
from mlops_assets.orchestrate.ci.pull_request import build_ci_report
from mlops_assets.orchestrate.reproduction.reproduction import reproduce
from mlops_assets.orchestrate.training.candidate_kind import CandidateKind
from mlops_assets.orchestrate.training.kinds import KINDS, find_kind, read_kind
from mlops_assets.serving.formats.packaging import read_manifest, unpack
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.model import KIND
from tests.conftest import ROOT, Runner, metadata


class Shift(dg.Config):
    by: float = 0.0


@ml.dataset()
def tides() -> pl.DataFrame:
    """Heights at twenty places, ten times."""
    return pl.DataFrame(
        {"place": [f"p{i % 20}" for i in range(200)], "hour": list(range(200)), "height": [float(i % 7) for i in range(200)]}
    )


@ml.training_set(label="height", columns=["hour"], split=ml.GroupSplit("place", validation=0.2, holdout=0.3))
def heights(tides: pl.DataFrame) -> pl.DataFrame:
    return tides


@ml.model(training_set=heights, metrics=["neg_mean_absolute_error"])
def mean_height(train: ml.Split, shift: Shift) -> float:
    """The mean height of the training rows."""
    return float(train.y.mean()) + shift.by


BETTER = ml.Gate("neg_mean_absolute_error", no_worse_than_champion_by=0.01)
STEPS = ("model/mean_height", "version/mean_height", "champion/mean_height")


@pytest.fixture
def model(monkeypatch):
    here = str(Path(__file__).parent)
    monkeypatch.syspath_prepend(here)
    monkeypatch.setenv("PYTHONPATH", here)  # of the process that trains again
    monkeypatch.setitem(KINDS, "constant", importlib.import_module("constant_kind").ConstantKind())
    return dataclasses.replace(mean_height, kind="constant", gates=(ml.Gate("neg_mean_absolute_error", at_least=-3.0), BETTER))


def test_another_kind_is_trained_judged_registered_opened_and_reproduced(model, platform, instance) -> None:
    runner = Runner(ml.build_definitions([tides, heights, model], platform=platform), instance)
    first = runner()
    stores = open_stores(platform)
    champion = stores.registry.champion("mean_height")
    run = stores.tracker.get(champion.run_id)
    assert run.record[KIND] == read_manifest(stores.artifacts, champion.artifact)[KIND] == "constant"
    assert read_kind(run.record).open(stores, model, champion.artifact) == pytest.approx(3.0, abs=0.5)
    assert metadata(first, "model/mean_height")["kind of candidate"] == "constant"
    card = metadata(first, "version/mean_height")["model card"]
    assert "kind of candidate: constant" in card
    assert BETTER.name in card

    again = reproduce(stores, champion, model.function.function)
    assert (again.verdict, again.field) == ("IDENTICAL", "")

    runner(*STEPS, config={"model__mean_height_candidate": {"by": 2.0}}, ok=False)  # a worse constant meets the champion, and is refused
    evidence = {item.gate: item for item in stores.registry.candidate("mean_height")[1]}
    assert not evidence[BETTER.name].passed
    assert evidence[BETTER.name].champion == champion.digest
    assert stores.registry.champion("mean_height") == champion
    assert build_ci_report(stores, model).gates[BETTER.name][0] is False


def test_the_same_inputs_are_opened_and_not_trained_again(model, platform, instance) -> None:
    runner = Runner(ml.build_definitions([tides, heights, model], platform=platform), instance)
    runner("dataset/tides", "training_set/heights", "model/mean_height")
    assert metadata(runner("model/mean_height"), "model/mean_height")["trained"].startswith("no:")


def test_costs_that_a_kind_does_not_measure_fail_their_gate(model, platform, instance) -> None:
    costly = dataclasses.replace(model, gates=(ml.Gate.latency(p95_ms=5),))
    runner = Runner(ml.build_definitions([tides, heights, costly], platform=platform), instance)
    runner("dataset/tides", "training_set/heights", "model/mean_height", ok=False)
    assert "this kind of candidate measures no latency" in runner.error("version/mean_height")


def test_records_without_a_kind_are_estimators_and_other_kinds_are_not_opened_as_such(platform) -> None:
    assert read_kind({}).name == "estimator"
    with pytest.raises(ArtifactError, match=r"no kind of candidate 'estimater'.*\n.*did you mean 'estimator'"):
        find_kind("estimater")
    artifacts = open_stores(platform).artifacts
    with pytest.raises(ArtifactError, match="of the kind 'constant', not an estimator"):
        unpack(artifacts, artifacts.put(b'{"candidate_kind": "constant"}'))


def test_the_package_calls_each_verb_of_the_protocol() -> None:
    verbs = [name for name, member in vars(CandidateKind).items() if callable(member) and not name.startswith("_")]
    assert "train" in verbs
    text = "\n".join(path.read_text() for path in (ROOT / "mlops_assets/orchestrate").rglob("*.py"))
    calls = set(re.findall(r"\b(?:kind|find_kind\([^)]*\)|read_kind\([^)]*\))\.(\w+)\(", text))
    assert set(verbs) - calls == set()
