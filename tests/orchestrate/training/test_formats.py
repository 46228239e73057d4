"""Models of each form go all the way: trained, judged, registered, promoted, judged against, predicted in batch, served, trained again."""

import sys

import numpy as np
import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.cli.project import load
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.ci.pull_request import _read_splits
from mlops_assets.orchestrate.reproduction.reproduction import ReproductionOptions, reproduce
from mlops_assets.orchestrate.training.evaluation import evaluate_champion
from mlops_assets.serving.formats.packaging import describe_format, read_manifest
from mlops_assets.serving.http.control import status, stop
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.platform import Platform
from tests.conftest import ROOT, Runner, metadata
from tests.memory_instance import open_memory_instance
from tests.serving.support import Client

MODELS = ["boosted", "linear", "trees"]
SERVED = ["boosted", "linear"]
NOT_SERVICES = [
    *("dataset/people", "training_set/examples"),
    *(f"{kind}/{model}" for model in MODELS for kind in ("model", "version", "champion")),
    *(f"predictions/{model}_tomorrow" for model in SERVED),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The project of all forms, run, and its services running."""
    folder = tmp_path_factory.mktemp("formats")
    with pytest.MonkeyPatch.context() as patch, open_memory_instance() as instance:
        patch.setenv("MLOPS_HOME", str(folder / "home"))
        (folder / "definitions.py").write_text((ROOT / "tests/projects/formats.py").read_text())
        project = load(str(folder / "definitions.py"))
        run = Runner(project.definitions, instance)
        first = run(*NOT_SERVICES)
        run(*(f"service/{model}_api" for model in SERVED))
        platform = Platform.at(folder / "home")
        yield sys.modules["definitions"], open_stores(platform), first, run
        for model in SERVED:
            stop(platform.home, f"{model}_api", timeout=10)


def manifest(at, model: str) -> dict:
    return dict(read_manifest(at.artifacts, at.registry.champion(model).artifact))


def test_the_model_asset_says_how_its_candidate_is_stored_and_why_not_otherwise(world) -> None:
    _, at, first, _ = world
    said = {model: metadata(first, f"model/{model}")["format"] for model in MODELS}
    assert {model: describe_format(manifest(at, model)) for model in MODELS} == said
    assert (said["boosted"], said["linear"]) == ("lightgbm", "onnx")
    assert said["trees"].startswith("skops (not onnx: ")


@pytest.mark.parametrize("model", SERVED)
def test_a_service_and_a_batch_answer_as_the_estimator_did(world, model) -> None:
    _, at, _, _ = world
    stored = manifest(at, model)
    probe = pl.read_ipc(at.artifacts.get(stored["probe"]))
    now = status(at.platform.home, f"{model}_api")
    client = Client(now.url)
    served = [client.predict(row)["predictions"][0] for row in probe.head(20).to_dicts()]
    shares = [one["probability"] for one in served]
    np.testing.assert_allclose(shares, np.array(stored["probe_predictions"])[:20, 1], atol=1e-5)
    assert [one["prediction"] for one in served] == (np.array(stored["probe_predictions"])[:20, 1] > 0.5).tolist()
    assert client("POST", "/predict", {"age": 40.0, "wage": None, "town": "a town that nobody has seen"})[0] in (200, 422)
    client.close()


@pytest.mark.parametrize("model", ["boosted", "linear", "trees"])
def test_a_champion_is_measured_for_comparison_by_what_serves(world, model) -> None:
    module, at, _, _ = world
    champion = at.registry.champion(model)
    holdout = _read_splits(at, getattr(module, model), champion.snapshot, {})["holdout"]
    measured, _ = evaluate_champion(at, getattr(module, model), holdout, champion)
    assert not measured.problems
    recorded = {name: at.tracker.get(champion.run_id).metrics[name] for name in ("roc_auc", "neg_log_loss")}
    assert dict(measured.metrics) == pytest.approx(recorded, abs=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_a_version_of_each_form_is_reproduced_identical(world, model) -> None:
    module, at, _, _ = world
    declared = getattr(module, model)
    found = reproduce(at, at.registry.champion(model), declared.function.function, ReproductionOptions())
    assert found.verdict == "IDENTICAL", found


def test_a_format_is_checked_where_it_is_declared(world) -> None:
    module, _, _, _ = world
    with pytest.raises(DefinitionError, match="unknown format 'nativ'") as error:
        ml.model(training_set=module.examples, metrics=["roc_auc"], format="nativ")(module.boosted.function.function)
    assert error.value.hint.startswith("did you mean 'native'?")
