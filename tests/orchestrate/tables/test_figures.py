"""A figure for display never fails a step."""

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

import mlops_assets as ml
from mlops_assets.compute.features.statistics import compute_statistics, draw_histogram
from mlops_assets.compute.training import plots as pictures_of_models
from mlops_assets.orchestrate.core import metadata as shown
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import metadata

AT = datetime(2024, 1, 1, tzinfo=UTC)
NUMBERS = {
    pl.Int64: st.integers(-(2**63), 2**63 - 1),
    pl.UInt64: st.integers(0, 2**64 - 1),
    pl.Float64: st.floats(allow_nan=False, allow_infinity=False),
}


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ([1_700_000_000_000_000_000], "█"),
        ([1.7e18] * 9, "█"),
        ([1e16, 1e16 + 2], "█          █"),
        ([1_700_000_000_000_000_000, 1_700_000_000_000_000_001], "█          █"),
        ([-(2**63), 2**63 - 1], "█          █"),
        ([-1.7e308, 1.7e308], "█          █"),
        ([None, None], ""),
        ([], ""),
    ],
)
def test_bars_are_drawn_of_large_close_and_single_values(values, bars) -> None:
    dtype = pl.Float64 if any(isinstance(value, float) for value in values) else pl.Int64
    assert draw_histogram(pl.Series(values, dtype=dtype)) == bars


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_bars_are_drawn_of_any_numbers(data) -> None:
    dtype = data.draw(st.sampled_from(list(NUMBERS)))
    values = pl.Series("x", data.draw(st.lists(NUMBERS[dtype], max_size=30)), dtype=dtype)
    bars = draw_histogram(values)
    assert len(bars) == (12 if values.n_unique() > 1 else values.n_unique())
    assert "not drawn" not in compute_statistics(values.to_frame(), ["x"])[0]["histogram"]


@pytest.mark.parametrize("rows", [1, 3])
def test_a_view_of_one_row_one_time_and_large_constants_is_made(run, platform, rows) -> None:
    @ml.feature_view(entity=ml.Entity("shop"), event_timestamp="at", features={"id": int, "x": float, "seen": datetime})
    def constants() -> pl.DataFrame:
        return pl.DataFrame({"shop": [str(i) for i in range(rows)]}).with_columns(
            at=pl.lit(AT).cast(pl.Datetime("us", "UTC")),
            id=pl.lit(1_700_000_000_000_000_000),
            x=pl.lit(1e16),
            seen=pl.lit(AT).cast(pl.Datetime("us", "UTC")),
        )

    result = run(ml.build_definitions([constants], platform=platform))("features/constants")
    assert metadata(result, "features/constants")["statistics"].count("█") == 3


def test_a_figure_that_cannot_be_drawn_becomes_a_warning_in_the_metadata(run, platform, monkeypatch) -> None:
    def broken(*_args, **_more):
        raise ValueError("Too many bins for data range")

    monkeypatch.setattr("mlops_assets.compute.features.statistics.draw_histogram", broken)
    monkeypatch.setattr(shown, "PREVIEW_ROWS", "five")

    @ml.feature_view(entity=ml.Entity("shop"), event_timestamp="at", features={"x": float})
    def view() -> pl.DataFrame:
        return pl.DataFrame({"shop": ["a"], "at": [AT], "x": [1.0]})

    result = run(ml.build_definitions([view], platform=platform))("features/view")
    found = metadata(result, "features/view")
    assert "| x | Float64 | 1 |" in found["statistics"]
    assert "not drawn (ValueError: Too many bins for data range)" in found["statistics"]
    assert found["preview"].startswith("warning: not drawn (TypeError: ")
    assert open_stores(platform).lake.read("features/view").height == 1


def test_one_picture_that_cannot_be_drawn_leaves_the_others(monkeypatch) -> None:
    X = pl.DataFrame({"a": np.arange(20.0)})
    y = np.arange(20) > 9
    monkeypatch.setattr(pictures_of_models, "_plot_calibration", lambda *_: 1 / 0)
    drawn = pictures_of_models.plot_model(LogisticRegression().fit(X, y), ml.Split(X, y, X), "accuracy", "seed")
    warnings: list[str] = []
    found = shown.to_images(drawn, warnings.append)
    assert found["calibration"].value == "warning: not drawn (ZeroDivisionError: division by zero)"
    assert warnings == ["'calibration' cannot be drawn: ZeroDivisionError: division by zero"]
    assert found["ROC"].value.startswith("![")


def test_a_far_time_in_the_preview_fails_no_step(run, platform) -> None:
    @ml.dataset()
    def far() -> pl.DataFrame:
        return pl.DataFrame({"x": pl.Series([2**60]).cast(pl.Datetime("us"))})

    found = metadata(run(ml.build_definitions([far], platform=platform))("dataset/far"), "dataset/far")
    assert found["dagster/row_count"] == 1
    assert found["preview"].startswith("warning: not drawn (")
