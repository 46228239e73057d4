"""Episodes under random failures, passes, clocks and silences: opened, reminded and resolved in order, and none is lost."""

import itertools
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.compute.monitoring.alert_messages import MAX_LISTED, build_blocks, build_payload, write_text
from mlops_assets.compute.monitoring.episodes import apply_facts, decide_events, newest_events
from mlops_assets.values.alerts.episodes import ERROR, OPENED, REMINDER, RESOLVED, WARN, AlertEvent, AlertFact, AlertWindow, Episode

DAY = 86_400.0


def window(first: int, last: int | None = None) -> AlertWindow:
    return AlertWindow(f"{first}" if last is None else f"{first}...{last}", first, (first if last is None else last) + 1)


WHOLE = AlertWindow()


def fact(*, passed: bool, of: AlertWindow = WHOLE, subject: str = "a:key", **more) -> AlertFact:
    return AlertFact(subject, passed, of, **more)


def failing(*facts: AlertFact) -> list[str]:
    """Return the labels of the windows that still fail after some facts about one subject."""
    (episode,) = apply_facts([], facts).values()
    return [label.label for label, _ in episode.failing]


def test_a_refused_partition_must_pass_itself() -> None:
    bad = fact(passed=False, of=window(3))
    assert failing(bad, fact(passed=True, of=window(4))) == ["3"]
    assert failing(bad, fact(passed=True, of=window(3))) == []
    assert failing(bad, fact(passed=True, of=window(1, 5))) == []
    assert failing(bad, fact(passed=True)) == []


def test_a_warning_is_settled_by_a_later_window() -> None:
    bad = fact(passed=False, of=window(3), must_pass=False)
    assert failing(bad, fact(passed=True, of=window(2))) == ["3"]
    assert failing(bad, fact(passed=True, of=window(4))) == []
    several = fact(passed=False, of=window(1, 4), must_pass=False)
    assert failing(several, fact(passed=True, of=window(0))) == ["1...4"]
    assert failing(several, fact(passed=True, of=window(2))) == []


def test_a_range_is_settled_partition_by_partition_in_any_order() -> None:
    bad = fact(passed=False, of=window(1, 4))
    passes = [fact(passed=True, of=window(day)) for day in (3, 1, 4, 2)]
    assert [len(failing(bad, *passes[:count])) for count in range(5)] == [1, 2, 2, 1, 0]


def test_partitions_without_an_order_are_compared_by_name() -> None:
    bad, other = AlertWindow("de"), AlertWindow("fr")
    assert failing(fact(passed=False, of=bad), fact(passed=True, of=other)) == ["de"]
    assert failing(fact(passed=False, of=bad, must_pass=False), fact(passed=True, of=other)) == ["de"]
    assert failing(fact(passed=False, of=bad, must_pass=False), fact(passed=True, of=bad)) == []


def test_a_higher_severity_is_announced_again() -> None:
    episodes, _ = decide_events(apply_facts([], [fact(passed=False, severity=WARN)]).values(), 0, DAY, lambda _: False)
    _, events = decide_events(apply_facts(episodes, [fact(passed=False, severity=ERROR)]).values(), 1, DAY, lambda _: False)
    assert [(event.kind, event.episode.severity, event.episode.events) for event in events] == [(OPENED, ERROR, 2)]


windows = st.builds(lambda first, length: window(first, first + length), st.integers(0, 5), st.integers(0, 2)) | st.just(AlertWindow())
facts = st.builds(
    AlertFact,
    subject=st.sampled_from(["a:key", "b:key"]),
    passed=st.booleans(),
    window=windows,
    severity=st.sampled_from([WARN, ERROR]),
    must_pass=st.booleans(),
)
# Each step: new facts, how far the clock moves (also back), and which subjects are silent.
steps = st.lists(st.tuples(st.lists(facts, max_size=4), st.integers(-40, 40), st.sets(st.sampled_from(["a:key", "b:key"]))), max_size=25)


def play(taken) -> tuple[list[Episode], list[tuple[float, AlertEvent]]]:
    """Return all episodes, and all messages with the time that the clock had moved forward; the last step has no silence."""
    episodes, closed, sent, now, forward = [], [], [], 1_000.0, 0.0
    for number, (new, hours, silent) in enumerate([*taken, ([], 0, set())]):
        now += hours * 3_600
        decided, events = decide_events(apply_facts(episodes, new).values(), now, DAY, silent.__contains__)
        # Numbers as the database gives them.
        decided = [e if e.number else replace(e, number=100 * number + place + 1) for place, e in enumerate(decided)]
        numbers = {e.subject: e.number for e in decided}
        forward += max(0, hours) * 3_600.0
        sent += [(forward, replace(event, episode=replace(event.episode, number=numbers[event.episode.subject]))) for event in events]
        assert not [event for event in events if event.episode.subject in silent]
        closed += [e for e in decided if e.closed]
        episodes = [e for e in decided if not e.closed]
    return [*closed, *episodes], sent


@settings(max_examples=300, deadline=None)
@given(steps)
def test_messages_of_an_episode_come_in_order_and_every_episode_is_announced(taken) -> None:
    episodes, sent = play(taken)
    messages = defaultdict(list)
    for moment, event in sent:
        messages[event.episode.number].append((moment, event))
    for episode in episodes:
        kinds = [event.kind for _, event in messages[episode.number]]
        assert RESOLVED not in kinds[:-1], "nothing follows the resolution"
        assert (kinds[-1:] == [RESOLVED]) == (episode.resolved is not None and bool(kinds))
        assert episode.resolved is not None or kinds, "an open episode has been announced"
        assert [event.episode.events for _, event in messages[episode.number]] == list(range(1, len(kinds) + 1))
        assert not kinds or kinds[0] != REMINDER
        for (before, _), (after, later) in itertools.pairwise(messages[episode.number]):
            assert later.kind != REMINDER or after - before >= DAY, "the clock has moved forward by a day"


@settings(max_examples=200, deadline=None)
@given(st.lists(facts, max_size=12))
def test_a_subject_is_open_exactly_while_a_window_fails(taken) -> None:
    for episode in apply_facts([], taken).values():
        mine = [each for each in taken if each.subject == episode.subject]
        assert (episode.resolved is None) == bool(episode.failing)
        assert mine[-1].passed or episode.resolved is None
        assert episode.failures == sum(not each.passed for each in mine)
        assert not mine[-1].passed or mine[-1].window.label or episode.resolved is not None, "a pass of the whole asset settles everything"


def test_a_message_of_a_storm_lists_the_worst_and_counts_the_rest() -> None:
    events = [
        AlertEvent(Episode(f"a{n}:key", ERROR if n == 99 else WARN, n, (), 1, fact(passed=False, text="<b>&")), OPENED) for n in range(100)
    ]
    events = newest_events([replace(event, episode=replace(event.episode, number=n)) for n, event in enumerate(events)])
    text = write_text(events, "prod")
    assert text.startswith("[prod] 100 alerts: 100 opened\n\nERROR: a99:key failed, since 1970-01-01T00:01:39+00:00")
    assert text.endswith(f"and {100 - MAX_LISTED} more: `mlops alerts list --open`")
    blocks = build_blocks(events, "prod")["blocks"]
    assert (len(blocks), "&lt;b&gt;&amp;" in blocks[1]["text"]["text"]) == (MAX_LISTED + 2, True)
    assert len(build_payload(events, "prod", "x")["alerts"]) == 100


def test_only_the_newest_of_several_messages_of_an_episode_is_sent() -> None:
    episode = Episode("a:key", ERROR, 0, (), 1, fact(passed=False), number=1)
    events = [AlertEvent(replace(episode, events=n), kind) for n, kind in ((2, REMINDER), (3, RESOLVED), (1, OPENED))]
    assert [event.kind for event in newest_events(events)] == [RESOLVED]


@pytest.mark.parametrize(("value", "bound", "line"), [(0.58, 0.62, "value: 0.58, bound: 0.62"), (0.5, None, "value: 0.5")])
def test_a_message_says_what_since_when_who_is_affected_and_what_to_do(value, bound, line) -> None:
    latest = fact(
        passed=False, of=window(3), text="too low", value=value, bound=bound, affected=("model/m", "service/api"), command="mlops ui"
    )
    event = AlertEvent(Episode("a:auc", WARN, 0, ((window(2), False), (window(3), False)), 2, latest), OPENED)
    assert write_text([event], "prod").splitlines() == [
        "[prod] WARN: a:auc failed",
        "",
        "WARN: a:auc failed in 2 to 3 (2 windows), since 1970-01-01T00:00:00+00:00",
        "too low",
        line,
        "failures: 2",
        "affected: model/m, service/api",
        "next: `mlops ui`",
    ]
