"""The facts of the loop: the latest report counts, a decision is opened once, a training only goes forward."""

from datetime import UTC, datetime

import pytest

from mlops_assets.stores.registry.decisions import PASSED, PROMOTED, REJECTED, STARTED, Decisions, TrainingRecord, open_decisions
from mlops_assets.values.decisions import Decision, WindowReport

END = datetime(2024, 1, 2, tzinfo=UTC)


@pytest.fixture
def facts(url) -> Decisions:
    return open_decisions(url)


def test_reports_are_kept_in_the_order_in_which_they_came(facts) -> None:
    facts.record_reports("watch", "m", [WindowReport("2024-01-01", END, 1, "breach", reason="low")])
    facts.record_reports("watch", "m", [WindowReport("2024-01-01", END, 1, "good", reason="labels came")])
    found = facts.reports("watch")
    assert [(r.state, r.end, r.kind) for r in found] == [("breach", END, "performance"), ("good", END, "performance")]
    assert found[0].recorded < found[1].recorded
    assert facts.reports("another") == ()


def test_a_decision_is_opened_once_and_closed_once(facts, url) -> None:
    decision = Decision("id", "m", 1, "2024-01-01", END, "low", ("2024-01-01",))
    assert facts.open("watch", decision)
    assert not facts.open("watch", decision)
    facts.close("id", "answered")
    facts.close("id", "again")
    assert [(d.id, d.closed) for d in facts.decisions("m")] == [("id", "answered")]
    assert open_decisions(url, "prod").decisions("m") == ()


@pytest.mark.parametrize(
    ("first", "then", "outcome"), [(STARTED, PASSED, PASSED), (PROMOTED, STARTED, PROMOTED), (PASSED, REJECTED, PASSED)]
)
def test_a_training_only_goes_forward(facts, first, then, outcome) -> None:
    facts.record_training(TrainingRecord("m", "run", "id", END, None, first))
    facts.record_training(TrainingRecord("m", "run", "id", END, 3, then))
    (found,) = facts.trainings("m")
    assert (found.outcome, found.decision, found.as_of) == (outcome, "id", END)
