"""The record of a training has a hash of each part's rows, however the parts lie among the rows."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from mlops_assets.compute.tables.content_hash import ordered_hash
from mlops_assets.compute.tables.own_columns import SPLIT
from mlops_assets.compute.training.split import SPLIT_NAMES, split_rows
from mlops_assets.orchestrate.training.run_facts import data_facts


@pytest.mark.parametrize("by_time", [True, False])
def test_parts_have_the_hashes_of_their_rows(by_time) -> None:
    parts = ["train"] * 4 + ["validation"] * 2 + ["holdout"] * 3 if by_time else ["train", "holdout", "validation"] * 3
    rows = pl.DataFrame(
        {
            "at": [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=n) for n in range(9)],
            "x": [0.5 * n for n in range(9)],
            "y": [n % 2 for n in range(9)],
            SPLIT: parts,
        }
    )
    splits = split_rows(rows, ["x"], "y")
    facts = data_facts(rows, splits)
    assert facts["row_order"] == {"rows": ordered_hash(rows.rename({SPLIT: "split"}))}
    assert facts["split"] == {name: ordered_hash(splits[name].rows) for name in SPLIT_NAMES}
    assert len(set(facts["split"].values())) == 3


def test_a_part_without_rows_has_a_hash_too() -> None:
    rows = pl.DataFrame({"x": [1.0, 2.0], "y": [0, 1], SPLIT: ["train", "holdout"]})
    splits = split_rows(rows, ["x"], "y")
    assert data_facts(rows, splits)["split"] == {name: ordered_hash(splits[name].rows) for name in SPLIT_NAMES}
