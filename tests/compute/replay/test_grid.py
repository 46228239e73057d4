"""The grid of ``--suggest`` fits the length of the history, and its policies can be pasted into a project."""

from datetime import timedelta

import pytest

import mlops_assets as ml
from mlops_assets.compute.replay.grid import build_grid, build_policy, choose_period, declare_policy, round_span, write_declaration
from mlops_assets.compute.replay.policies import parse_policy
from mlops_assets.errors import DefinitionError

DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@pytest.mark.parametrize(
    ("replayed", "shortest", "period"),
    [(365 * DAY, DAY, 30 * DAY), (80 * DAY, DAY, 10 * DAY), (2 * DAY, HOUR, 6 * HOUR), (3650 * DAY, 365 * DAY, 365 * DAY)],
)
def test_a_period_is_a_month_or_an_eighth_of_a_shorter_replay(replayed, shortest, period):
    assert choose_period(replayed, shortest) == period


@pytest.mark.parametrize("period", [30 * DAY, 6 * HOUR, 91 * HOUR])
@pytest.mark.parametrize("name", ["grow", "follow", "prove"])
@pytest.mark.parametrize(("by_time", "tunes"), [(True, False), (False, True)])
def test_a_written_declaration_is_the_policy(period, name, by_time, tunes):
    policy = build_policy(name, period, 4 * period, by_time=by_time, tunes=tunes)
    assert eval(write_declaration(policy), {"ml": ml, "timedelta": timedelta}) == policy  # noqa: S307  (our own text)


def test_a_grid_compares_never_and_simple_policies_with_those_that_can_be_declared():
    names = [policy.name for policy in build_grid(30 * DAY, 120 * DAY, by_time=True, tunes=False)]
    assert names == ["never", "every:30d", "every:40d", "every:30d,window=120d", "every:30d,window=40d", "grow", "follow", "prove"]
    for name in names[:4]:
        assert parse_policy(name).name == name


@pytest.mark.parametrize(("text", "rows"), [("every:12d", None), ("every:12d,window=20d", 20 * DAY)])
def test_a_simple_policy_is_declared_with_its_times_and_rows(text, rows):
    declared = declare_policy(parse_policy(text), by_time=True, tunes=False)
    assert (declared.every, declared.train_windows, declared.refit, declared.on) == (12 * DAY, (rows,), True, ())
    assert (declared.judge_on, declared.promote_if) == (6 * DAY, "")
    assert eval(write_declaration(declared), {"ml": ml, "timedelta": timedelta}) == declared  # noqa: S307  (our own text)


def test_a_policy_that_no_project_can_declare_has_no_line():
    assert declare_policy(parse_policy("never"), by_time=True, tunes=False) is None
    assert declare_policy(parse_policy("every:12d,window=20d"), by_time=False, tunes=False) is None
    assert declare_policy(parse_policy("every:12d"), by_time=False, tunes=True).judge_on is None


def test_a_short_history_gives_no_span_twice():
    policy = build_policy("follow", 30 * DAY, 30 * DAY, by_time=True, tunes=False)
    assert policy.train_windows == (None, 30 * DAY)


@pytest.mark.parametrize(("initial", "first"), [(88, 22), (90, 22), (400, 30), (6, 36 / 24)])
def test_the_first_gap_of_grow_is_a_quarter_of_the_history_and_at_most_a_period(initial, first):
    policy = build_policy("grow", 30 * DAY, initial * DAY, by_time=True, tunes=False)
    assert (policy.every, policy.max_every, policy.cooldown) == (first * DAY, 45 * DAY, min(7, first) * DAY)
    assert (policy.on, policy.train_windows, policy.judge_on, policy.promote_if, policy.refit) == ((), (None,), None, "", True)


def test_spans_are_whole():
    assert [round_span(span) for span in (100.4 * DAY, 30.2 * HOUR, 0.1 * HOUR)] == [100 * DAY, 30 * HOUR, HOUR]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on": ()}, "never starts a training"),
        ({"on": ("drift",)}, "names 'drift'"),
        ({"every": 3 * DAY}, "shorter than the cooldown"),
        ({"max_every": 30 * DAY}, "is shorter than every"),
        ({"train_windows": ()}, "names no span"),
        ({"train_windows": (None, None)}, "names a span twice"),
        ({"judge_on": 0 * DAY}, "judges on no row"),
        ({"promote_if": "beter"}, "is not a rule"),
    ],
)
def test_a_retraining_that_cannot_work_is_refused(arguments, message):
    with pytest.raises(DefinitionError, match=message):
        ml.Retrain(**arguments)
