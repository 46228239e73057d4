"""What a replay measures where versions differ: classes that come later, predictions that are no numbers, empty windows."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

import mlops_assets as ml
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.replay.windows import _merge_shares, group_windows, list_windows
from tests.projects import changing

START = datetime(2024, 1, 1, tzinfo=UTC)


class Known:
    def __init__(self, *classes: object) -> None:
        self.classes_ = np.array(classes)


def test_a_class_that_an_earlier_version_did_not_know_has_no_probability_there():
    early, late = np.array([[0.3, 0.7]]), np.array([[0.2, 0.3, 0.5]])
    classes, shares = _merge_shares([(Known("a", "c"), early), (Known("a", "b", "c"), late)])
    assert classes.tolist() == ["a", "b", "c"]
    assert shares.tolist() == [[0.3, 0.0, 0.7], [0.2, 0.3, 0.5]]


def test_regressors_have_no_classes_and_estimators_without_probabilities_no_shares():
    assert _merge_shares([(object(), None)]) == (None, None)
    classes, shares = _merge_shares([(Known(0, 1), None)])
    assert (classes.tolist(), shares) == ([0, 1], None)


def windows(count: int, length: timedelta = timedelta(days=1)):
    return tuple((f"{i}", ml.TimeWindow(START + i * length, START + (i + 1) * length)) for i in range(count))


@pytest.mark.parametrize(("count", "unit", "groups"), [(245, "week", 35), (30, "window", 30), (900, "month", 30), (12, "window", 12)])
def test_a_result_has_the_longest_unit_that_gives_twenty_windows(count, unit, groups):
    found, grouped = group_windows(windows(count), None, "UTC")
    assert (found, len(grouped)) == (unit, groups)
    assert grouped[0][1].start == START
    assert grouped[-1][1].end == START + timedelta(days=count)


def test_a_unit_follows_the_time_zone_of_the_partitions():
    _, grouped = group_windows(windows(48, timedelta(hours=1)), "day", "America/New_York")
    assert [name for name, _ in grouped] == ["2023-12-31", "2024-01-01", "2024-01-02"]


def test_only_whole_partitions_of_the_period_are_replayed():
    found = list_windows(changing.DAILY, START + timedelta(hours=1), START + timedelta(days=3, hours=5))
    assert [name for name, _ in found] == ["2024-01-02", "2024-01-03"]
    with pytest.raises(DefinitionError, match="no whole partition"):
        list_windows(changing.DAILY, START, START + timedelta(hours=5))
