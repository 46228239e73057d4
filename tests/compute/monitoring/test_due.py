"""Time alone starts a training: by a cadence that grows with the history, or by the age of the data."""

from datetime import UTC, datetime, timedelta

import pytest

from mlops_assets.compute.monitoring.decide import LoopFacts, decide, next_action
from mlops_assets.values.decisions import CRASHED, PROMOTED, REJECTED, Decision, Hold, Launch, Retrain, Training

START = datetime(2024, 1, 1, tzinfo=UTC)
CADENCE = Retrain(every=timedelta(days=10), max_every=timedelta(days=20), on=())


def facts(day: float, *trainings: tuple[float, str], policy: Retrain = CADENCE, decisions: tuple[Decision, ...] = (), **known) -> LoopFacts:
    runs = tuple(Training(f"run {i}", START + timedelta(days=at), state) for i, (at, state) in enumerate(trainings))
    return LoopFacts("m", 1, policy, START + timedelta(days=day), decisions=decisions, trainings=runs, **known)


def is_due(found: LoopFacts) -> bool:
    return isinstance(decide(found), Decision)


@pytest.mark.parametrize(("day", "due"), [(9.9, False), (10, True), (30, True)])
def test_a_cadence_counts_from_the_last_training(day, due):
    assert is_due(facts(day, (0, PROMOTED))) == due


@pytest.mark.parametrize(
    ("began", "state", "rolling", "gap"),
    [
        (-20, PROMOTED, False, 10),
        (-60, PROMOTED, False, 15),
        (-400, PROMOTED, False, 20),
        (-400, REJECTED, False, 10),
        (-400, PROMOTED, True, 10),
    ],
)
def test_a_cadence_grows_to_a_quarter_of_the_history_but_not_after_a_rejection_or_on_the_newest_rows(began, state, rolling, gap):
    known = {"data_start": START + timedelta(days=began), "rolling": rolling}
    assert not is_due(facts(gap - 0.1, (0, state), **known))
    assert is_due(facts(gap, (0, state), **known))


def test_a_model_without_a_recorded_training_is_due():
    assert is_due(facts(0))


def test_an_age_counts_from_the_data_of_the_version_that_serves():
    policy = Retrain(max_age=timedelta(days=30), on=())
    assert not is_due(facts(29, (0, PROMOTED), (20, REJECTED), policy=policy))
    assert is_due(facts(31, (0, PROMOTED), (20, REJECTED), policy=policy))


def test_a_training_that_always_crashes_is_tried_as_often_as_allowed_and_then_waits_for_the_next_turn():
    policy, decisions, trainings = Retrain(every=timedelta(days=7), on=(), max_attempts=3), [], [Training("first", START, PROMOTED)]
    for day in range(1, 29):
        now = START + timedelta(days=day)
        found = LoopFacts("m", 1, policy, now, decisions=tuple(decisions), trainings=tuple(trainings))
        if isinstance(made := decide(found), Decision):
            decisions.append(made)
        action = next_action(LoopFacts("m", 1, policy, now, decisions=tuple(decisions), trainings=tuple(trainings)), now)
        if isinstance(action, Launch):
            trainings.append(Training(action.run_key, now, CRASHED, action.decision.id, now))
    crashed = [t for t in trainings if t.state == CRASHED]
    assert len(decisions) == 4
    assert 9 <= len(crashed) <= 12, "three attempts of each decision"


def test_only_time_starts_a_training_without_reports():
    assert isinstance(decide(facts(5, (0, PROMOTED))), Hold)
