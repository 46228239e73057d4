"""Labels are never lost: each is a row of a table that only grows, and the last one of a case counts."""

import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.errors import ArtifactError, DataError, DefinitionError
from mlops_assets.stores.lake.ducklake import DuckLake
from mlops_assets.stores.platform.labels import add_label
from mlops_assets.stores.platform.stores import open_stores
from tests.commands import warm_context

TABLE = "labels/questions"
TRACE = "0af7651916cd43dd8448eb211c80319c"


def add(platform: ml.Platform, case: str, by: str = "ada", **values) -> pl.DataFrame:
    frame = pl.DataFrame({name: [value] for name, value in values.items()})
    return add_label(open_stores(platform).lake, TABLE, frame, case=case, trace_id=TRACE, labelled_by=by)


def read(platform: ml.Platform) -> pl.DataFrame:
    return ml.llm.read_labels("questions", platform=platform)


def test_without_labels_there_are_the_columns_that_each_label_has(platform) -> None:
    assert read(platform).schema == {
        "case": pl.String,
        "trace_id": pl.String,
        "labelled_by": pl.String,
        "labelled_at": pl.Datetime("us", "UTC"),
    }
    assert read(platform).is_empty()


def test_the_last_label_of_a_case_counts_and_both_are_kept(platform) -> None:
    assert add(platform, "a", expected="EWR", minutes=15).is_empty()
    add(platform, "b", expected="LGA", minutes=None)
    earlier = add(platform, "a", by="ben", expected="JFK", minutes=9)
    assert earlier.select("expected", "labelled_by").rows() == [("EWR", "ada")]
    labels = read(platform)
    assert labels.columns == ["case", "expected", "minutes", "trace_id", "labelled_by", "labelled_at"]
    assert labels.select("case", "expected", "minutes", "labelled_by").rows() == [("b", "LGA", None, "ada"), ("a", "JFK", 9, "ben")]
    history = ml.read_table(TABLE, platform=platform).sort("labelled_at")
    assert history["expected"].to_list() == ["EWR", "LGA", "JFK"]
    assert history["labelled_at"].is_unique().all()


def test_a_column_may_come_later_and_keeps_its_type(platform) -> None:
    add(platform, "a", expected="EWR")
    add(platform, "b", expected="EWR", score=1)
    add(platform, "c", score=0.5)
    assert read(platform).select("case", "expected", "score").rows() == [("a", "EWR", None), ("b", "EWR", 1.0), ("c", None, 0.5)]
    with pytest.raises(DataError, match="column 'score' is Float64 in the labels of 'questions', and String in this one"):
        add(platform, "d", score="high")
    assert read(platform).height == 3


def label_in_process(folder: str, name: str, ready) -> None:
    lake = DuckLake.open(ml.Platform.at(folder).lake)
    ready.wait()
    for number in range(10):
        values = pl.DataFrame({"expected": [name]})
        add_label(lake, TABLE, values, case=f"{name} {number}", trace_id=TRACE, labelled_by=name)


def test_two_processes_that_label_at_once_lose_no_label(platform) -> None:
    context = warm_context()
    ready = context.Barrier(2)
    processes = [context.Process(target=label_in_process, args=(platform.home, name, ready)) for name in ("ada", "ben")]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(read(platform)["case"]) == sorted(f"{name} {number}" for name in ("ada", "ben") for number in range(10))


def test_damaged_labels_are_reported_and_not_written_again(platform) -> None:
    add(platform, "a", expected="EWR")
    (file,) = (file.path for file in open_stores(platform).lake.data_files() if file.table == TABLE)
    file.write_bytes(file.read_bytes()[:-20])
    for use in (lambda: read(platform), lambda: add(platform, "b", expected="JFK")):
        with pytest.raises(ArtifactError, match="labels/questions"):
            use()


def test_a_name_that_no_dataset_can_have_is_refused(platform) -> None:
    with pytest.raises(DefinitionError, match="a dataset cannot be named 'no name'"):
        ml.llm.read_labels("no name", platform=platform)


def test_an_erasure_of_an_entity_reaches_its_labels(platform) -> None:
    add(platform, "a", customer_id=7, expected="EWR")
    add(platform, "b", customer_id=8, expected="EWR")
    erasing = open_stores(platform).lake.erasure({"customer_id": "7"})
    assert erasing.tables() == [TABLE]
    assert erasing.rows(TABLE)["case"].to_list() == ["a"]
