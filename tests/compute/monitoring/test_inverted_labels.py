"""Labels that look inverted hold every retraining, until they are corrected or a person trains."""

from dataclasses import replace

import pytest

from mlops_assets.compute.monitoring.decide import decide, next_action
from mlops_assets.values.decisions import PROMOTED, Training
from mlops_assets.values.monitoring import BREACH, GOOD, INVERTED
from tests.compute.monitoring.test_decide import days, end, facts, launch, made, report, whole_reason

WHY = "the labels of 2013-01-04 look inverted: correct them, or train by hand if they are right"


@pytest.mark.parametrize("states", ["gggi", "gbbi", "bbbi", "ggii"])
def test_a_window_of_inverted_labels_opens_no_decision(states: str) -> None:
    assert whole_reason(decide(facts(states))).startswith(WHY)


def test_a_decision_that_is_open_starts_no_training_on_inverted_labels() -> None:
    decision = made(decide(facts("ggb")))
    before = facts("ggb", decisions=(decision,))
    assert launch(next_action(before, end(3))).decision == decision
    after = replace(before, reports=days("ggbi"))
    assert whole_reason(next_action(after, end(4))) == f"{WHY}; this holds decision {decision.id} about 2013-01-03"


def test_corrected_labels_end_the_hold() -> None:
    inverted = days("ggbi")
    for state in (GOOD, BREACH):
        corrected = facts("", reports=(*inverted, replace(report(4, state), recorded=1)))
        assert "look inverted" not in str(decide(corrected))
    assert made(decide(facts("", reports=(*inverted, replace(report(4, BREACH), recorded=1))))).evidence == ("2013-01-03", "2013-01-04")


def test_a_training_by_hand_ends_the_hold_and_so_does_another_version() -> None:
    trained = facts("", reports=(*days("gggi"), report(5, BREACH)), trainings=(Training("run", end(4), PROMOTED),))
    assert made(decide(trained)).evidence == ("2013-01-05",)
    other = facts("", reports=(*days("gggi", version=5), report(5, BREACH)))
    assert made(decide(other)).version == 6
    assert INVERTED in {r.state for r in other.reports}
