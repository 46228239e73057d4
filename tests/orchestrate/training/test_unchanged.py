"""A model's step repeats its last result while nothing that determines it has changed; every change is judged again."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import dagster as dg
import pytest

import mlops_assets as ml
from mlops_assets.orchestrate.training import model as model_step
from mlops_assets.orchestrate.training import training_run
from mlops_assets.serving.formats.packaging import read_manifest
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import Runner, metadata
from tests.memory_instance import open_memory_instance
from tests.projects import shop

TABLES = [shop.visits, shop.crowds, shop.crowding, shop.examples]
GATES = (*shop.buyer.gates, ml.Gate("roc_auc", at_least=0.5, slice="shop", min_rows=20))
BUYER = dataclasses.replace(shop.buyer, gates=GATES, slices=("shop",))
REGISTERED = ("model/buyer", "version/buyer", "champion/buyer")


@pytest.fixture
def judged(monkeypatch) -> list[str]:
    """The steps that trained or judged."""
    steps, train = [], training_run.train_model
    monkeypatch.setattr(
        model_step, "train_model", lambda step, declared, *window: steps.append(declared.name) or train(step, declared, *window)
    )
    return steps


def build(platform: ml.Platform, instance: dg.DagsterInstance, declared, *more) -> Runner:
    tables = [declared.training_set if item is shop.examples else item for item in TABLES]
    return Runner(ml.build_definitions([*tables, declared, *more], platform=platform), instance)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Iterator[tuple[Path, dg.DagsterInstance]]:
    """A home whose champion has been judged against itself, and its instance."""
    home = tmp_path_factory.mktemp("template") / "home"
    with pytest.MonkeyPatch.context() as patch, open_memory_instance() as instance:
        patch.setenv("SHOP_WORLD", "")
        runner = build(ml.Platform.at(home), instance, BUYER)
        runner(*shop.DATA, partitions=f"{shop.day_of(0)}...{shop.day_of(2)}")
        runner("training_set/examples", *REGISTERED)
        runner("model/buyer")  # compares the new champion with itself
        yield home, instance


@pytest.fixture
def project(template, platform, monkeypatch, judged) -> Iterator[Callable[..., Runner]]:
    """A function that builds a runner for a model, on a copy of the template."""
    home, made = template
    shutil.copytree(home, platform.home)
    monkeypatch.setenv("SHOP_WORLD", "")
    with open_memory_instance(like=made) as instance:
        yield partial(build, platform, instance)


def checks(result) -> list[tuple]:
    found = [e for e in result.get_asset_check_evaluations() if e.asset_key.to_user_string() == "model/buyer_candidate"]
    return [(e.check_name, e.passed, e.description, {n: v.value for n, v in e.metadata.items()}) for e in found]


def test_the_last_result_is_repeated_and_no_row_is_read(project, judged, platform, monkeypatch) -> None:
    runner = project(dataclasses.replace(BUYER, metrics=("roc_auc", "neg_log_loss")))
    first = runner("model/buyer")
    assert judged == ["buyer"]
    before = open_stores(platform).registry.candidate("buyer")
    monkeypatch.setattr(model_step, "train_model", lambda *_: pytest.fail("it was trained or judged"))
    lake = type(open_stores(platform).lake)
    monkeypatch.setattr(lake, "read", lambda *_, **__: pytest.fail("rows were read"))
    mirrored = []
    monkeypatch.setattr(model_step, "mirror_to_mlflow", mirrored.append)
    second = runner("model/buyer")
    assert len(mirrored) == 1, "an earlier mirror may have failed"
    assert checks(second) == checks(first)
    assert len(checks(second)) == len(GATES)
    shown, repeated = metadata(first, "model/buyer"), metadata(second, "model/buyer")
    for facts in (shown, repeated):
        assert facts.pop("trained").startswith("no")
    assert repeated == shown
    tables = [
        list(row.data)
        for r in (first, second)
        for row in r.asset_materializations_for_node("model__buyer_candidate")[0].metadata["metrics"].records
    ]
    assert tables[:2] == tables[2:], "columns keep their order"
    assert open_stores(platform).registry.candidate("buyer") == before
    assert open_stores(platform).decisions.trainings("buyer")[-1].outcome == "passed"


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": ("roc_auc", "neg_brier_score")},
        {"slices": ("shop", "colour")},
        {"gates": GATES[:-1]},
        {"gates": (*GATES[:-1], ml.Gate("roc_auc", at_least=0.51, slice="shop", min_rows=20))},
        {"training_set": dataclasses.replace(shop.examples, label_copies=("price",))},
        {"training_set": dataclasses.replace(shop.examples, columns=("colour", "price"))},
    ],
    ids=["metrics", "slices", "fewer gates", "another threshold", "label copies", "order of columns"],
)
def test_a_changed_declaration_is_judged_again(project, judged, change) -> None:
    project(dataclasses.replace(BUYER, **change))("model/buyer")
    assert judged == ["buyer"]


def test_new_data_another_champion_and_a_damaged_candidate_are_judged_again(project, judged, platform) -> None:
    runner, at = project(BUYER), open_stores(platform)
    runner("model/buyer")
    assert judged == []

    runner("dataset/visits", partitions=shop.day_of(3))
    runner("training_set/examples", *REGISTERED)
    assert judged == ["buyer"]
    runner("model/buyer")
    assert judged == ["buyer"], "the candidate itself is the new champion"

    at.registry.rollback("buyer", actor="ada", reason="a complaint")
    runner("model/buyer")
    assert judged == ["buyer"] * 2, "the champion is another one"
    runner("model/buyer")
    assert judged == ["buyer"] * 2

    (candidate, _) = at.registry.candidate("buyer")
    estimator = read_manifest(at.artifacts, candidate.artifact)["estimator"]
    (file,) = Path(platform.artifacts.removeprefix("file://")).rglob(estimator)
    file.write_bytes(b"changed")
    runner("model/buyer")
    assert judged == ["buyer"] * 3


def test_a_promoted_candidate_is_compared_with_itself_as_if_it_were_judged_again(project, judged, platform, monkeypatch) -> None:
    runner, registry = project(BUYER), open_stores(platform).registry
    runner("dataset/visits", partitions=shop.day_of(3))
    runner("training_set/examples", *REGISTERED)
    assert judged == ["buyer"]
    quick = runner("model/buyer")
    quick_evidence = registry.candidate("buyer")
    assert judged == ["buyer"]
    monkeypatch.setattr(model_step, "find_last_result", lambda *_: None)
    slow = runner("model/buyer")
    assert judged == ["buyer"] * 2
    assert quick_evidence == registry.candidate("buyer")
    assert checks(quick) == checks(slow)
    shown, judged_again = metadata(quick, "model/buyer"), metadata(slow, "model/buyer")
    assert shown.pop("trained").startswith("no")
    assert judged_again.pop("trained").startswith("no")
    assert shown == judged_again
    monkeypatch.undo()
    monkeypatch.setenv("SHOP_WORLD", "")
    again = runner("model/buyer")
    assert checks(again) == checks(slow)


def test_what_the_function_read_is_compared(project, judged, tmp_path, monkeypatch) -> None:
    runner = project(BUYER)
    monkeypatch.setenv("SHOP_WORLD", str(tmp_path / "world.json"))
    runner("model/buyer")
    assert judged == ["buyer"]


def test_a_gate_that_is_a_function_is_judged_each_time(project, judged) -> None:
    calls = []

    @ml.gate(model=BUYER)
    def is_known(candidate: ml.Candidate) -> bool:
        """The candidate is known."""
        calls.append(candidate.digest)
        return True

    runner = project(BUYER, is_known)
    for _ in range(2):
        runner("model/buyer")
    assert len(calls) == 2
    assert judged == ["buyer"] * 2
