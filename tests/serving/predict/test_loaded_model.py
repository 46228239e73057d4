"""A model loaded by name: the version that is asked for, proved like a service's."""

import numpy as np
import pytest

import mlops_assets as ml
from tests.serving.support import COLUMNS, Stage, estimator, training_rows


@pytest.fixture
def stage(tmp_path) -> Stage:
    made = Stage(tmp_path)
    for seed in (1, 2, 3):
        made.add(seed)
    made.promote(1)
    made.registry.challenge("lateness", {}, version=2, actor="ada", reason="test")
    return made


@pytest.mark.parametrize(("wanted", "version"), [("champion", 1), ("challenger", 2), ("3", 3)])
def test_an_alias_or_a_number_names_the_version(stage, wanted, version) -> None:
    loaded = ml.load_model(f"lateness@{wanted}", platform=stage.platform)
    X = training_rows(50, seed=9)
    fitted, _ = estimator(stage.seeds[version])
    assert (loaded.name, loaded.version) == ("lateness", version)
    assert np.array_equal(loaded.estimator.predict_proba(X), fitted.predict_proba(X))
    assert loaded.columns == tuple(COLUMNS)
    assert [row["dtype"] for row in loaded.signature] == [str(dtype) for dtype in X.dtypes]


def test_it_follows_the_champion_and_the_environment(stage) -> None:
    stage.promote(3)
    assert ml.load_model("lateness@champion", platform=stage.platform).version == 3
    other = ml.Platform.at(stage.home, environment="prod")
    with pytest.raises(ml.RegistryError, match="model 'lateness' has no 'champion'"):
        ml.load_model("lateness@champion", platform=other)


def test_what_is_not_registered_is_named(stage) -> None:
    with pytest.raises(ml.RegistryError, match=r"no registered model 'latenes'\nHint: did you mean 'lateness'\?"):
        ml.load_model("latenes@champion", platform=stage.platform)
    with pytest.raises(ml.RegistryError, match=r"named without a version\nHint: give lateness@ and one of champion, challenger, 1, 2, 3"):
        ml.load_model("lateness", platform=stage.platform)
    with pytest.raises(ml.RegistryError, match=r"has no 'champoin'\nHint: did you mean 'champion'\?"):
        ml.load_model("lateness@champoin", platform=stage.platform)


def test_changed_bytes_are_refused(stage) -> None:
    stage.corrupt(1)
    with pytest.raises(ml.errors.ArtifactError):
        ml.load_model("lateness@champion", platform=stage.platform)
    assert ml.load_model("lateness@2", platform=stage.platform).version == 2


def test_a_pickle_is_refused_unless_pickles_are_allowed(stage, monkeypatch) -> None:
    fitted, X = estimator(4)
    monkeypatch.setenv("MLOPS_ALLOW_PICKLE", "1")
    version = stage.register(fitted, X, "digest-pickle", form="pickle")
    assert isinstance(ml.load_model(f"lateness@{version}", platform=stage.platform).estimator, type(fitted))
    monkeypatch.delenv("MLOPS_ALLOW_PICKLE")
    with pytest.raises(ml.errors.ArtifactError, match="pickles are not allowed here"):
        ml.load_model(f"lateness@{version}", platform=stage.platform)
