"""A dataset of cases follows its labels: a new label makes it stale, and only labels that do so can be read."""

import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.tables.automation import find_stale
from mlops_assets.stores.platform.labels import add_label
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import records

OWN = {"case": ["1", "2"], "question": ["Is JFK late?", "Is EWR late?"], "expected": ["no", "yes"]}


@ml.dataset(key="case", keep="last")
def questions() -> pl.DataFrame:
    return pl.concat([pl.DataFrame(OWN), ml.llm.read_labels("questions")], how="diagonal")


@ml.dataset(key="case")
def others() -> pl.DataFrame:
    return ml.llm.read_labels("questions")


@ml.dataset(key="case")
def hidden() -> pl.DataFrame:
    return vars(ml.llm)["read_labels"]("hidden")


def label(platform, case: str, expected: str) -> None:
    values = pl.DataFrame({"question": ["Is it late?"], "expected": [expected]})
    add_label(open_stores(platform).lake, "labels/questions", values, case=case, trace_id="0" * 32, labelled_by="ada")


def read(platform) -> list[tuple]:
    return open_stores(platform).lake.read("dataset/questions").sort("case").select("case", "expected").rows()


def list_stale(platform) -> list[str]:
    return list(find_stale(Project.from_items([questions]).node(questions), platform))


def test_a_label_makes_the_dataset_stale_and_its_next_rows_have_the_case(platform, run) -> None:
    materialise = run(ml.build_definitions([questions], platform=platform))
    materialise()
    assert (read(platform), list_stale(platform)) == ([("1", "no"), ("2", "yes")], [])
    before = records(platform, "dataset/questions")
    materialise()
    assert records(platform, "dataset/questions") == before
    label(platform, "3", "yes")
    assert list_stale(platform) == [""]
    materialise()
    assert (read(platform), list_stale(platform)) == ([("1", "no"), ("2", "yes"), ("3", "yes")], [])
    label(platform, "1", "yes")
    assert list_stale(platform) == [""]
    materialise()
    assert read(platform) == [("1", "yes"), ("2", "yes"), ("3", "yes")]


def test_the_platform_of_the_project_is_read_not_that_of_the_environment(platform, run, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "elsewhere"))
    label(platform, "3", "yes")
    run(ml.build_definitions([questions], platform=platform))()
    assert ("3", "yes") in read(platform)


def test_the_labels_are_an_asset_upstream_of_the_dataset(platform) -> None:
    graph = ml.build_definitions([questions], platform=platform).resolve_asset_graph()
    (labels,) = [key for key in graph.get_all_asset_keys() if key.path[0] == "labels"]
    assert labels.path == ["labels", "questions_labels"]
    assert [key.path for key in graph.get(labels).child_keys] == [["dataset", "questions"]]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (others, "'dataset/others' reads the labels of 'questions', which are not an input of the step"),
        (hidden, "'dataset/hidden' reads the labels of 'hidden', and new labels would not make it stale"),
    ],
)
def test_labels_whose_changes_no_one_would_notice_cannot_be_read(platform, run, dataset, message) -> None:
    assert message in run(ml.build_definitions([dataset], platform=platform)).error()
