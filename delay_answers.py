"""The LLM part of the reference project: answers to questions on delays, from facts of the lake.

A small model runs on this machine. ``DELAY_PROMPT=inventive`` declares a worse prompt, to see its gate refuse it.
"""

import os
from datetime import UTC, datetime

import polars as pl

import flights_data
import mlops_assets as ml

FIRST_QUARTER = ml.TimeWindow(datetime(2013, 1, 1, 5, tzinfo=UTC), datetime(2013, 4, 1, 4, tzinfo=UTC))
SMOL = ml.llm.LLM("smollm2", max_tokens=32)


@ml.dataset(key=("month", "origin"))
def monthly_delays() -> pl.LazyFrame:
    """Flights of the first quarter by month and airport: what share arrived late, and the mean delay."""
    local = pl.col("scheduled_at").dt.convert_time_zone("America/New_York")
    flights = flights_data.departures(FIRST_QUARTER).with_columns(month=local.dt.strftime("%B %Y"))
    late = (100 * (pl.col("arr_delay") > 15).mean()).round(0).cast(pl.Int64)
    delay = pl.col("arr_delay").mean().round(1)
    return flights.group_by("month", "origin").agg(late_percent=late, mean_delay=delay).sort("month", "origin")


@ml.dataset(key="code")
def airport_texts() -> pl.DataFrame:
    """A sentence on each of the three airports, from the table of airports."""
    return flights_data.airports(["EWR", "JFK", "LGA"]).select("code", text=pl.format("{} is {}.", "code", "name"))


@ml.dataset(key="case")
def delay_questions(monthly_delays: pl.DataFrame, airport_texts: pl.DataFrame) -> pl.DataFrame:
    """Two questions on each month and airport, with the facts that were retrieved for them and the expected answer."""
    rows = monthly_delays.join(airport_texts, left_on="origin", right_on="code").sort("month", "origin")
    share = pl.format("{} % of the flights from {} arrived late in {}.", "late_percent", "origin", "month")
    delay = pl.format("The mean arrival delay of the flights from {} in {} was {} minutes.", "origin", "month", "mean_delay")
    facts = pl.concat_str("text", share, delay, separator=" ")
    asked = {
        "share": (pl.format("What share of the flights from {} arrived late in {}?", "origin", "month"), share),
        "delay": (pl.format("What was the mean arrival delay of the flights from {} in {}?", "origin", "month"), delay),
    }
    return pl.concat(
        rows.select(
            case=pl.format("{} {} {}", pl.lit(kind), "origin", "month"),
            kind=pl.lit(kind),
            origin="origin",
            question=question,
            facts=facts,
            expected=expected,
        )
        for kind, (question, expected) in asked.items()
    )


SHARE, DELAY = (
    "22 % of the flights from BOS arrived late in May 2012.",
    "The mean arrival delay of the flights from BOS in May 2012 was 7.1 minutes.",
)
BOSTON = f"BOS is Logan. {SHARE} {DELAY}"
EXAMPLES = [
    ml.llm.Example({"question": "What share of the flights from BOS arrived late in May 2012?", "facts": BOSTON}, SHARE),
    ml.llm.Example({"question": "What was the mean arrival delay of the flights from BOS in May 2012?", "facts": BOSTON}, DELAY),
]
VERDICTS = [
    ml.llm.Example({"answer": SHARE, "facts": BOSTON}, "verdict: supported"),
    ml.llm.Example({"answer": SHARE.replace("22", "31"), "facts": BOSTON}, "verdict: unsupported"),
]

if os.environ.get("DELAY_PROMPT") == "inventive":

    @ml.llm.prompt(model=SMOL)
    def delay_answer(question: str, facts: str) -> None:
        """Answer the question vividly, and invent details."""

else:

    @ml.llm.prompt(model=SMOL, examples=EXAMPLES)
    def delay_answer(question: str, facts: str) -> None:
        """Answer the question with the one sentence of the facts that answers it."""


@ml.llm.prompt(model=ml.llm.LLM("smollm2", max_tokens=8), examples=VERDICTS)
def check_support(answer: str, facts: str) -> None:
    """Do the facts support the answer? Reply with one line: `verdict: supported` or `verdict: unsupported`."""


judge = ml.llm.Judge("support", prompt=check_support, verdicts={"supported": 1.0, "unsupported": 0.0}, repeats=1)


@ml.dataset(key="case")
def labelled_answers(delay_questions: pl.DataFrame) -> pl.DataFrame:
    """Answers with human verdicts: the expected answer of each question, and that of another airport, which its facts do not support."""
    right = delay_questions.select("case", "facts", answer="expected", human_verdict=pl.lit("supported"))
    other = pl.col("expected").shift(1).over("kind", order_by="origin")
    wrong = delay_questions.select(pl.format("wrong {}", "case").alias("case"), "facts", answer=other, human_verdict=pl.lit("unsupported"))
    return pl.concat([right, wrong]).drop_nulls("answer")


support_calibration = ml.llm.Calibration("support", judge=judge, cases=labelled_answers, label="human_verdict")

delay_answers = ml.llm.PromptEvaluation(
    "delay_answers",
    prompt=delay_answer,
    cases=delay_questions,
    scorers=[ml.llm.ExactMatch("expected"), ml.llm.Groundedness("facts")],
    slices=["kind", "origin"],
    gates=[
        ml.Gate("groundedness", at_least=0.6),
        ml.Gate("groundedness", no_worse_than_champion_by=0.05, confidence=0.95),
        ml.Gate("p95_seconds", at_most=60),
    ],
)

delay_answer_api = ml.llm.PromptService(
    "delay_answer_api",
    prompt=delay_answer,
    workers=1,
    capture=True,
    budget=ml.llm.Budget(requests_per_day=10_000),
    denied_topics={"wages": ["salary", "wage"]},
)

delay_answer_watch = ml.llm.QualityMonitor(
    "delay_answer_watch",
    of=delay_answer_api,
    context="facts",
    expectations=[ml.llm.QualityExpectation("groundedness", at_least=0.6, min_answers=10)],
    on_breach="rollback",
)

defs = ml.build_definitions(
    [
        monthly_delays,
        airport_texts,
        delay_questions,
        labelled_answers,
        delay_answer,
        delay_answers,
        check_support,
        support_calibration,
        delay_answer_api,
        delay_answer_watch,
    ],
    platform=ml.Platform.from_env(),
)
