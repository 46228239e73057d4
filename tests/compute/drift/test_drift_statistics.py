"""The table of drift statistics: one more entry decides everywhere, and references that were stored before still open."""

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mlops_assets.compute.drift.binning import CATEGORICAL
from mlops_assets.compute.drift.distances import Comparison
from mlops_assets.compute.drift.drift_report import DriftReport, measure_drift
from mlops_assets.compute.drift.drift_statistics import BIN, STATISTICS, Statistic, deciding_statistics
from mlops_assets.compute.drift.profile import FORMAT, build_profile
from mlops_assets.compute.pages.monitor_page import MonitorPage, VersionReports, render_monitor
from mlops_assets.errors import DataError

STORED = json.loads((Path(__file__).parent / "data" / "reference_format_1.json").read_text())


def measure_total_variation(comparison: Comparison) -> np.ndarray:
    shares, expected = comparison.bin_shares
    return np.abs(shares - expected).sum(axis=1) / 2


TOTAL_VARIATION = Statistic(
    "total_variation",
    "total variation",
    "TV",
    frozenset({CATEGORICAL}),
    measure_total_variation,
    min_effect=lambda psi: psi / 100,  # it is exceeded long before the others
    maximum=lambda _binning, _reference: 1.0,
    explained_by=BIN,
    counts_nulls=True,
)


@pytest.fixture
def total_variation(monkeypatch) -> str:
    monkeypatch.setitem(STATISTICS, TOTAL_VARIATION.name, TOTAL_VARIATION)
    return TOTAL_VARIATION.name


def shops(
    days: int = 30, rows: int = 2_000, seed: int = 0, probabilities: tuple[float, float] = (0.5, 0.5)
) -> tuple[pl.DataFrame, pl.Series]:
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame({"shop": rng.choice(["a", "b"], days * rows, p=probabilities), "minutes": rng.normal(size=days * rows)})
    return frame, pl.Series([datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=i // rows) for i in range(days * rows)])


def window_of_stored() -> pl.DataFrame:
    return pl.DataFrame(STORED["window"])


def assert_as_stored(report: DriftReport) -> None:
    found = [column.as_json() for column in report.columns]
    for now, before in zip(found, STORED["columns"], strict=True):
        assert now["capped"] == before["by_rank"]
        for name in before.keys() - {"by_rank"}:
            assert now[name] == (pytest.approx(before[name]) if isinstance(before[name], float) else before[name]), name
    assert report.needed == STORED["needed"]


def test_a_reference_of_format_1_gives_the_report_that_it_gave() -> None:
    assert (STORED["profile"]["format"], FORMAT) == (1, 4)
    assert_as_stored(measure_drift(STORED["profile"], window_of_stored()))


def test_calibrations_are_stored_by_the_name_of_the_statistic() -> None:
    profile = json.loads(json.dumps(build_profile(*shops(days=25, rows=40)), sort_keys=True))
    statistics = profile["columns"]["shop"]["calibration"]["statistics"]
    assert set(statistics) == {statistic.name for statistic in deciding_statistics()}
    assert len(statistics["js"]["strays"]) == 25
    with pytest.raises(DataError, match="stored in format 5, but this program reads 4"):
        measure_drift(profile | {"format": 5}, window_of_stored())


def test_one_more_entry_is_calibrated_decides_and_is_shown(total_variation) -> None:
    frame, at = shops()
    profile = json.loads(json.dumps(build_profile(frame, at), sort_keys=True))
    assert total_variation in profile["columns"]["shop"]["calibration"]["statistics"]
    quiet = measure_drift(profile, shops(days=1, seed=1)[0])
    assert quiet.drifted == ()
    moved = measure_drift(profile, shops(days=1, seed=2, probabilities=(0.42, 0.58))[0])
    column = moved.columns[0]
    assert (moved.drifted, column.name, column.statistic) == (("shop",), "shop", total_variation)
    assert column.statistics[total_variation] == pytest.approx(0.08, abs=0.03)
    assert moved.columns[1].statistics[total_variation] is None  # not of numbers
    assert "total variation 0.0" in column.why
    assert "in the reference in 5" in column.why
    assert column.as_json()[total_variation] == column.value
    page = render_monitor(MonitorPage("watch", "2024-02-01", "m", (VersionReports(6, moved),)))
    assert '<th scope="col">TV</th>' in page
    assert "TV: total variation" in page


def without_views(profile: dict) -> dict:
    """A profile as it was stored before statistics of windows and associations."""
    columns = {name: {key: value for key, value in column.items() if key != "history"} for name, column in profile["columns"].items()}
    return {key: value for key, value in profile.items() if key != "associations"} | {"columns": columns}


def test_a_reference_from_before_a_statistic_still_opens_and_the_statistic_does_not_decide(total_variation) -> None:
    assert_as_stored(measure_drift(STORED["profile"], window_of_stored()))
    frame, at = shops()
    del STATISTICS[total_variation]
    profile = without_views(build_profile(frame, at))
    STATISTICS[total_variation] = TOTAL_VARIATION
    moved = measure_drift(profile, shops(days=1, seed=2, probabilities=(0.42, 0.58))[0])
    assert moved.drifted == ()
    shop = next(column for column in moved.columns if column.name == "shop")
    assert shop.statistics[total_variation] > 0.05  # reported, never compared with a threshold of NaN
    assert not math.isnan(shop.severity)


def test_without_windows_of_time_one_more_entry_decides_by_chance(total_variation) -> None:
    frame, _ = shops(days=2)
    report = measure_drift(build_profile(frame), shops(days=1, seed=2, probabilities=(0.3, 0.7))[0], min_psi=0.0)
    assert report.drifted == ("shop",)
    assert report.columns[0].statistics[total_variation] is not None
