"""Faults in natural days of flights: a few windows of the benchmark ``detection``."""

from functools import cache

from bench.detection import DAYS, Detection, measure_detection
from bench.projects.detection_data import FAULTS, read_flights

FOUND = {"unit error: pressure", "airport missing: origin", "10 % zeros: distance", "5 % nulls: temp", "one category renamed: carrier"}
FOUND |= {"carriers swapped: carrier", "local time for UTC: hour", "frozen: wind_speed", "10 % zeros: wind_speed"}


@cache
def detection() -> Detection:
    return measure_detection(read_flights(), *DAYS, step=24, faults=[fault for fault in FAULTS if fault.name in FOUND])


def test_injected_faults_are_found_and_named_first() -> None:
    assert detection().faults.keys() == FOUND
    for name, tally in detection().faults.items():
        assert tally.windows >= 14
        assert tally.found >= 0.9 * tally.windows, name
        assert tally.first >= 0.8 * tally.windows, name


def test_clean_days_are_quiet() -> None:
    assert len(detection().clean["all views"]) <= 1


def test_swapped_carriers_and_few_zeros_need_more_than_distances() -> None:
    assert detection().distances["carriers swapped: carrier"].found == 0
    assert detection().distances["10 % zeros: distance"].found == 0
