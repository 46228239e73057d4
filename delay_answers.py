"""The LLM part of the reference project: answers to questions on delays, from facts of the lake.

A small model runs on this machine. ``DELAY_PROMPT=inventive`` declares a worse prompt, to see its gate refuse it.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

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
    """A question on each month and airport, with the facts that were retrieved for it and the expected answer."""
    rows = monthly_delays.join(airport_texts, left_on="origin", right_on="code").sort("month", "origin")
    delay = pl.format("The mean arrival delay of the flights from {} in {} was {} minutes.", "origin", "month", "mean_delay")
    return rows.select(
        case=pl.format("{} {}", "origin", "month"),
        origin="origin",
        question=pl.format("What was the mean arrival delay of the flights from {} in {}?", "origin", "month"),
        facts=pl.concat_str("text", delay, separator=" "),
        expected=delay,
    )


DELAY = "The mean arrival delay of the flights from BOS in May 2012 was 7.1 minutes."
EXAMPLE = ml.llm.FewShotExample(
    {"question": "What was the mean arrival delay of the flights from BOS in May 2012?", "facts": f"BOS is Logan. {DELAY}"}, DELAY
)

if os.environ.get("DELAY_PROMPT") == "inventive":

    @ml.llm.prompt(model=SMOL)
    def delay_answer(question: str, facts: str) -> None:
        """Answer the question vividly, and invent details."""

else:

    @ml.llm.prompt(model=SMOL, examples=[EXAMPLE])
    def delay_answer(question: str, facts: str) -> None:
        """Answer the question with a sentence of the facts."""


@dataclass
class Verdict:
    """What a judge replies."""

    verdict: Literal["supported", "unsupported"]


@ml.llm.prompt(model=SMOL, response=Verdict)
def check_support(answer: str, facts: str) -> str:
    """The text to send."""
    return f"{facts}\nIs this statement supported or unsupported? {answer}"


judge = ml.llm.Judge("support", prompt=check_support, verdicts={"supported": 1.0, "unsupported": 0.0}, repeats=1)


@ml.dataset(key="case")
def labelled_answers(monthly_delays: pl.DataFrame) -> pl.DataFrame:
    """Statements with human verdicts: those of the facts, and those of another airport, which the facts do not support."""
    share = pl.format("{} % of the flights from {} arrived late in {}.", "late_percent", "origin", "month")
    delay = pl.format("The mean arrival delay of the flights from {} in {} was {} minutes.", "origin", "month", "mean_delay")
    facts = monthly_delays.sort("origin", "month").with_columns(facts=pl.concat_str(share, delay, separator=" "))
    statements = [
        facts.select(
            case=pl.format("{} {} {} {}", pl.lit(kind), pl.lit(verdict), "origin", "month"),
            facts="facts",
            answer=statement.shift(shift),
            human_verdict=pl.lit(verdict),
        )
        for kind, statement in (("share", share), ("delay", delay))
        for verdict, shift in (("supported", 0), ("unsupported", 3))
    ]
    return pl.concat(statements).drop_nulls("answer")


support_calibration = ml.llm.Calibration("support", judge=judge, cases=labelled_answers, label="human_verdict")

delay_answers = ml.llm.PromptEvaluation(
    "delay_answers",
    prompt=delay_answer,
    cases=delay_questions,
    scorers=[ml.llm.ExactMatch("expected"), ml.llm.Groundedness("facts")],
    slices=["origin"],
    gates=[
        ml.Gate("groundedness", at_least=0.8),
        ml.Gate("groundedness", no_worse_than_champion_by=0.05),
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
    expectations=[ml.llm.QualityExpectation("groundedness", at_least=0.95, min_answers=8)],
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
