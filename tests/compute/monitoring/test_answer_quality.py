"""Chance alone raises no alarm in twenty clean windows, and a degraded prompt is found in the first."""

import json

import numpy as np
import polars as pl
import pytest

from mlops_assets.compute.llm_traces.trace_rows import TRACE_COLUMNS, build_trace_rows
from mlops_assets.compute.monitoring.answer_comparison import compare_measures
from mlops_assets.compute.monitoring.answer_quality import MeasuredValues, QualityInputs, evaluate_measure, measure_answers
from mlops_assets.compute.monitoring.input_drift import compare_samples
from mlops_assets.compute.monitoring.languages import recognise_language
from mlops_assets.errors import DefinitionError
from mlops_assets.values.llm.quality_monitor import QualityExpectation, QualityMonitor
from mlops_assets.values.llm.trace_source import TraceSource

ANSWERS = 60
FACTS = "Flight AA12 from JFK to LAX left at 10:05, 25 minutes late."
GOOD = "Flight AA12 left 25 minutes late."
BAD = "Flight DL99 from Boston left 3 hours early."
REFUSAL = "The context does not say why the flight was late."
EXPECTATIONS = (
    QualityExpectation("groundedness", at_least=0.6),
    QualityExpectation("hallucination_rate", at_most=0.3),
    QualityExpectation("refusal_rate", at_most=0.4),
    QualityExpectation("error_rate", at_most=0.2),
    QualityExpectation("feedback", at_least=0.5),
    QualityExpectation("cost", at_most=0.002),
    QualityExpectation("latency_p95", at_most=4.0),
    QualityExpectation("output_words", at_most=20),
    QualityExpectation("language_rate", at_least=0.8),
)


def simulate(
    generator: np.random.Generator, *, bad: float = 0.1, errors: float = 0.05, refusals: float = 0.1, slow: float = 1.0
) -> pl.DataFrame:
    rows = []
    for number in range(ANSWERS):
        failed, refused, wrong = (bool(generator.random() < share) for share in (errors, refusals, bad))
        rows.append(
            {
                **dict.fromkeys(TRACE_COLUMNS),
                "trace_id": f"{number:032x}",
                "status": "error" if failed else "ok",
                "seconds": float(slow * generator.gamma(4, 0.3)),
                "cost": None if failed else float(generator.gamma(4, 0.0003)),
                "feedback": float(generator.random() < 0.8 * (1 - bad)) if generator.random() < 0.7 else None,
                "input": json.dumps({"question": "When did the flight leave?", "facts": [FACTS]}),
                "output": None if failed else REFUSAL if refused else BAD if wrong else GOOD,
            }
        )
    return pl.DataFrame(rows, schema=build_trace_rows({}).frame.schema)


def inputs(rows: pl.DataFrame, *measures: str) -> QualityInputs:
    return QualityInputs(("facts",), "en", 500, rows.clear(), frozenset(measures))


def judge(rows: pl.DataFrame, expectations=EXPECTATIONS) -> dict[str, str]:
    measured = {values.measure: values for values in measure_answers(rows, inputs(rows))}
    return {e.measure: evaluate_measure(e, measured[e.measure]).state for e in expectations}


@pytest.mark.parametrize("seed", range(2))
def test_twenty_clean_windows_raise_no_alarm(seed) -> None:
    generator = np.random.default_rng(seed)
    for _ in range(20):
        assert set(judge(simulate(generator)).values()) <= {"good", "not enough data"}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"bad": 0.9}, {"groundedness", "hallucination_rate", "feedback"}),
        ({"refusals": 0.9}, {"refusal_rate"}),
        ({"errors": 0.6}, {"error_rate"}),
        ({"slow": 10.0}, {"latency_p95"}),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_degraded_prompt_is_found_in_the_first_window(seed, change, found) -> None:
    states = judge(simulate(np.random.default_rng(seed), **change))
    assert found <= {measure for measure, state in states.items() if state == "breach"}


def test_a_bound_at_the_true_value_seldom_alarms() -> None:
    generator = np.random.default_rng(0)
    expectation = QualityExpectation("error_rate", at_most=0.1)
    windows = [MeasuredValues("error_rate", tuple((generator.random(100) < 0.1).astype(float))) for _ in range(400)]
    assert sum(evaluate_measure(expectation, window).state == "breach" for window in windows) <= 8


@pytest.mark.parametrize(("unknown", "known"), [(1, True), (2, True), (3, False), (40, False)])
def test_an_unknown_cost_is_no_zero_and_few_of_them_leave_the_mean_of_the_others(unknown, known) -> None:
    rows = simulate(np.random.default_rng(0)).with_columns(status=pl.lit("ok"), cost=pl.lit(0.001)).head(40)
    rows = rows.with_columns(cost=pl.when(pl.int_range(pl.len()) >= unknown).then("cost"))
    measured = {values.measure: values for values in measure_answers(rows, inputs(rows))}["cost"]
    assert measured.value == (pytest.approx(0.001) if known else None)
    verdict = evaluate_measure(QualityExpectation("cost", at_most=1.0), measured)
    assert verdict.state == ("good" if known else "cannot be measured")
    assert f"{unknown} of 40 answers have no known cost" + ("" if known else "; at most 5 % may have none") in verdict.reason
    compared = compare_measures(QualityExpectation("cost", no_worse_than_before_by=0.001), measured, measured)
    assert compared.state == verdict.state
    assert f"{unknown} of 40 answers have no known cost" in compared.reason


def test_failed_calls_do_not_improve_the_latency() -> None:
    rows = simulate(np.random.default_rng(0), slow=0.1)
    slow = rows.with_columns(seconds=pl.when(pl.int_range(pl.len()) < 20).then(100.0).otherwise("seconds"))
    failed = slow.with_columns(status=pl.when(pl.int_range(pl.len()) < 20).then(pl.lit("error")).otherwise("status"))
    assert [judge(each)["latency_p95"] for each in (rows, slow, failed)] == ["good", "breach", "breach"]
    measured = {values.measure: values for values in measure_answers(failed, inputs(failed))}["latency_p95"]
    reason = evaluate_measure(QualityExpectation("latency_p95", at_most=4.0), measured).reason
    assert reason.startswith("latency_p95 has no upper bound, because of failed calls (99 % CI ")


def test_traces_without_content_cannot_be_measured() -> None:
    rows = simulate(np.random.default_rng(0)).with_columns(output=pl.lit(None, pl.String), input=pl.lit(None, pl.String))
    states = judge(rows)
    assert states["groundedness"] == states["refusal_rate"] == "cannot be measured"
    assert states["error_rate"] == "good"


def test_few_answers_are_not_judged() -> None:
    assert set(judge(simulate(np.random.default_rng(0), bad=0.9)[:10]).values()) <= {"not enough data", "cannot be measured"}
    assert judge(simulate(np.random.default_rng(0))[:0])["groundedness"] == "not enough data"


def test_two_samples_of_one_distribution_do_not_differ_and_shifted_ones_do() -> None:
    generator = np.random.default_rng(0)
    alike = [compare_samples(*generator.normal(size=(2, 50, 20)))[1] for _ in range(100)]
    assert sum(p_value < 0.01 for p_value in alike) <= 5
    first, second = generator.normal(size=(2, 50, 20))
    distance, p_value = compare_samples(first, second + 1)
    assert (p_value, distance > 0.1) == (0.001, True)
    assert compare_samples(np.ones((5, 3)), np.ones((5, 3))) == (0.0, 1.0)


def test_inputs_on_another_subject_drift() -> None:
    days = ["When did flight AA12 leave?", "Why is the flight to Boston late?", "Which gate has flight UA7?"]
    recipes = ["How long do I boil an egg?", "Which flour is best for bread?", "Can I freeze tomato soup?"]
    frame = simulate(np.random.default_rng(0))[:30]

    def with_questions(questions: list[str]) -> pl.DataFrame:
        texts = [json.dumps({"question": f"{questions[row % 3]} {row}", "facts": FACTS}) for row in range(30)]
        return frame.with_columns(input=pl.Series(texts), status=pl.lit("ok"))

    expectation = QualityExpectation("input_drift", at_most=0.05)
    found = []
    for ours in (days, recipes):
        needs = QualityInputs(("facts",), None, 500, with_questions(days), frozenset({"input_drift"}))
        found.append(evaluate_measure(expectation, measure_answers(with_questions(ours), needs)[-1]).state)
    assert found == ["good", "breach"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Der Flug nach Boston ist nicht mit dem Bus zu erreichen.", "de"),
        ("Le vol pour Boston est en retard et la porte est au sud.", "fr"),
        ("JFK 15", None),
    ],
)
def test_a_language_is_recognised_by_its_frequent_words(text, code) -> None:
    assert recognise_language(text) == code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"expectations": QualityExpectation("groundedness", at_least=0.5)}, "context= is not set"),
        ({"expectations": QualityExpectation("language_rate", at_least=0.5)}, "expects the language rate, but language= is not set"),
        ({"expectations": [QualityExpectation("cost", at_most=n) for n in (1, 2)]}, "'cost_at_most' twice"),
        ({"language": "tlh"}, "language='tlh'"),
        ({"on_breach": "rollback"}, "rolls back"),
        ({"max_scored": 0}, "max_scored=0"),
        ({"judged_answers": 0}, "judged_answers=0"),
        ({"expectations": QualityExpectation("goodness", at_least=1.0)}, "'goodness', an unknown measure"),
    ],
)
def test_a_contradictory_monitor_is_refused(arguments, message) -> None:
    with pytest.raises(DefinitionError, match=message):
        QualityMonitor("watch", of=TraceSource("bot"), **arguments)


@pytest.mark.parametrize("arguments", [{"measure": "cost"}, {"measure": "cost", "at_most": 1.0, "min_answers": 1}])
def test_an_impossible_expectation_is_refused(arguments) -> None:
    with pytest.raises(DefinitionError):
        QualityExpectation(**arguments)
