"""Every optional package that a project needs and that is not installed is named before anything runs."""

import sys
from dataclasses import replace
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from rich.console import Console

import mlops_assets as ml
from mlops_assets.cli.project import LoadedProject
from mlops_assets.cli.project_target import ProjectTarget
from mlops_assets.cli.running import run_assets as run_selection
from mlops_assets.cli.status import validate_project
from mlops_assets.errors import MissingExtraError
from mlops_assets.orchestrate.compiler.build import compiled_projects


@ml.dataset(key="id")
def people() -> pl.DataFrame:
    return pl.DataFrame({"id": [1]})


@ml.training_set(columns=["id"], label="bought", split=ml.GroupSplit("id"))
def examples(people: pl.DataFrame) -> pl.DataFrame:
    return people


class Limits(dg.Config):
    max_iter: int = 1


@ml.model(training_set=examples, metrics=["roc_auc"], format="onnx", search=ml.Search({"max_iter": (1, 2)}))
def trees(train: ml.Split, params: Limits) -> object:
    import xgboost

    try:
        import lightgbm
    except ImportError:
        return xgboost
    return lightgbm


def loaded(platform: ml.Platform, *nouns: object) -> LoadedProject:
    definitions = ml.build_definitions([people, examples, *nouns], platform=platform)
    return LoadedProject(ProjectTarget(Path("shop.py"), "shop", Path(), in_package=False), definitions, compiled_projects()[-1:])


@pytest.fixture
def absent(monkeypatch):
    """Let packages be absent: an import of them fails, and a look for them finds nothing."""
    return lambda *names: [monkeypatch.setitem(sys.modules, name, None) for name in names]


def test_validation_names_all_that_is_missing_at_once(platform, absent) -> None:
    absent("optuna", "skl2onnx", "xgboost", "lightgbm", "redis", "psycopg", "s3fs", "mlflow", "msgspec")
    view = ml.FeatureView(source=people, entity=ml.Entity("id"), event_timestamp="at", features={"x": float}, online=True, name="facts")
    far = replace(
        platform, online="redis://somewhere:1/0", registry="postgresql://somewhere/x", artifacts="s3://bucket/x", mlflow="http://somewhere"
    )
    project = loaded(far, trees, view, ml.Service("api", model=trees))
    with pytest.raises(MissingExtraError) as caught:
        validate_project(project)
    for words in (
        "the search of 'model/trees' needs optuna, which is not installed",
        "format='onnx' of 'model/trees' needs skl2onnx",
        "the code of 'model/trees' needs xgboost",
        "the online store of 'features/facts' needs redis",
        "the registry in PostgreSQL (MLOPS_REGISTRY) needs psycopg",
        "the artifacts in S3 (MLOPS_ARTIFACTS) needs s3fs",
        "the mirror to MLflow (MLOPS_MLFLOW) needs mlflow",
        "'service/api' needs msgspec",
    ):
        assert words in caught.value.message
    assert "lightgbm" not in caught.value.message, "the code handles its absence"
    assert caught.value.hint == "pip install 'mlops_assets[mlflow,onnx,postgres,redis,s3,search,serve,xgboost]'"


def test_a_run_is_refused_before_its_first_step_by_what_it_selects(platform, absent, tmp_path) -> None:
    absent("optuna")
    project = loaded(platform, trees)
    with pytest.raises(MissingExtraError, match="needs optuna"):
        run_selection(project, select="*", partitions=None, as_of=None, console=Console(quiet=True))
    assert not (tmp_path / "home/lake").exists()


def test_what_is_not_needed_may_be_absent(platform, absent) -> None:
    absent("optuna", "redis", "psycopg", "s3fs", "mlflow", "skl2onnx", "bentoml", "dagster_dbt")
    grid = ml.model(training_set=examples, metrics=["roc_auc"], search=ml.Search({"max_iter": (1, 2)}, sampler="grid"))
    assert "shop.py is valid" in validate_project(loaded(platform, grid(trees.function.function)))


def test_a_dbt_project_without_dbt_is_refused_where_it_is_declared(platform, absent) -> None:
    absent("dagster_dbt", "optuna")
    with pytest.raises(MissingExtraError, match=r"(?s)optuna.*dagster_dbt.*mlops_assets\[dbt,search\]"):
        loaded(platform, trees, ml.DbtProject("dbt"))
