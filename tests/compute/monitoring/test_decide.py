"""Decisions: one for a breach, one training for a decision, none in the cooldown, none from drift; whatever happens twice or late."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.compute.monitoring.decide import LoopFacts, compute_decision_id, decide, explain_settlement, list_closings, next_action
from mlops_assets.values.decisions import (
    CRASHED,
    DRIFT,
    PROMOTED,
    REJECTED,
    RUNNING,
    WAITING,
    Decision,
    Hold,
    Launch,
    Retrain,
    Training,
    WindowReport,
)
from mlops_assets.values.monitoring import BREACH, GOOD, INVERTED, NOT_ENOUGH

START = datetime(2013, 1, 1, tzinfo=UTC)
POLICY = Retrain(cooldown=timedelta(days=7), after=1, after_rejection=2, max_attempts=3, backoff=timedelta(minutes=5))


def end(day: int) -> datetime:
    return START + timedelta(days=day)


def report(day: int, state: str, version: int = 6, **more) -> WindowReport:
    return WindowReport(f"2013-01-{day:02}", end(day), version, state, reason=f"roc_auc 0.5 < 0.6 on day {day}", **more)


def days(states: str, version: int = 6) -> tuple[WindowReport, ...]:
    """One report a day: g(ood), b(reach), n(ot enough), i(nverted labels)."""
    return tuple(report(i + 1, {"g": GOOD, "b": BREACH, "n": NOT_ENOUGH, "i": INVERTED}[c], version) for i, c in enumerate(states))


def facts(states: str, *, policy: Retrain = POLICY, **more) -> LoopFacts:
    reports = more.pop("reports", days(states))
    return LoopFacts("lateness", 6, policy, max((r.end for r in reports), default=START), reports, **more)


def made(found: Decision | Hold) -> Decision:
    assert isinstance(found, Decision), found
    return found


def held(found: object) -> str:
    """Return why nothing is done, without the breach that is held: see `whole_reason`."""
    return whole_reason(found).partition("; this holds ")[0].partition("; the breach of ")[0]


def whole_reason(found: object) -> str:
    assert isinstance(found, Hold), found
    return found.reason


def launch(found: Launch | Hold) -> Launch:
    assert isinstance(found, Launch), found
    return found


def test_a_breach_opens_one_decision_and_the_decision_one_training() -> None:
    first = made(decide(facts("ggb")))
    assert (first.version, first.partition, first.opened, first.evidence) == (6, "2013-01-03", end(3), ("2013-01-03",))
    assert first.id == compute_decision_id("lateness", 6, "2013-01-03") == made(decide(facts("ggb"))).id
    assert "roc_auc 0.5 < 0.6 on day 3" in first.reason
    known = facts("ggb", decisions=(first,))
    assert held(decide(known)) == f"decision {first.id} about 2013-01-03 is open"
    start = launch(next_action(known, end(3)))
    assert (start.run_key, start.attempt) == (f"{first.id}#1", 1)
    assert start.tags == {"mlops/decision": first.id, "mlops/attempt": "1", "mlops/reason": first.reason}
    assert held(next_action(facts("ggb"), end(3))) == f"decision {first.id} is not recorded yet"


def test_nothing_bad_holds_and_says_so() -> None:
    assert held(next_action(facts("gg"), end(3))) == "no open breach of the serving version 6"
    assert held(decide(facts("ggbg"))) == "no open breach of the serving version 6"  # it has recovered
    assert held(decide(facts("gn"))) == "no open breach of the serving version 6"
    assert held(decide(facts(""))) == "no open breach of the serving version 6"
    assert held(decide(replace(facts("b"), serving=None))) == "no version of lateness serves"
    assert held(decide(facts("", reports=days("bbb", version=5)))) == "no open breach of the serving version 6"


def test_drift_alone_warns_and_never_retrains() -> None:
    drifted = tuple(report(day, BREACH, kind=DRIFT) for day in range(1, 9))
    assert held(next_action(facts("", reports=(*days("gggggggg"), *drifted)), end(8))) == (
        "no open breach of the serving version 6; drift on 2013-01-08 warns, it does not retrain"
    )


def test_several_bad_windows_in_a_row_where_that_is_asked_for() -> None:
    patient = replace(POLICY, after=3)
    assert held(decide(facts("gbb", policy=patient))) == "waits for 3 bad windows in a row, has 2"
    assert held(decide(facts("bbgb", policy=patient))) == "waits for 3 bad windows in a row, has 1"
    found = made(decide(facts("gbnbnb", policy=patient)))  # windows without enough labels neither count nor interrupt
    assert found.evidence == ("2013-01-02", "2013-01-04", "2013-01-06")
    assert found.reason.startswith("3 bad windows in a row, 2013-01-02 to 2013-01-06: ")


def test_one_retrain_in_flight() -> None:
    first = made(decide(facts("b")))
    running = Training("c8735ef4-aaaa", end(1), RUNNING, first.id)
    for known in (facts("bb", decisions=(first,), trainings=(running,)), facts("bb", trainings=(replace(running, decision=None),))):
        assert held(next_action(known, end(2))) == "waits: training run c8735ef4 is in flight"
    assert held(decide(facts("bb", trainings=(replace(running, decision=None),)))) == "waits: training run c8735ef4 is in flight"
    waiting = facts("bb", decisions=(first,), trainings=(replace(running, state=WAITING),))
    assert held(next_action(waiting, end(2))) == "waits: the candidate of training run c8735ef4 waits for approval"


def test_a_rejected_candidate_is_not_tried_again_at_once() -> None:
    first = made(decide(facts("b", policy=replace(POLICY, cooldown=timedelta(0)))))
    rejected = Training("r1", end(8), REJECTED, first.id, ended=end(8))
    more = {"policy": replace(POLICY, cooldown=timedelta(0)), "decisions": (first,), "trainings": (rejected,)}
    assert explain_settlement(first, facts("bbbbbbbb", **more)) == "training run r1 answered it: rejected"
    assert (
        held(next_action(facts("bbbbbbbb", **more), end(9))) == "candidate rejected on 2013-01-09; waits for 2 further bad windows, has 0"
    )
    assert (
        held(next_action(facts("bbbbbbbbb", **more), end(9))) == "candidate rejected on 2013-01-09; waits for 2 further bad windows, has 1"
    )
    again = made(decide(facts("bbbbbbbbbb", **more)))
    assert (again.partition, again.evidence) == ("2013-01-09", ("2013-01-09", "2013-01-10"))
    assert again.id != first.id


def test_the_cooldown_counts_in_the_data_s_own_time() -> None:
    first = made(decide(facts("b")))
    rejected = Training("r1", end(1), REJECTED, first.id, ended=datetime(2026, 1, 1, tzinfo=UTC))
    more = {"decisions": (first,), "trainings": (rejected,)}
    assert held(decide(facts("bbbb", **more))) == "cooldown until 2013-01-09: training run r1 was on 2013-01-02"
    assert made(decide(facts("bbbbbbbb", **more))).partition == "2013-01-02"
    # A training that nobody's breach asked for starts no cooldown: a weekly schedule would forbid every retrain.
    assert made(decide(facts("gb", trainings=(Training("weekly", end(1), PROMOTED, None, end(1)),)))).partition == "2013-01-02"


def test_a_decision_about_a_version_that_no_longer_serves_is_closed() -> None:
    first = made(decide(facts("b")))
    later = replace(facts("bb", decisions=(first,)), serving=7)
    assert list_closings(later) == [(first.id, "version 6 no longer serves, version 7 serves")]
    assert held(next_action(later, end(2))) == "no open breach of the serving version 7"
    assert list_closings(replace(later, decisions=(replace(first, closed="said"),))) == []
    # Rolled back: what was bad before has been answered for, a new bad window has not.
    back = replace(facts("bb", decisions=(replace(first, closed="version 6 no longer serves"),)), serving=6)
    assert made(decide(back)).partition == "2013-01-02"
    assert held(decide(replace(back, reports=days("b")))) == "no open breach of the serving version 6"


def test_a_crashed_training_is_tried_again_later_and_three_times() -> None:
    first = made(decide(facts("b")))
    crash = lambda n: Training(f"run{n}", end(1), CRASHED, first.id, ended=end(1) + timedelta(hours=n))
    once, twice, thrice = ((crash(1),), (crash(1), crash(2)), (crash(1), crash(2), crash(3)))
    known = facts("b", decisions=(first,), trainings=once)
    assert held(next_action(known, end(1) + timedelta(hours=1))) == "attempt 1 crashed; the next one starts at 2013-01-02T01:05+00:00"
    assert launch(next_action(known, end(1) + timedelta(hours=1, minutes=5))).run_key == f"{first.id}#2"
    known = replace(known, trainings=twice)
    assert held(next_action(known, end(1) + timedelta(hours=2, minutes=9))).startswith("attempt 2 crashed")
    assert launch(next_action(known, end(1) + timedelta(hours=2, minutes=10))).attempt == 3
    known = replace(known, trainings=thrice)
    assert explain_settlement(first, known) == "gave up after 3 attempts that crashed"
    assert held(next_action(known, end(9))) == f"gave up on decision {first.id} after 3 crashes; waits for 2 further bad windows, has 0"
    assert made(decide(facts("bbb", decisions=(first,), trainings=thrice))).partition == "2013-01-02"


def test_reports_that_come_late_or_again_open_no_second_decision() -> None:
    first = made(decide(facts("ngb")))
    late = (*days("ngb"), report(1, BREACH, recorded=1), report(2, BREACH, recorded=1))  # the streak now begins on the first
    assert held(decide(facts("", reports=late, decisions=(first,)))).endswith("is open")
    gone = facts("", reports=(*days("ngb"), report(3, GOOD, recorded=1)), decisions=(first,))
    assert list_closings(gone) == [(first.id, "the breach is gone: 2013-01-03 reported again as good")]
    assert held(next_action(gone, end(3))) == "no open breach of the serving version 6"
    trained = facts("", reports=late, decisions=(first,), trainings=(Training("r", end(3), PROMOTED, first.id, end(3)),))
    assert held(decide(trained)) == "no open breach of the serving version 6"


def test_every_hold_names_the_breach_that_it_holds_and_why() -> None:
    running, done = Training("abcdefgh1", end(1), RUNNING), Training("abcdefgh1", end(4), PROMOTED, ended=end(9))
    busy = whole_reason(decide(facts("ggb", trainings=(running,))))
    assert busy == "waits: training run abcdefgh is in flight; this holds the breach of 2013-01-03"
    answered = whole_reason(decide(facts("ggb", trainings=(done,))))
    assert answered.endswith("; the breach of 2013-01-03 is answered: training run abcdefgh had data until 2013-01-05")
    first = made(decide(facts("b")))
    gone = whole_reason(decide(replace(facts("b", decisions=(replace(first, closed="a person closed it"),)))))
    assert gone.endswith(f"; the breach of 2013-01-01 is answered by decision {first.id}: a person closed it")
    over = whole_reason(decide(facts("bg")))
    assert over.endswith("; the breach of 2013-01-01 is over: 2013-01-02 is good")
    crash = Training("r", end(1), CRASHED, first.id, ended=end(1))
    again = whole_reason(next_action(facts("b", decisions=(first,), trainings=(crash,)), end(1)))
    assert again.endswith(f"; this holds decision {first.id} about 2013-01-01")
    assert whole_reason(decide(facts("gg"))) == "no open breach of the serving version 6"


class World:
    """Data, reports, a sensor and runs, any of which may happen in any order, twice, or die in between."""

    def __init__(self, policy: Retrain, randomness: st.DataObject) -> None:
        self.policy, self.data = policy, randomness
        self.day, self.serving, self.newest = 0, 1, 1
        self.clock = START
        self.reports: list[WindowReport] = []
        self.decisions: dict[str, Decision] = {}
        self.trainings: dict[str, Training] = {}
        self.run_keys: set[str] = set()

    def facts(self) -> LoopFacts:
        """What is recorded, shuffled and partly repeated, with what was known before of runs."""
        reports = self.data.draw(st.permutations(self.reports + self.reports[::2]))
        stale = [replace(t, state=RUNNING, ended=None) for t in self.trainings.values()]
        trainings = self.data.draw(st.permutations([*self.trainings.values(), *stale]))
        decisions = self.data.draw(st.permutations([*self.decisions.values()] * 2))
        return LoopFacts("m", self.serving, self.policy, end(self.day), tuple(reports), tuple(decisions), tuple(trainings))

    def report(self, state: str, kind: str, back: int) -> None:
        day = max(1, self.day - back)
        self.reports.append(WindowReport(f"d{day}", end(day), self.serving, state, kind, recorded=len(self.reports)))

    def act(self, action: str) -> None:  # noqa: C901  (one branch for each thing that happens)
        running = [t for t in self.trainings.values() if t.state in (RUNNING, WAITING)]
        self.clock += timedelta(minutes=self.data.draw(st.sampled_from([1, 30])))
        if action in (GOOD, BREACH, NOT_ENOUGH, DRIFT):
            self.day += self.data.draw(st.sampled_from([0, 1, 1, 1, 4]))
            self.report(
                BREACH if action == DRIFT else action,
                DRIFT if action == DRIFT else "performance",
                self.data.draw(st.sampled_from([0, 0, 0, 1, 3])),
            )
        elif action == "decide":
            if isinstance(found := decide(self.facts()), Decision):
                assert self.decisions.setdefault(found.id, found) is found
        elif action == "close":
            for name, why in list_closings(self.facts()):
                self.decisions[name] = replace(self.decisions[name], closed=why)
        elif action == "sensor":
            found = next_action(self.facts(), self.clock)
            if isinstance(found, Launch) and found.run_key not in self.run_keys:
                self.run_keys.add(found.run_key)
                self.trainings[found.run_key] = Training(found.run_key, end(self.day), RUNNING, found.decision.id)
        elif action == "weekly" and not running:
            name = f"weekly{len(self.trainings)}"
            self.trainings[name] = Training(name, end(self.day), RUNNING)
        elif action == "rollback":
            self.serving = self.data.draw(st.integers(1, self.newest))
        elif action in (CRASHED, REJECTED, PROMOTED, WAITING) and running:
            self.trainings[running[0].run_id] = replace(running[0], state=action, ended=None if action == WAITING else self.clock)
            if action == PROMOTED:
                self.newest += 1
                self.serving = self.newest

    def check(self) -> None:
        retrains = [t for t in self.trainings.values() if t.decision is not None]
        for name in self.decisions:
            mine = [t for t in retrains if t.decision == name]
            assert sum(t.state != CRASHED for t in mine) <= 1
            assert len(mine) <= self.policy.max_attempts
        done = sorted(t.as_of for t in retrains if t.state != CRASHED)
        assert all(after - before >= self.policy.cooldown for before, after in pairwise(done))
        assert sum(t.state == RUNNING for t in self.trainings.values()) <= 1
        bad = {(r.partition, r.version) for r in self.reports if r.kind == "performance" and r.state == BREACH}
        for decision in self.decisions.values():
            assert {(partition, decision.version) for partition in decision.evidence} <= bad
        first, second = self.facts(), self.facts()
        assert decide(first) == decide(second)
        assert next_action(first, self.clock) == next_action(second, self.clock)


ACTIONS = [
    GOOD,
    BREACH,
    BREACH,
    NOT_ENOUGH,
    DRIFT,
    "decide",
    "decide",
    "sensor",
    "sensor",
    "close",
    "weekly",
    "rollback",
    CRASHED,
    REJECTED,
    PROMOTED,
    WAITING,
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(ACTIONS), min_size=5, max_size=40), st.integers(1, 2), st.integers(0, 5), st.data())
def test_no_interleaving_trains_twice_in_the_cooldown_or_from_drift(
    actions: list[str], after: int, cooldown: int, data: st.DataObject
) -> None:
    world = World(Retrain(cooldown=timedelta(days=cooldown), after=after), data)
    for action in actions:
        world.act(action)
        world.check()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([GOOD, NOT_ENOUGH, DRIFT, "decide", "sensor"]), max_size=40), st.data())
def test_no_interleaving_trains_without_a_breach(actions: list[str], data: st.DataObject) -> None:
    world = World(Retrain(), data)
    for action in actions:
        world.act(action)
    assert (world.decisions, world.trainings) == ({}, {})


@pytest.mark.parametrize("killed", range(4))
def test_a_sensor_killed_at_any_point_starts_one_training(killed: int) -> None:
    known = facts("b")
    keys = set()
    for attempt in range(3):
        found = decide(known)
        if isinstance(found, Decision) and not (killed == 0 and attempt == 0):
            known = replace(known, decisions=(*known.decisions, found))
        if killed == 1 and attempt == 0:
            continue
        start = next_action(known, end(1))
        if not isinstance(start, Launch) or (killed == 2 and attempt == 0):
            continue
        keys.add(start.run_key)
        if not (killed == 3 and attempt == 0):  # killed before the run is seen: the key is asked for again
            known = replace(known, trainings=(Training("r", end(1), RUNNING, start.decision.id),))
    assert keys == {f"{compute_decision_id('lateness', 6, '2013-01-01')}#1"}
