"""Samples of frames."""

import polars as pl
import pytest

from mlops_assets.compute.tables.frames import sample_evenly


@pytest.mark.parametrize("height", [0, 1, 63, 64, 65, 100, 127, 128, 1000, 4_000_001])
def test_a_sample_reaches_over_all_rows(height) -> None:
    taken = sample_evenly(pl.DataFrame({"row": range(height)}), 64)["row"].to_list()
    assert len(taken) == min(height, 64)
    assert taken[:1] == [0][:height]
    steps = {later - earlier for earlier, later in zip(taken, [*taken[1:], height], strict=True)} if taken else {1}
    assert max(steps) - min(steps) <= 1
