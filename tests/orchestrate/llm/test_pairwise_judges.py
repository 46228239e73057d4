"""A pairwise judge: an answer wins only in both orders, no failure is a win, and only a calibrated judge without position bias gates."""

from datetime import timedelta

import dagster as dg
import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.errors import DefinitionError
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import metadata
from tests.orchestrate.llm.replies import ROWS, TABLE, declare
from tests.orchestrate.llm.test_evaluation import checks, table
from tests.orchestrate.llm.test_judges import JUDGE_FAULTS, TRIALS
from tests.serving.llm.scripted_server import Exchange, ScriptedServer, Step, answer

PREFERS_FIRST, TIED = answer("verdict: first"), answer("verdict: tie")
GATE = ml.Gate("better", at_least=0.5)
CALIBRATION = "calibration/better"
WORDY = "Answer at length."


def prefer(text: str) -> Step:
    """Prefer the answer with a word, in whichever position."""

    def play(exchange: Exchange) -> None:
        shown = exchange.seen.body["messages"][-1]["content"]
        first, second = (shown.partition(f"<{name}>\n")[2].partition(f"\n</{name}>")[0] for name in ("first", "second"))
        answer("verdict: tie" if (text in first) == (text in second) else f"verdict: {'first' if text in first else 'second'}")(exchange)

    return play


def reply_by_instructions(exchange: Exchange) -> None:
    """Answer "yes"; "yes indeed" to the instructions that want length."""
    answer("yes indeed" if WORDY in exchange.seen.body["messages"][0]["content"] else "yes")(exchange)


def compare_answers(first: str, second: str, question: str) -> None:
    """Which answer is better? Reply with one line: `verdict: first`, `verdict: second` or `verdict: tie`."""


def declare_pairwise(url: str, repeats: int = 1, function=compare_answers, **model) -> ml.llm.PairwiseJudge:
    llm = ml.llm.LLM("large", base_url=url, **({"retries": 0, "concurrency": 1} | model))
    return ml.llm.PairwiseJudge("better", prompt=ml.llm.prompt(model=llm)(function), repeats=repeats)


def declare_preferences(judge: ml.llm.PairwiseJudge, count: int = 40, **change) -> list:
    """Return labelled pairs and the calibration: people prefer the answer that says "indeed"."""
    kinds = ["first" if number % 2 else "second" for number in range(count)]
    rows = {
        "case": [f"pair {number}" for number in range(count)],
        "question": [f"Pair {number}?" for number in range(count)],
        "first": ["yes indeed" if kind == "first" else "yes" for kind in kinds],
        "second": ["yes indeed" if kind == "second" else "yes" for kind in kinds],
        "preference": kinds,
    } | change
    frame = pl.DataFrame(rows)

    @ml.dataset(key="case")
    def preferences() -> pl.DataFrame:
        return frame

    return [preferences, ml.llm.Calibration("better", judge=judge, cases=preferences, label="preference")]


@pytest.fixture
def server():
    with ScriptedServer(default=reply_by_instructions) as running:
        yield running


@pytest.fixture
def release(platform, run, server):
    """Return a function that materialises a project whose prompt is compared with production."""

    def materialise(judge: ml.llm.PairwiseJudge, instructions: str = "", *, calibrated: bool = True, ok: bool = True, **more):
        items = declare(server.url, instructions=instructions, **{"scorers": [judge], "gates": [GATE]} | more)
        calibration = declare_preferences(judge) if calibrated else []
        return run(ml.build_definitions([*items, *calibration], platform=platform))(ok=ok)

    return materialise


def gate(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    return checks(result)[GATE.name]


def production(platform) -> int | None:
    champion = open_stores(platform).registry.champion("reply")
    return None if champion is None else champion.version


def test_the_first_version_passes_and_is_not_compared(release, platform) -> None:
    with ScriptedServer(default=prefer("indeed")) as judging:
        result = release(declare_pairwise(judging.url))
        assert len(judging.requests) == 80, "the calibration, in both orders"
    assert gate(result).passed
    assert "no champion yet to compare with" in gate(result).description
    assert production(platform) == 1
    assert table(platform)["better"].null_count() == table(platform)["better_verdict"].null_count() == 6


def test_an_answer_that_wins_in_both_orders_wins_and_production_is_not_generated_again(release, platform, server) -> None:
    with ScriptedServer(default=prefer("indeed")) as judging:
        judge = declare_pairwise(judging.url, repeats=2)
        release(judge)
        asked, judged = len(server.requests), len(judging.requests)
        result = release(judge, WORDY)
        assert len(server.requests) == asked + 6, "production's answers are stored"
        assert len(judging.requests) == judged + 6 * 2 * 2
        shown = judging.requests[judged].body["messages"][-1]["content"]
        assert shown.startswith("<first>\nyes indeed\n</first>\n<second>\nyes\n</second>\n<question>")
        found = table(platform)
        assert found["better"].to_list() == [1.0] * 6
        assert found["better_repeats"].to_list() == [["candidate"] * 2] * 6
        assert found["better_orders"].to_list() == [["first", "second"] * 2] * 6
        assert set(found["better_flip_rate"]) == {0.0}
        assert gate(result).passed
        assert production(platform) == 2
        facts = metadata(result, TABLE)
        assert facts["mean better"] == 1.0
        (bias,) = [record.data for record in facts["position bias"].records]
        assert bias["consistent in both orders (95 % CI)"] == "1.000 (0.610 to 1.000, 6 of 6)"
        again = release(judge, "Answer briefly.", ok=False)
    assert not gate(again).passed
    assert "better 0 < 0.5" in gate(again).description
    assert production(platform) == 2
    assert table(platform)["better_verdict"].to_list() == ["production"] * 6


def test_judging_again_costs_no_call_and_production_is_not_compared_with_itself(release, platform, server) -> None:
    with ScriptedServer(default=prefer("indeed")) as judging:
        judge = declare_pairwise(judging.url)
        release(judge)
        release(judge, "Answer briefly.", ok=True)
        asked, judged = len(server.requests), len(judging.requests)
        result = release(judge, "Answer briefly.")
        assert (len(server.requests), len(judging.requests)) == (asked, judged)
    assert "this is the production version 2" in gate(result).description


def test_equal_answers_are_a_tie_that_is_not_asked_about(release, platform) -> None:
    with ScriptedServer(default=prefer("indeed")) as judging:
        judge = declare_pairwise(judging.url)
        release(judge)
        judged = len(judging.requests)
        result = release(judge, "Answer briefly.")
        assert len(judging.requests) == judged
    assert table(platform)["better_verdict"].to_list() == ["tie"] * 6
    assert gate(result).passed
    assert gate(result).metadata["value"].value == 0.5


def test_a_judge_that_prefers_a_position_is_inconsistent_and_wins_nothing(release, platform) -> None:
    with ScriptedServer(default=prefer("indeed")) as judging:
        judge = declare_pairwise(judging.url)
        release(judge)
        judging.default = PREFERS_FIRST  # after its calibration, its endpoint changes
        result = release(judge, WORDY, ok=False)
    assert table(platform)["better_verdict"].to_list() == ["inconsistent"] * 6
    assert table(platform)["better"].to_list() == [0.5] * 6
    assert "the judge 'better' decides by position here: 0 of 6 pairs are consistent" in gate(result).description
    assert production(platform) == 1


def test_a_few_inconsistent_verdicts_are_no_win_rate_of_one_half(release, platform) -> None:
    three = {name: values[:3] for name, values in ROWS.items()}
    with ScriptedServer(default=prefer("indeed")) as judging:
        judge = declare_pairwise(judging.url)
        release(judge, rows=three)
        judging.default = PREFERS_FIRST
        result = release(judge, WORDY, ok=False, rows=three)
    assert table(platform)["better"].to_list() == [0.5] * 3
    assert "the judge 'better' decides by position here: 3 of 3 verdicts are inconsistent" in gate(result).description
    assert production(platform) == 1


def test_verdicts_of_one_slice_that_depend_on_the_position_fail_its_gate(release, platform) -> None:
    sliced = ml.Gate("better", at_least=0.5, slice="airline", min_rows=1)

    def lean(exchange: Exchange) -> None:
        """Prefer the first answer to the questions of one airline."""
        shown = exchange.seen.body["messages"][-1]["content"]
        (PREFERS_FIRST if any(f"Question {number}?" in shown for number in (3, 4, 5)) else prefer("indeed"))(exchange)

    with ScriptedServer(default=lean) as judging:
        judge = declare_pairwise(judging.url)
        release(judge, gates=[sliced])
        result = release(judge, WORDY, ok=False, gates=[sliced])
    assert "airline UA: the judge 'better' decides by position here: 3 of 3 verdicts" in checks(result)[sliced.name].description
    assert production(platform) == 1


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (PREFERS_FIRST, "its lower end is below 0.6"),
        (TIED, "its lower end is below 0.6"),
        (prefer("indeed"), "the project has no calibration of this version of the judge"),
    ],
)
def test_a_judge_without_a_calibration_that_passes_reports_and_its_gate_fails(step, reason, release, platform) -> None:
    with ScriptedServer(default=step) as judging:
        judge, is_good = declare_pairwise(judging.url), "no calibration" in reason
        release(judge, gates=[])
        result = release(judge, WORDY, ok=False, calibrated=not is_good)
    assert not gate(result).passed
    assert "the judge 'better' may not decide a gate: " in gate(result).description
    assert reason in gate(result).description
    assert table(platform)["better"].null_count() == 0, "the judge reports"
    assert production(platform) == 1


def test_a_calibration_measures_agreement_and_position_bias(platform, run) -> None:
    with ScriptedServer(default=prefer("indeed")) as judging:
        judge = declare_pairwise(judging.url, repeats=2)
        result = run(ml.build_definitions(declare_preferences(judge), platform=platform))()
        assert len(judging.requests) == 160
    facts = metadata(result, CALIBRATION)
    assert (facts["may gate"], facts["kappa"], facts["flip rate"], facts["labels"]) == (True, 1.0, 0.0, "first 20, second 20")
    assert facts["consistent in both orders (95 % CI)"] == "1.000 (0.912 to 1.000, 40 of 40)"
    assert facts["preference for the first position"] == "+0.000"
    rows = open_stores(platform).lake.read(CALIBRATION)
    assert rows.columns == ["case", "label", "verdict", "agrees", "repeats", "flip_rate", "error", "judge_version", "orders"]
    assert set(rows["orders"].explode()) == {"first", "second"}


def test_a_judge_that_agrees_in_one_order_only_is_refused_for_its_position_bias(platform, run) -> None:
    def lean(exchange: Exchange) -> None:
        """Judge well, and prefer the first answer to the pairs from 30 on."""
        (PREFERS_FIRST if "Pair 3" in exchange.seen.body["messages"][-1]["content"] else prefer("indeed"))(exchange)

    with ScriptedServer(default=lean) as judging:
        judge = declare_pairwise(judging.url)
        items = declare_preferences(judge)
        low = ml.llm.Calibration("better", judge=judge, cases=items[0], label="preference", min_kappa=0.1)
        result = run(ml.build_definitions([items[0], low], platform=platform))()
    check = next(found for found in result.get_asset_check_evaluations() if found.check_name == "may_gate")
    assert not check.passed
    assert (
        "it prefers the first answer by 0.28, above the maximum of 0.2; 29 of 40 pairs have one verdict in both orders" in check.description
    )


@pytest.mark.parametrize(("faults", "trials"), [(["silence"], 3), ([fault for fault in JUDGE_FAULTS if fault != "silence"], TRIALS - 3)])
def test_a_fault_in_either_order_is_no_score_and_the_gate_fails_in_every_trial(faults, trials, release, platform) -> None:
    more = {"timeout": timedelta(seconds=2)} if faults == ["silence"] else {}
    with ScriptedServer(default=prefer("indeed")) as judging:
        judge = declare_pairwise(judging.url, **more)
        release(judge, gates=[])
        for trial in range(trials):
            fault, order = faults[trial % len(faults)], trial // len(faults) % 2
            judging.steps = [*[prefer("indeed")] * (2 * (trial % 6) + order), JUDGE_FAULTS[fault][0]]
            result = release(judge, f"{WORDY} Trial {trial}.", ok=False, rows=number_rows(trial))
            verdict = table(platform).row(trial % 6, named=True)
            expected = "timeout" if fault == "silence" else "unparsable" if "verdict" in fault else "error"
            assert (verdict["better_verdict"], verdict["better"]) == (expected, None)
            assert not gate(result).passed
            assert "1 of 6 cases have no verdict on both answers" in gate(result).description
            assert not checks(result)["complete"].passed
    assert production(platform) == 1


def number_rows(trial: int) -> dict:
    """Return cases whose questions are new in each trial, so that no verdict is stored."""
    return ROWS | {"question": [f"Question {trial}.{number}?" for number in range(6)]}


def test_cases_without_an_answer_of_production_count_against_the_gate(release, server, platform) -> None:
    with ScriptedServer(default=prefer("indeed")) as judging:
        judge = declare_pairwise(judging.url)
        release(judge)
        rows = number_rows(1)
        server.steps = [reply_by_instructions] * 6 + [answer("")] * 2
        result = release(judge, WORDY, ok=False, rows=rows)
        assert checks(result)["complete"].passed, "the prompt itself has answered"
        assert "2 of 6 cases have no verdict on both answers, e.g. case " in gate(result).description
        assert production(platform) == 1
        assert gate(release(judge, WORDY, rows=rows)).passed, "production has answered now"


def test_a_gate_with_an_interval_needs_twenty_pairs(release, platform) -> None:
    interval = ml.Gate("better", at_least=0.5, confidence=0.95)
    many = {name: values * 4 for name, values in ROWS.items()} | {"case": [f"case {number}" for number in range(24)]}
    with ScriptedServer(default=prefer("indeed")) as judging:
        judge = declare_pairwise(judging.url)
        release(judge)
        few = release(judge, WORDY, ok=False, gates=[interval])
        assert "6 cases have a verdict on both answers; 20 are needed" in gate(few).description
        enough = release(judge, WORDY, gates=[interval], rows=many)
        airline = ml.Gate("better", at_least=0.5, confidence=0.95, slice=("airline", "AA"))
        sliced = release(judge, f"{WORDY} And slowly.", ok=False, gates=[airline], rows=many)
        assert "airline AA: 12 cases have a verdict on both answers; 20 are needed" in checks(sliced)[airline.name].description
    assert gate(enough).passed
    assert gate(enough).metadata["interval, low"].value > 0.5


def test_the_tokens_of_a_pairwise_judge_are_spent(release, platform, run, server) -> None:
    with ScriptedServer(default=prefer("indeed")) as judging:
        judge = declare_pairwise(judging.url)
        release(judge)
        result = release(judge, WORDY)
    (row,) = [record.data for record in metadata(result, TABLE)["judges"].records]
    assert (row["verdicts"], row["requests"], row["model"]) == ("candidate 6", "12", "large")


def without_second(first: str) -> None:
    """Which is better?"""


def with_default(first: str, second: str, tone: str = "plain") -> None:
    """Which is better?"""


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"function": without_second}, "no variable 'second'"),
        ({"function": with_default}, "whose variable 'tone' has a default"),
        ({"repeats": 0}, ": repeats=0 is invalid"),
    ],
)
def test_a_pairwise_judge_that_cannot_judge_is_refused(arguments, problem) -> None:
    with pytest.raises(DefinitionError) as caught:
        declare_pairwise("http://127.0.0.1:9/v1", **arguments)
    assert problem in caught.value.message


@pytest.mark.parametrize("rule", [{"no_worse_than_champion_by": 0.1}, {"at_most": 0.5}])
def test_a_win_rate_takes_a_minimum_only(rule) -> None:
    with pytest.raises(DefinitionError) as caught:
        declare("http://127.0.0.1:9/v1", scorers=[declare_pairwise("http://127.0.0.1:9/v1")], gates=[ml.Gate("better", **rule)])
    assert "give at_least=" in caught.value.hint


def test_the_calibration_of_preferences_needs_both_answers(platform, run) -> None:
    with ScriptedServer() as judging:
        judge = declare_pairwise(judging.url)
        items = declare_preferences(judge, second=[None] * 40)
        message = run(ml.build_definitions(items, platform=platform)).error()
        assert judging.requests == []
    assert "column 'second' of " in message
