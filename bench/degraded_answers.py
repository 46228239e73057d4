"""Windows of answers with a growing share of bad ones, judged as the quality monitor judges a day."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

import flights_data
import mlops_assets as ml
from bench.harness import OUT
from bench.report import Facts
from mlops_assets.compute.monitoring.answer_comparison import compare_measures
from mlops_assets.compute.monitoring.answer_quality import MeasuredValues, evaluate_measure
from mlops_assets.stores.llm.response_cache import ResponseCache
from mlops_assets.values.monitoring import BREACH

ANSWERS = 50  # of a window
SHARES = (0.1, 0.25, 0.5, 1.0)  # of bad answers, after the prompt was degraded
NOMINAL = 0.005  # of windows that breach by chance where the true mean is the bound: half of what a 99 % interval leaves out
TRIALS, MAX_WINDOWS = 100, 30  # releases of a degraded prompt; windows that each is watched
MARGIN = 0.05  # by which a version may be worse than the one before it
DECLARED, TIGHT = 0.8, 0.95  # what the reference project expects of its answers, and a bound next to their quality
NOTES = [
    f"A window has {ANSWERS} answers, drawn with replacement; a degraded one draws a share of them from the bad answers. `evaluate_measure` of the monitor judges it: a breach only if the whole 99 % interval of the mean lies below the bound.",
    "Held-out pairs: the supported answers of every second context set the bound, their mean minus a third of their standard deviation. Windows are drawn from the other contexts, good answers from the supported ones, bad ones from the others.",
    "The cosine is judged by the same code, with a bound of its own by the same rule.",
    f"SmolLM2: 36 questions on delays, answered by the prompt of the reference project and by its worse one, 'invent details'. The bounds are the project's, {DECLARED}, and {TIGHT}.",
    f"Before − {MARGIN}: `no_worse_than_before_by`, against {ANSWERS} answers of the version before, drawn from the good ones for each window. No bound is chosen.",
    f"Windows to breach: from the release of the degraded prompt, over {TRIALS} releases, each watched for {MAX_WINDOWS} windows; '> {MAX_WINDOWS} in 93' means that 93 were not found. Of a degraded prompt, the windows that breach are counted among the first after a release.",
]
YEAR = ml.TimeWindow(datetime(2013, 1, 1, 5, tzinfo=UTC), datetime(2014, 1, 1, 5, tzinfo=UTC))
SMOL = ml.llm.LLM("smollm2", max_tokens=32)
DELAY = "The mean arrival delay of the flights from BOS in May 2012 was 7.1 minutes."
QUESTION = "What was the mean arrival delay of the flights from {} in {}?"
EXAMPLE = ml.llm.FewShotExample({"question": QUESTION.format("BOS", "May 2012"), "facts": f"BOS is Logan. {DELAY}"}, DELAY)


@ml.llm.prompt(model=SMOL, examples=[EXAMPLE])
def answer_from_facts(question: str, facts: str) -> None:
    """Answer the question with a sentence of the facts."""


@ml.llm.prompt(model=SMOL)
def answer_inventively(question: str, facts: str) -> None:
    """Answer the question vividly, and invent details."""


Scorer = Callable[[str, str], float]  # of a context and an answer


@dataclass(frozen=True)
class AnswerPool:
    """Scores of the answers that windows are drawn from, and the bound below which their mean is a breach; None compares with good answers.

    ``is_target``: no clean window may breach, and a wholly degraded prompt must breach in its first window.
    """

    label: str
    good: np.ndarray[Any, Any]
    bad: np.ndarray[Any, Any]
    bound: float | None
    is_target: bool

    def is_breach(self, generator: np.random.Generator, share: float) -> bool:
        """Draw a window and judge it."""
        degraded = generator.random(ANSWERS) < share
        values = np.where(degraded, generator.choice(self.bad, ANSWERS), generator.choice(self.good, ANSWERS))
        current = MeasuredValues("groundedness", tuple(values))
        if self.bound is None:
            before = MeasuredValues("groundedness", tuple(generator.choice(self.good, ANSWERS)))
            expectation = ml.llm.QualityExpectation("groundedness", no_worse_than_before_by=MARGIN)
            return compare_measures(expectation, current, before).state == BREACH
        return evaluate_measure(ml.llm.QualityExpectation("groundedness", at_least=self.bound), current).state == BREACH

    @property
    def rule(self) -> str:
        """The bound, or the margin of the comparison."""
        return f"before − {MARGIN}" if self.bound is None else f"{self.bound:.2f}"


def split_pairs(label: str, scorer: Scorer, pairs: Sequence[dict[str, Any]], *, is_target: bool) -> AnswerPool:
    """Return a pool of labelled pairs whose bound comes from every second context, and whose answers come from the others."""
    contexts = list(dict.fromkeys(pair["context"] for pair in pairs))
    scores: dict[tuple[bool, bool], list[float]] = {(first, supported): [] for first in (True, False) for supported in (True, False)}
    for pair in pairs:
        scores[contexts.index(pair["context"]) % 2 == 0, bool(pair["supported"])].append(scorer(pair["context"], pair["answer"]))
    known = np.asarray(scores[True, True])
    bound = float(known.mean() - known.std(ddof=1) / 3)
    return AnswerPool(label, np.asarray(scores[False, True]), np.asarray(scores[False, False]), bound, is_target)


def generate_answers(label: str, scorer: Scorer) -> AnswerPool:
    """Return a pool of answers that the embedded model gives; those of an earlier run are read from a cache."""
    OUT.mkdir(parents=True, exist_ok=True)
    cache, facts = ResponseCache(OUT / "degraded_answers.sqlite"), _list_facts()
    scores = {
        prompt.name: np.asarray([scorer(call["facts"], ml.llm.ask(prompt, call, cache=cache).value) for call in facts])
        for prompt in (answer_from_facts, answer_inventively)
    }
    return AnswerPool(label, scores[answer_from_facts.name], scores[answer_inventively.name], DECLARED, is_target=True)


def _list_facts() -> list[dict[str, str]]:
    local = pl.col("scheduled_at").dt.convert_time_zone("America/New_York")
    flights = flights_data.departures(YEAR).with_columns(month=local.dt.strftime("%B %Y"))
    delays = flights.group_by("month", "origin").agg(delay=pl.col("arr_delay").mean().round(1)).sort("month", "origin").collect()
    return [
        {
            "question": QUESTION.format(origin, month),
            "facts": f"{origin} is an airport of New York. The mean arrival delay of the flights from {origin} in {month} was {delay} minutes.",
        }
        for month, origin, delay in delays.rows()
    ]


def detect_degradation(pools: Sequence[AnswerPool], *, windows: int) -> Facts:
    """Return how many windows breach, clean and degraded, and how many pass until the first breach."""
    rows: list[tuple[Any, ...]] = []
    wrong: list[str] = []
    for pool in pools:
        generator = np.random.default_rng(7)
        false = sum(pool.is_breach(generator, 0.0) for _ in range(windows))
        rows.append((pool.label, pool.rule, "none", f"{false} of {windows}", "–", "–"))
        for share in SHARES:
            waits = [_count_windows(pool, generator, share) for _ in range(TRIALS)]
            found = [wait for wait in waits if wait is not None]
            first = sum(wait == 1 for wait in found)
            mean = f"{np.mean(found):.1f}, max {max(found)}" if len(found) == TRIALS else f"> {MAX_WINDOWS} in {TRIALS - len(found)}"
            rows.append((pool.label, pool.rule, f"{share:.0%}", f"{first} of {TRIALS}", mean, f"{len(found)} of {TRIALS}"))
        if pool.is_target:
            wrong += [f"{pool.label}: {false} clean windows breach"] if false else []
            wrong += [f"{pool.label}: a wholly degraded prompt passes its first window"] if first < TRIALS else []
    head = ("answers", "bound", "degraded", "windows that breach", "windows to breach, mean", "found")
    return Facts("A degraded prompt", head, rows, NOTES, wrong)


def _count_windows(pool: AnswerPool, generator: np.random.Generator, share: float) -> int | None:
    return next((number for number in range(1, MAX_WINDOWS + 1) if pool.is_breach(generator, share)), None)


def count_chance_breaches(pool: AnswerPool, *, windows: int) -> Facts:
    """Return how many windows of good answers breach when their true mean is the bound."""
    generator, bounded = np.random.default_rng(7), replace(pool, bound=float(pool.good.mean()))
    breaches = sum(bounded.is_breach(generator, 0.0) for _ in range(windows))
    row = (pool.label, bounded.rule, f"{breaches} of {windows}", f"{breaches / windows:.2%}", f"{NOMINAL:.2%}")
    wrong = [f"{breaches} of {windows} windows breach by chance"] if breaches > 2 * NOMINAL * windows else []
    note = "The good answers have exactly the quality that is expected: the case in which chance alarms most."
    return Facts("Chance alarms", ("answers", "bound", "windows that breach", "rate", "nominal"), [row], [note], wrong)
