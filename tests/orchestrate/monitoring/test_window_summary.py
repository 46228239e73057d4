"""The headline of a run over several windows counts and names every window that is not good."""

from mlops_assets.orchestrate.monitoring.window_summary import NEWEST_GOOD, WindowState, build_check_facts, build_summary_facts


def windows(*states: str) -> list[WindowState]:
    return [WindowState(f"2024-01-{n:02}", state, f"summary {n}") for n, state in enumerate(states, 1)]


def test_one_window_is_its_own_summary() -> None:
    assert build_summary_facts(windows("good"), "drifted") == {"state": "good", "summary": "summary 1"}


def test_a_breach_before_a_good_last_window_is_in_the_headline() -> None:
    found = build_summary_facts(windows("good", "breach", "breach", "good", "breach", "good"), "drifted")
    assert found["state"] == "breach"
    assert (
        found["summary"] == "3 of 6 windows drifted: 2024-01-02 to 2024-01-03, 2024-01-05; 3 of 6 windows are good. 2024-01-05: summary 5"
    )
    assert str(found["windows"].value).count("breach") == 3


def test_windows_without_a_verdict_are_named_too() -> None:
    found = build_summary_facts(windows("in training data", "in training data", "not enough data", "good"), "breached")
    assert found["state"] == "not enough data"
    assert found["summary"] == (
        "1 of 4 windows had not enough data: 2024-01-03; 2 of 4 windows are in training data: 2024-01-01 to 2024-01-02; 1 of 4 windows are good"
    )
    assert build_summary_facts(windows("good", "good"), "breached")["summary"] == "2 of 2 windows are good"


def test_windows_that_cannot_be_measured_are_named() -> None:
    found = build_summary_facts(windows("cannot be measured", "good"), "breached")
    assert found["state"] == "cannot be measured"
    assert found["summary"] == "1 of 2 windows cannot be measured: 2024-01-01; 1 of 2 windows are good"


def test_versions_of_one_window_count_as_one_window_and_have_a_row_each() -> None:
    found = [
        WindowState("2024-01-01", "good", "good: r2 0.9", 1),
        WindowState("2024-01-02", "not enough data", "not enough data: 3 rows", 1),
        WindowState("2024-01-02", "good", "good: r2 0.8", 2),
        WindowState("2024-01-03", "good", "good: r2 0.9", 1),
        WindowState("2024-01-03", "breach", "breach: r2 0.1", 2),
    ]
    several = build_summary_facts(found, "breached")
    assert several["state"] == "breach"
    assert several["summary"] == (
        "1 of 3 windows breached: 2024-01-03; 2 of 3 windows are good. 2024-01-03: version 1: good: r2 0.9; version 2: breach: r2 0.1"
    )
    assert str(several["windows"].value).count("2024-01-03") == 2
    assert build_summary_facts(found[1:3], "breached")["state"] == "good"
    assert build_summary_facts(found[1:3], "breached")["summary"] == "version 1: not enough data: 3 rows; version 2: good: r2 0.8"


def test_a_check_names_the_newest_good_window_and_is_not_good_when_nothing_was_predicted() -> None:
    found = build_check_facts(windows("good", "good", "not enough data"), "breached")
    assert (found["state"], found[NEWEST_GOOD]) == ("not enough data", "2024-01-02")
    assert NEWEST_GOOD not in build_check_facts(windows("cannot be measured"), "breached")
    assert build_check_facts([], "breached") == {"state": "not enough data"}
