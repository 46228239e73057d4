"""Text columns: clean windows stay quiet, other lengths, words and languages are found, and profiles store no text."""

import json
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import polars as pl
import pytest
from scipy import stats

from mlops_assets.compute.drift import profile
from mlops_assets.compute.drift.drift_report import DriftReport, measure_drift
from mlops_assets.compute.drift.profile import MIN_SAMPLED_ROWS, build_profile
from mlops_assets.compute.drift.texts import MAX_WORDS, MIN_TEXTS, WORDS, count_words, is_text, list_vocabulary, measure_texts
from mlops_assets.values.drift import PSI

DAYS, ROWS = 60, 150
FIRST, LAST = (
    ("br", "cl", "dr", "fl", "gr", "pl", "sk", "st", "tr", "v"),
    ("and", "art", "ell", "ick", "ine", "old", "ong", "ump", "y", "ail"),
)
LEXICON = np.array([a + b + c for c in ("", "s", "ed", "er", "ing", "ly", "ful") for a in FIRST for b in LAST])
FREQUENCIES = 1 / np.arange(1, len(LEXICON) + 1)
TOPICS = np.array([0.7, 0.2, 0.1])


def write(rng: np.random.Generator, topics: np.ndarray, words: tuple[int, int] = (5, 40)) -> str:
    """Write a text on a random topic: each topic prefers every third word of the lexicon."""
    topic = rng.choice(len(topics), p=topics / topics.sum())
    weights = FREQUENCIES * np.where(np.arange(len(LEXICON)) % 3 == topic, 5.0, 1.0)
    return " ".join(rng.choice(LEXICON, rng.integers(*words), p=weights / weights.sum())).capitalize() + "."


def day(seed: int, rows: int = ROWS, **options: tuple[int, int]) -> pl.DataFrame:
    """A day of reviews: the topics of a day differ from those of other days."""
    rng = np.random.default_rng(seed)
    topics = TOPICS * rng.uniform(0.8, 1.2, 3)
    texts = [None if rng.random() < 0.02 else write(rng, topics, **options) for _ in range(rows)]
    return pl.DataFrame({"review": texts, "stars": rng.integers(1, 6, rows)}, schema_overrides={"review": pl.String})


@cache
def rows() -> tuple[pl.DataFrame, pl.Series]:
    at = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=d) for d in range(DAYS) for _ in range(ROWS)]
    return pl.concat([day(1_000 + d) for d in range(DAYS)]), pl.Series(at)


@cache
def reference(*, times: bool = True) -> dict:
    frame, at = rows()
    return json.loads(json.dumps(build_profile(frame, at if times else None), allow_nan=False))


@pytest.mark.parametrize("times", [True, False])
def test_clean_windows_alarm_as_often_as_stated(times: bool) -> None:
    windows = [day(seed, count) for count in (110, 150, 400) for seed in range(30)]
    alarms = sum(bool(measure_drift(reference(times=times), window, false_alarm_rate=0.02).drifted) for window in windows)
    assert alarms <= stats.binom(len(windows), 0.04).ppf(0.99)


def with_words(window: pl.DataFrame, share: float, words: tuple[str, ...]) -> pl.DataFrame:
    """Replace a share of the words by others."""
    rng = np.random.default_rng(0)
    texts = [
        text and " ".join(rng.choice(words) if rng.random() < share else word for word in text.split())
        for text in window["review"].to_list()
    ]
    return window.with_columns(review=pl.Series(texts))


CHANGES = {
    "shorter texts": (
        lambda window: window.with_columns(pl.col("review").str.extract(r"^((?:\S+\s?){1,6})")),
        "characters",
        "number of words",
    ),
    "words that the reference lacks": (
        lambda window: with_words(window, 0.2, ("Lieferung", "verspätet", "Zürich")),
        "words not in the reference, %",
    ),
    "another language": (
        lambda window: window.with_columns(pl.col("review").str.replace_all("[a-z]", "я")),
        "words not in the reference, %",
        "words",
    ),
    "known words that become frequent": (lambda window: with_words(window, 0.2, tuple(LEXICON[300:306])), "words"),
}


@pytest.mark.parametrize("times", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_the_report_names_the_column_and_what_changed(name: str, times: bool) -> None:
    change, *measures = CHANGES[name]
    for seed in range(5):
        report: DriftReport = measure_drift(reference(times=times), change(day(seed)))
        assert report.drifted == ("review",)
        assert report.columns[0].measure in measures
        assert f"review: {report.columns[0].measure}: " in report.summary
        assert [column.name for column in report.columns] == ["review", "stars"]


def test_a_frequent_word_is_named_with_both_shares() -> None:
    report = measure_drift(reference(), with_words(day(1), 0.3, (str(LEXICON[300]),)))
    word = LEXICON[300]
    assert f"words: share in the reference → in the window: {word} 0." in report.summary
    assert report.columns[0].bars[0].label == word
    assert report.columns[0].bars[0].current == pytest.approx(0.3, abs=0.05)
    assert sum(bar.current for bar in report.columns[0].bars) == pytest.approx(1)


def test_a_profile_holds_frequent_words_only() -> None:
    frame, at = rows()
    secret = ["Ms Quibbleworth of 12 Snorkel Lane returned it" if k < MIN_TEXTS - 1 else None for k in range(frame.height)]
    profile = json.dumps(build_profile(frame.with_columns(review=pl.coalesce(pl.Series(secret), "review")), at))
    assert "quibbleworth" not in profile.lower()
    assert "snorkel" not in profile.lower()
    texts = frame["review"].drop_nulls()
    assert not [text for text in texts.head(500) if text in profile]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["Fits well and looks good", "Came late but works", "Too small for my son"], True),
        (["Fits well and looks good"] * 3, False),  # few distinct values
        (["N14228", "N24211", "N619AA"], False),  # one word
        ([None, None], False),
        ([1, 2, 3], False),
    ],
)
def test_text_has_distinct_values_of_several_words(values: list, expected: bool) -> None:
    assert is_text(pl.Series(values)) == expected


def test_measures_of_texts_equal_those_counted_by_hand() -> None:
    texts = pl.Series(["The cat isn't here", None, "", "THE dog 12 sat", "the end"])
    measures, moved = measure_texts(texts, {"the": 0.1, "cat": 0.05})
    assert measures["characters"].values.to_list() == [18, None, 0, 14, 7]
    assert measures["number of words"].values.to_list() == [4, None, 0, 3, 2]
    assert measures["words not in the reference, %"].values.to_list() == [50, None, None, pytest.approx(200 / 3), 50]
    assert measures[WORDS].rows.tolist() == [0, 0, 0, 0, 1, 2, 3, 3, 3, 4, 4]
    assert [(share.word, share.current) for share in moved] == [("the", 3 / 9), ("cat", 1 / 9)]


def test_a_word_of_one_window_is_new_in_this_window() -> None:
    texts = pl.Series(["common words here"] * 20 + ["recall words here"] * 10)
    windows = np.repeat([0, 1, 2], 10)
    vocabulary, measures = list_vocabulary(texts, windows)
    assert {"common", "words", "here", "recall"} == set(vocabulary)
    assert measures["words not in the reference, %"].values[-10:].to_list() == [pytest.approx(100 / 3)] * 10
    assert measures["words not in the reference, %"].values[:20].to_list() == [0] * 20


def test_a_text_column_without_values_or_of_another_type_has_drifted() -> None:
    window = day(2)
    empty = measure_drift(reference(), window.with_columns(review=pl.lit(None, pl.String)))
    assert empty.drifted == ("review",)
    assert empty.columns[0].null_rate == 1
    assert "type is Int64, but String" in measure_drift(reference(), window.with_columns(review=pl.col("stars"))).columns[0].why
    assert measure_drift(reference(), window.with_columns(review=pl.lit("It is all the same"))).drifted == ("review",)


def test_a_text_column_with_a_fixed_threshold_is_judged_by_calibrated_measures_and_the_report_says_so() -> None:
    note = "fixed thresholds not used, because texts and embeddings are tested by calibrated measures: review: PSI(0.2)"
    for window, drifted in ((day(1), ()), (with_words(day(1), 0.3, ("verspätet",)), ("review",))):
        report = measure_drift(reference(), window, fixed={"review": PSI(0.2), "stars": PSI(0.2)})
        assert report.drifted == drifted
        assert report.notes == (note,)
        assert report.summary.endswith(note)
        assert {column.name: column.statistic for column in report.columns}["stars"] == "psi"


def test_a_profile_of_long_texts_measures_a_bounded_number_of_words() -> None:
    rng = np.random.default_rng(0)
    texts = pl.Series("review", [" ".join(rng.choice(LEXICON, 200)) for _ in range(4_000)])
    at = pl.Series([datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=9 * n) for n in range(len(texts))])
    assert count_words(texts) == 800_000
    for times in (at, None):
        measures = build_profile(texts.to_frame(), times)["columns"]["review"]["measures"]
        assert sum(measures[WORDS]["cells"]) == pytest.approx(MAX_WORDS, rel=0.02)
        assert sum(measures["characters"]["cells"]) == pytest.approx(MAX_WORDS / 200, rel=0.02)


def test_enough_texts_of_each_window_are_measured_for_clean_windows_to_be_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "MAX_WORDS", 2_000)
    built = build_profile(*rows())
    measured = built["columns"]["review"]["measures"]["characters"]
    assert sum(measured["cells"]) + measured["nulls"] == DAYS * MIN_SAMPLED_ROWS
    assert not [name for seed in range(20) for name in measure_drift(built, day(seed)).drifted]


def test_a_column_without_statistics_of_windows_is_judged_by_distances() -> None:
    frame, at = rows()
    names = pl.Series([f"N{k}" for k in range(frame.height)])  # no category is frequent
    profile = build_profile(frame.select("stars", tail=names, day=at.dt.date()), at)
    window = day(3).select("stars", tail=names.head(ROWS), day=at.dt.date().head(ROWS))
    assert measure_drift(profile, window).drifted == ()
    assert "day" in measure_drift(profile, window.with_columns(day=pl.lit(None, pl.Date))).drifted
