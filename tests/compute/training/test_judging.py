"""Evaluation, gates, leakage, on-demand features: fail closed, and say why."""

import dataclasses
import math
import re
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression

import mlops_assets as ml
from mlops_assets.compute.features.on_demand import apply_on_demand, columns_as_arrays, find_foreign_imports, load_functions
from mlops_assets.compute.training.evaluate import check_metrics, evaluate, tabulate_metrics
from mlops_assets.compute.training.gates import FunctionGate, judge
from mlops_assets.compute.training.leakage import find_later_times, find_repeated_columns, find_strong_columns
from mlops_assets.compute.training.plots import plot_model
from mlops_assets.errors import DataError, DefinitionError
from mlops_assets.values.evaluation import PredictionTimes

RNG = np.random.default_rng(0)
X = pl.DataFrame({"x": RNG.normal(size=400)})
ROWS = X.with_columns(g=pl.Series(["a", "b"] * 200))
Y = (X["x"].to_numpy() + RNG.normal(size=400) > 0).astype(int)
SPLIT = ml.Split(X, Y, ROWS)
FITTED = LogisticRegression().fit(X, Y)


def candidate(evaluation, champion=None):
    return ml.Candidate("m", "d", FITTED, SPLIT, evaluation, champion)


def evaluation(**metrics):
    return ml.types.Evaluation(10, tuple(metrics.items()))


def test_metrics_equal_scikit_learns_for_model_baseline_and_slices() -> None:
    from sklearn.metrics import roc_auc_score

    found = evaluate(FITTED, SPLIT, ["roc_auc", "neg_log_loss"], ["g"], train=SPLIT)
    assert found.metric("roc_auc") == roc_auc_score(Y, FITTED.predict_proba(X)[:, 1])
    assert dict(found.baseline)["roc_auc"] == 0.5
    mask = (ROWS["g"] == "a").to_numpy()
    assert found.metric("roc_auc", within=("g", "a")) == roc_auc_score(Y[mask], FITTED.predict_proba(X.filter(mask))[:, 1])
    assert {(s.column, s.value, s.rows) for s in found.slices} == {("g", "a", 200), ("g", "b", 200)}


def test_an_undefined_metric_is_nan_with_its_reason() -> None:
    ones = ml.Split(X, np.ones(400, dtype=int), ROWS)
    found = evaluate(FITTED, ones, ["roc_auc"])
    assert math.isnan(found.metric("roc_auc"))
    assert "every label is 1" in dict(found.problems)["roc_auc"] or "one class" in dict(found.problems)["roc_auc"]
    assert not judge(ml.Gate("roc_auc", at_least=0.0), candidate(found)).passed


def test_regression_is_measured_too() -> None:
    y = X["x"].to_numpy() * 2
    found = evaluate(LinearRegression().fit(X, y), ml.Split(X, y, ROWS), ["r2", "neg_mean_absolute_error"], train=ml.Split(X, y, ROWS))
    assert found.metric("r2") == pytest.approx(1)
    assert dict(found.baseline)["r2"] == pytest.approx(0)


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(DefinitionError, match="'roc_acu'.*\n.*did you mean 'roc_auc'"):
        check_metrics(["roc_acu"], "'model/m'")


@pytest.mark.parametrize(
    ("gate", "mine", "champions", "passed"),
    [
        (ml.Gate("m", at_least=0.5), 0.5, None, True),
        (ml.Gate("m", at_least=0.5), 0.49999, None, False),
        (ml.Gate("m", at_least=0.5), math.nan, None, False),
        (ml.Gate("m", at_least=-1.0), math.inf, None, False),
        (ml.Gate("m", no_worse_than_champion_by=0.1), 0.4, None, True),
        (ml.Gate("m", no_worse_than_champion_by=0.1), 0.45, 0.5, True),
        (ml.Gate("m", no_worse_than_champion_by=0.1), 0.35, 0.5, False),
        (ml.Gate("m", no_worse_than_champion_by=0.1), 0.9, math.nan, False),
        (ml.Gate("m", better_than_champion_by=0.1), 0.55, 0.5, False),
        (ml.Gate("m", better_than_champion_by=0.1), 0.65, 0.5, True),
        (ml.Gate("m", better_than_champion_by=0.1), math.nan, None, False),
    ],
)
def test_gates_pass_on_evidence_only(gate, mine, champions, passed) -> None:
    champion = None if champions is None else evaluation(m=champions)
    found = judge(gate, candidate(evaluation(m=mine), champion))
    assert found.passed is passed
    assert found.reason


def test_the_text_of_a_gate_names_its_slice() -> None:
    assert ml.Gate("roc_auc", at_least=0.6, slice=("origin", "LGA")).text == "roc_auc at least 0.6 where origin is LGA"
    assert ml.Gate("roc_auc", at_least=0.6, slice="origin").text == "roc_auc at least 0.6, for every origin with 100 rows"
    assert ml.Gate("roc_auc", at_least=0.6).text == "roc_auc at least 0.6"


def test_a_gate_on_a_slice_that_is_not_there_fails() -> None:
    found = judge(ml.Gate("m", at_least=0, slice=("g", "zzz")), candidate(evaluation(m=1.0)))
    assert not found.passed
    assert "no holdout row has g zzz" in found.reason


def gate_function(body):
    import dagster as dg

    class Params(dg.Config):
        pass

    @ml.dataset()
    def rows() -> pl.DataFrame: ...

    @ml.training_set(label="y", columns=["x"], split=ml.GroupSplit("g"))
    def examples(rows: pl.DataFrame) -> pl.DataFrame: ...

    @ml.model(training_set=examples, metrics=["roc_auc"])
    def model(train: ml.Split) -> LogisticRegression: ...

    @ml.gate(model)
    def sound(candidate: ml.Candidate) -> ml.GateResult:
        return body(candidate)

    return sound


@pytest.mark.parametrize(
    ("body", "passed", "word"),
    [
        (lambda _: True, True, "holds"),
        (lambda _: np.bool_(False), False, "does not hold"),
        (lambda _: ml.GateResult(passed=True, reason="fine"), True, "fine"),
        (lambda _: ml.GateResult(passed=True, value=math.nan), False, "nan"),
        (lambda _: 1, False, "returned int"),
        (lambda _: None, False, "returned NoneType"),
        (lambda _: 1 / 0, False, "ZeroDivisionError"),
    ],
)
def test_a_gate_function_passes_only_by_saying_so(body, passed, word) -> None:
    found = judge(FunctionGate(gate_function(body)), candidate(evaluation(m=1.0)))
    assert found.passed is passed
    assert word in found.reason


class Measured:
    """Costs that are given."""

    def __init__(self, size: float = 100.0, seconds: tuple[float, ...] = (0.001,) * 20) -> None:
        self.size, self.seconds = size, seconds

    def artifact_bytes(self) -> float:
        return self.size

    def time_predictions(self, calls: int) -> PredictionTimes:
        return PredictionTimes(self.seconds, f"{calls} were asked for")


@pytest.mark.parametrize(
    ("gate", "costs", "passed", "reason"),
    [
        (ml.Gate.artifact_size(max_bytes=100), Measured(100), True, "the artifacts have 100 bytes ≤ 100 bytes"),
        (ml.Gate.artifact_size(max_bytes=99), Measured(100), False, "the artifacts have 100 bytes > 99 bytes"),
        (ml.Gate.artifact_size(max_bytes=99), Measured(math.nan), False, "not a finite number"),
        (ml.Gate.artifact_size(max_bytes=99), None, False, "measures no artifact size"),
        (ml.Gate.latency(p95_ms=1, calls=20), Measured(seconds=(0.001,) * 19 + (9.0,)), True, "p95 1 ms of 20 single-row predictions"),
        (ml.Gate.latency(p95_ms=1, calls=20), Measured(seconds=(0.001,) * 18 + (9.0,) * 2), False, "p95 9e+03 ms of 20"),
        (ml.Gate.latency(p95_ms=1), Measured(seconds=()), False, "not a finite number"),
        (ml.Gate.latency(p95_ms=1), Measured(seconds=(math.nan, *((0.0001,) * 99))), False, "not a finite number"),
        (ml.Gate.latency(p95_ms=1), None, False, "measures no latency"),
    ],
)
def test_costs_are_judged_by_their_maximum_and_fail_closed(gate, costs, passed, reason) -> None:
    found = judge(gate, ml.Candidate("m", "d", FITTED, SPLIT, evaluation(m=1.0), costs=costs))
    assert found.passed is passed
    assert reason in found.reason


@dataclasses.dataclass(frozen=True)
class OwnGate:
    """A kind of gate that only this test knows."""

    answer: object
    name = "own"
    definition = "1"
    text = "an answer that is given"
    relative = False

    def judge(self, _candidate):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "passed", "reason"),
    [
        (ml.GateResult(passed=True, reason="fine"), True, "fine"),
        (ml.GateResult(passed=True, value=math.inf), False, "the gate's value is inf"),
        (True, False, "returned bool"),
        (ValueError("no"), False, "raised ValueError: no"),
    ],
)
def test_a_gate_of_any_kind_passes_only_by_a_result(answer, passed, reason) -> None:
    found = judge(OwnGate(answer), candidate(evaluation(m=1.0)))
    assert found.passed is passed
    assert reason in found.reason


@pytest.mark.parametrize(
    ("declare", "problem"),
    [
        (lambda: ml.Gate.artifact_size(max_bytes=0), "max_bytes of a gate on the artifact size must be at least 1, not 0"),
        (lambda: ml.Gate.latency(p95_ms=0), "must be a positive number, not 0"),
        (lambda: ml.Gate.latency(p95_ms=math.nan), "must be a positive number, not nan"),
        (lambda: ml.Gate.latency(p95_ms=1, calls=19), "at least 20, not 19"),
    ],
)
def test_maxima_that_mean_nothing_are_refused(declare, problem) -> None:
    with pytest.raises(DefinitionError, match=problem):
        declare()


def test_a_later_column_under_another_name_is_found() -> None:
    later = pl.DataFrame({"arr_delay": RNG.normal(size=400)})
    rows = pl.DataFrame({"honest": RNG.normal(size=400), "smuggled": later["arr_delay"] * 3 + 1})
    found = find_repeated_columns(rows, rows.columns, later)
    assert [(leak.column, leak.later) for leak in found] == [("smuggled", "arr_delay")]


def test_on_demand_features_are_the_same_function_from_stored_source() -> None:
    source = "import numpy as np\ndef double(x):\n    return {'twice': x * 2}\n"
    (stored,) = load_functions(source, ["double"])
    assert apply_on_demand([stored], {"x": np.array([1, 2])})["twice"].tolist() == [2, 4]
    assert find_foreign_imports("import numpy\nimport os\nfrom scipy import stats\nimport pandas as pd") == {"scipy", "pandas"}
    times = pl.DataFrame({"t": pl.Series([0], dtype=pl.Datetime("ns", "UTC"))})
    assert columns_as_arrays(times, ["t"])["t"].dtype == np.dtype("datetime64[us]")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda y: {"a": y}, "need the column 'y'"),
        (lambda x: x, "returned ndarray"),
        (lambda x: {"a": x[:1]}, "shape \\(1,\\) for 2 rows"),
    ],
)
def test_a_wrong_on_demand_function_is_named(function, words) -> None:
    with pytest.raises(DataError, match=words):
        apply_on_demand([function], {"x": np.array([1, 2])})


def test_plots_are_pngs() -> None:
    pictures = plot_model(FITTED, SPLIT, "accuracy", "seed")
    assert set(pictures) == {"ROC", "calibration", "importance"}
    assert all(png.startswith(b"\x89PNG") for png in pictures.values())
    y = X["x"].to_numpy()
    assert set(plot_model(LinearRegression().fit(X, y), ml.Split(X, y, ROWS), "r2", "seed")) == {"prediction against truth", "importance"}
    assert "importance" in plot_model(DummyClassifier().fit(X, Y), SPLIT, "accuracy", "seed")


class Known:
    """Intervals that are told."""

    method = "12 blocks of 1 day, as declared"

    def __init__(self, low: float, high: float) -> None:
        self.bounds = low, high

    def value(self, *_asked):
        return self.bounds

    difference = value


@pytest.mark.parametrize(
    ("gate", "bounds", "passed"),
    [
        (ml.Gate("m", at_least=0.5, confidence=0.95), (0.5, 0.7), True),
        (ml.Gate("m", at_least=0.5, confidence=0.95), (0.49, 0.7), False),
        (ml.Gate("m", better_than_champion_by=0.0, confidence=0.9), (0.001, 0.2), True),
        (ml.Gate("m", better_than_champion_by=0.0, confidence=0.9), (-0.001, 0.2), False),
        (ml.Gate("m", no_worse_than_champion_by=0.01, confidence=0.9), (-0.01, 0.2), True),
        (ml.Gate("m", no_worse_than_champion_by=0.01, confidence=0.9), (-0.02, 0.2), False),
        (ml.Gate("m", no_worse_than_champion_by=0.01, confidence=0.9), (math.nan, math.nan), False),
        (ml.Gate("m", no_worse_than_champion_by=0.01), (-0.9, 0.2), True),
    ],
)
def test_with_a_confidence_the_bound_decides_and_not_the_figure(gate, bounds, passed) -> None:
    given = ml.Candidate("m", "d", FITTED, SPLIT, evaluation(m=0.6), evaluation(m=0.6), Known(*bounds))
    found = judge(gate, given)
    assert found.passed is passed
    assert "interval" in found.reason
    assert "(12 blocks of 1 day, as declared)" in found.reason or gate.confidence is None
    if gate.relative and not math.isnan(bounds[0]):
        assert (found.low, found.high) == bounds


def sliced(**slices) -> ml.types.Evaluation:
    from mlops_assets.values.evaluation import SliceMetrics

    return ml.types.Evaluation(
        100, (("m", 0.6),), slices=tuple(SliceMetrics("g", name, rows, (("m", value),)) for name, (rows, value) in slices.items())
    )


def test_a_gate_on_every_slice_names_the_worst_with_its_rows() -> None:
    gate = ml.Gate("m", at_least=0.5, slice="g", min_rows=50)
    assert gate.name == "m_at_least_every_g"
    assert judge(gate, candidate(sliced(a=(60, 0.6), b=(50, 0.5), c=(49, 0.1)))).passed
    found = judge(gate, candidate(sliced(a=(60, 0.6), b=(80, 0.45), c=(70, 0.4), d=(10, 0.1))))
    assert not found.passed
    assert "fails in 2 of 3 slices by g, worst in g c (70 rows): m 0.4 < 0.5" in found.reason
    assert "1 with fewer rows" in found.reason
    assert (found.value, found.threshold) == (0.4, 0.5)
    undefined = judge(gate, candidate(sliced(a=(60, 0.6), b=(80, math.nan))))
    assert not undefined.passed
    assert "worst in g b (80 rows)" in undefined.reason
    few = judge(gate, candidate(sliced(a=(49, 0.9))))
    assert not few.passed
    assert "no value of g has 50 holdout rows: the most frequent has 49" in few.reason


def test_every_slice_is_compared_with_the_champions() -> None:
    gate = ml.Gate("m", no_worse_than_champion_by=0.1, slice="g", min_rows=50)
    champion = sliced(a=(60, 0.6), b=(80, 0.6))
    assert judge(gate, candidate(sliced(a=(60, 0.55), b=(80, 0.5)), champion)).passed
    found = judge(gate, candidate(sliced(a=(60, 0.3), b=(80, 0.2)), champion))
    assert "worst in g b (80 rows)" in found.reason


def test_more_than_fifty_values_are_measured_where_a_gate_judges_each() -> None:
    names = [f"v{i % 70}" for i in range(400)]
    split = ml.Split(X, Y, X.with_columns(g=pl.Series(names)))
    assert len(evaluate(FITTED, split, ["accuracy"], ["g"]).slices) == 50
    assert len(evaluate(FITTED, split, ["accuracy"], ["g"], required_min_rows={"g": 2}).slices) == 70
    assert len(evaluate(FITTED, split, ["accuracy"], ["g"], required_min_rows={"g": 200}).slices) == 50


def test_a_slice_that_a_gate_names_is_measured_however_rare_it_is() -> None:
    names = [f"v{i % 70}" for i in range(398)] + ["rare", None]
    split = ml.Split(X, Y, X.with_columns(g=pl.Series(names), h=pl.Series(names)))
    found = evaluate(FITTED, split, ["accuracy"], ["g", "h"], required_slices={("g", "rare"), ("g", "None"), ("g", "absent")})
    assert sum(s.column == "g" for s in found.slices) == 52
    assert sum(s.column == "h" for s in found.slices) == 50
    assert [s.rows for s in found.slices if s.value in {"rare", "None"}] == [1, 1]
    assert math.isfinite(found.metric("accuracy", ("g", "rare")))


def test_a_gate_definition_has_one_hash_and_old_gates_keep_theirs() -> None:
    assert ml.Gate("m", at_least=0.5).definition == "0f82001581261df2a9487f9d227abcb4530e0761dd600869b83a19009d9cf3ca"
    given = [ml.Gate("m", at_least=0.5), ml.Gate("m", at_least=0.5, confidence=0.9), ml.Gate("m", at_least=0.5, slice="g")]
    given += [ml.Gate("m", at_least=0.5, slice="g", min_rows=7), ml.Gate("m", at_least=0.5, slice=("g", "a"))]
    assert len({g.definition for g in given}) == len(given)


def test_the_name_of_a_gate_fits_dagster_for_any_slice() -> None:
    assert ml.Gate("m", at_least=0.5, slice=("g", "LGA")).name == "m_at_least_g_lga"
    names = [ml.Gate("m", at_least=0.5, slice=slice_).name for slice_ in (("g", "New York"), ("g", "New-York"), ("g", "東京"), "größe")]
    assert names[0].startswith("m_at_least_g_new_york_")
    assert len(set(names)) == 4
    assert all(re.fullmatch("[A-Za-z0-9_]+", name) for name in names)


@pytest.mark.parametrize(
    ("more", "why"), [({"confidence": 1.0}, "must be between 0 and 1, not 1.0"), ({"min_rows": 0}, "must be at least 1, not 0")]
)
def test_options_of_a_gate_that_mean_nothing_are_refused(more, why) -> None:
    with pytest.raises(DefinitionError, match=why):
        ml.Gate("m", at_least=0.5, **more)


def test_the_metric_table_shows_difference_and_interval() -> None:
    given = ml.Candidate("m", "d", FITTED, SPLIT, evaluation(m=0.6), evaluation(m=0.5), Known(0.05, 0.15))
    assert tabulate_metrics(given)[0]["Δ"] == pytest.approx(0.1)
    assert tabulate_metrics(given)[0]["95 % CI of Δ"] == "+0.05 … +0.15"
    assert tabulate_metrics(candidate(evaluation(m=0.6)))[0]["champion"] == "none yet"


def test_a_column_of_any_type_that_predicts_the_label_alone_is_found() -> None:
    rng = np.random.default_rng(3)
    y = rng.random(1000) < 0.3
    rows = pl.DataFrame(
        {
            "y": y,
            "honest": rng.normal(size=1000) + y,
            "turned": -(rng.normal(size=1000) / 5 + y),
            "word": np.where(y, "late", "on time"),
            "id": [f"row {i}" for i in range(1000)],
            "known_if_late": pl.Series([1.0 if late else None for late in y]),
            "flag": y ^ (rng.random(1000) < 0.3),
        }
    )
    found = find_strong_columns(rows, [c for c in rows.columns if c != "y"], "y")
    assert {s.column for s in found} == {"turned", "word", "known_if_late"}
    assert all(s.of_classes for s in found)
    from sklearn.metrics import roc_auc_score

    turned = next(s for s in found if s.column == "turned")
    assert turned.share == pytest.approx(1 - roc_auc_score(y, rows["turned"]))
    few = rows.head(20)
    assert find_strong_columns(few, ["word"], "y") == []


def test_a_number_that_ranks_like_a_numeric_label_is_found() -> None:
    y = RNG.normal(size=400)
    rows = pl.DataFrame({"y": y, "exp": np.exp(y + RNG.normal(size=400) / 50), "honest": y + RNG.normal(size=400)})
    assert [(s.column, s.of_classes) for s in find_strong_columns(rows, ["exp", "honest"], "y")] == [("exp", False)]


def test_a_time_after_its_rows_event_is_found() -> None:
    at = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=i) for i in range(4)]
    rows = pl.DataFrame({"at": at, "before": [t - timedelta(hours=1) for t in at], "landed": [at[0], None, at[3], at[2]]})
    (found,) = find_later_times(rows, ["at", "before", "landed"], "at")
    assert (found.column, found.rows) == ("landed", 1)
    assert (found.first[:13], found.event[:13]) == ("2024-01-01 03", "2024-01-01 02")


@pytest.mark.parametrize(
    ("value", "event", "later"),
    [
        (date(2024, 1, 5), datetime(2024, 1, 1, tzinfo=UTC), True),
        (date(2024, 1, 2), datetime(2024, 1, 1, 9, tzinfo=UTC), True),
        (date(2024, 1, 2), datetime(2024, 1, 1, 10, tzinfo=UTC), False),  # in UTC+14, the second of January has begun
        (date(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC), False),
        (datetime(2024, 1, 1, 15), datetime(2024, 1, 1, tzinfo=UTC), True),
        (datetime(2024, 1, 1, 14), datetime(2024, 1, 1, tzinfo=UTC), False),
        (datetime(2024, 1, 2, 12, tzinfo=UTC), date(2024, 1, 1), True),
        (datetime(2024, 1, 2, 11, tzinfo=UTC), date(2024, 1, 1), False),  # in UTC-12, the first of January lasts
        (datetime(2024, 1, 1, 13, tzinfo=UTC), datetime(2024, 1, 1), True),
        (date(2024, 1, 2), date(2024, 1, 1), True),
        (date(2024, 1, 1), date(2024, 1, 1), False),
        (date(2024, 1, 2), datetime(2024, 1, 1, 23), True),
        (None, datetime(2024, 1, 1, tzinfo=UTC), False),
    ],
)
def test_a_date_is_later_than_an_event_only_if_it_is_so_in_every_time_zone(value, event, later) -> None:
    rows = pl.DataFrame({"at": [event], "landed": pl.Series([value], dtype=None if value else pl.Date)})
    found = find_later_times(rows, ["landed"], "at")
    assert [(x.column, x.rows, x.first) for x in found] == ([("landed", 1, str(value))] if later else [])
