"""Gates on costs, and kinds of gates that this file alone defines, in a real project: judged, shown, evidence of a version."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial

import dagster as dg
import pytest

import mlops_assets as ml
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.ci.pull_request import build_ci_report
from mlops_assets.orchestrate.replay.candidate_gates import select_gates
from mlops_assets.serving.formats.integrity import list_parts
from mlops_assets.serving.formats.packaging import read_manifest
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import Runner, metadata
from tests.home_template import HomeTemplate, open_home_template
from tests.projects import shop

TRAIN = ("training_set/examples", "model/buyer")


@dataclasses.dataclass(frozen=True)
class ColumnBudget:
    """A maximum for the number of columns: a kind of gate that only this file knows."""

    most: int
    name = "few_columns"
    relative = False

    @property
    def definition(self) -> str:
        return f"at most {self.most} columns"

    @property
    def text(self) -> str:
        return f"X has at most {self.most} columns"

    def judge(self, candidate: ml.Candidate) -> ml.GateResult:
        width = candidate.holdout.X.width
        return ml.GateResult(width <= self.most, f"X has {width} columns", width, self.most)


@dataclasses.dataclass(frozen=True)
class HigherMean:
    """A kind of gate that compares with the champion and gives equal candidates equal results, with each optional member."""

    metric: str
    name = "higher_mean"
    definition = "above the champion's"
    text = "the mean is above the champion's"
    relative = True
    repeatable = True

    def judge(self, candidate: ml.Candidate) -> ml.GateResult:
        theirs = candidate.champion.metric(self.metric) if candidate.champion else -1.0
        return ml.GateResult(candidate.evaluation.metric(self.metric) > theirs, "compared")


class CostsOfRows(ColumnBudget):
    """A kind of gate that reads costs."""

    name = "costs_of_rows"
    needs_costs = True


def build(platform: ml.Platform, instance: dg.DagsterInstance, *gates) -> Runner:
    model = dataclasses.replace(shop.buyer, gates=gates)
    return Runner(ml.build_definitions([shop.visits, shop.crowds, shop.crowding, shop.examples, model], platform=platform), instance)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Iterator[HomeTemplate]:
    """A home with a training set."""
    with open_home_template(tmp_path_factory.mktemp("costs")) as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOP_WORLD", "")
        runner = build(made.platform, made.instance)
        runner(*shop.DATA, partitions=f"{shop.day_of(0)}...{shop.day_of(1)}")
        runner("training_set/examples")
        yield made


@pytest.fixture
def project(template, platform, instance, monkeypatch) -> Callable[..., Runner]:
    """A function that builds a runner for gates, on a copy of the home."""
    monkeypatch.setenv("SHOP_WORLD", "")
    template.copy_to(platform, instance)
    return partial(build, platform, instance)


def test_gates_of_every_kind_are_measured_shown_and_evidence(project, platform) -> None:
    runner = project(ml.Gate.artifact_size(max_bytes=10_000_000), ml.Gate.latency(p95_ms=5000, calls=40), ColumnBudget(9))
    (model,) = [a for a in runner.definitions.assets if a.key.to_user_string() == "model/buyer_candidate"]
    texts = {spec.name: spec.description for spec in model.check_specs}
    assert texts["latency_p95_at_most"] == "p95 of 40 single-row predictions at most 5000 ms"
    assert texts["few_columns"] == "X has at most 9 columns"
    result = runner(*TRAIN, "version/buyer", "champion/buyer")
    found = {e.check_name: e for e in result.get_asset_check_evaluations() if e.asset_key.to_user_string() == "model/buyer_candidate"}
    stores = open_stores(platform)
    (version,) = stores.registry.versions("buyer")
    stored = {version.artifact, *(sha256 for _, sha256 in list_parts(read_manifest(stores.artifacts, version.artifact)))}
    size = sum(len(stores.artifacts.get(sha256)) for sha256 in stored)
    assert found["artifact_size_at_most"].metadata["value"].value == size
    assert f"the artifacts have {size:,} bytes ≤ 10,000,000 bytes" in found["artifact_size_at_most"].description
    assert "ms of 40 single-row predictions (compiled predictor, holdout rows) ≤ 5000 ms" in found["latency_p95_at_most"].description
    assert 0 < found["latency_p95_at_most"].metadata["value"].value < 5000
    evidence = {e.gate: e for e in stores.registry.evidence("buyer", version.digest)}
    assert {name: e.passed for name, e in evidence.items()} == dict.fromkeys(
        ("artifact_size_at_most", "latency_p95_at_most", "few_columns"), True
    )
    assert not any(e.relative for e in evidence.values())
    card = metadata(result, "version/buyer")["model card"]
    assert "few_columns" in card
    assert "artifact_size_at_most" in card


def test_a_cost_above_its_maximum_blocks_the_version(project, platform) -> None:
    runner = project(ml.Gate.artifact_size(max_bytes=10), ColumnBudget(1))
    runner(*TRAIN, ok=False)
    error = runner.error("version/buyer")
    assert "gate 'artifact_size_at_most' failed (the artifacts have" in error
    assert "gate 'few_columns' failed (X has" in error
    report = build_ci_report(open_stores(platform), dataclasses.replace(shop.buyer, gates=()))
    assert not report.gates["few_columns"][0]
    assert "X has" in report.gates["few_columns"][1]


def test_the_champion_passes_a_relative_gate_of_another_kind_and_a_repeated_step_reuses_its_result(project, platform) -> None:
    runner = project(HigherMean("roc_auc"))
    first = runner(*TRAIN, "version/buyer", "champion/buyer")
    again = runner("model/buyer")
    assert metadata(first, "model/buyer")["trained"] == "yes"
    assert metadata(again, "model/buyer")["trained"] == "no: nothing that decides the result has changed since the last materialisation"
    (evidence,) = open_stores(platform).registry.candidate("buyer")[1]
    assert (evidence.passed, evidence.reason) == (True, "this is the champion, version 1")


def test_gates_that_read_costs_are_left_out_of_a_replay() -> None:
    gates = (ml.Gate("roc_auc", at_least=0.5), ml.Gate.latency(p95_ms=5), CostsOfRows(1), ColumnBudget(1), HigherMean("roc_auc"))
    replayed, others = select_gates(gates)
    assert [gate.name for gate in replayed] == ["roc_auc_at_least", "few_columns", "higher_mean"]
    assert others == ["latency_p95_at_most", "costs_of_rows"]


def test_another_definition_asks_for_new_evidence(project) -> None:
    project(ColumnBudget(9))(*TRAIN)
    assert "gate 'few_columns', or what it reads, has changed since it was evaluated" in project(ColumnBudget(8)).error("version/buyer")


def test_what_is_no_gate_is_refused_where_it_is_declared() -> None:
    with pytest.raises(DefinitionError, match="a str in gates= is not a gate"):
        ml.model(training_set=shop.examples, metrics=["roc_auc"], gates=["roc_auc"])(shop.buyer.function.function)
