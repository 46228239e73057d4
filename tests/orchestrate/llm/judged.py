"""A project whose evaluation has a judge, with the judge's calibration, on any two endpoints."""

import json

import polars as pl

import mlops_assets as ml
from tests.orchestrate.llm.replies import ROWS, declare
from tests.serving.llm.scripted_server import Exchange, Step, answer

CALIBRATION = "calibration/support"
JUDGED_ROWS = ROWS | {"context": [f"JFK: {number} minutes." for number in range(6)]}  # an answer in another context is judged again
RUBRIC = "Does the context support the answer? Reply with one line: `verdict: supported` or `verdict: unsupported`."
VERDICTS = {"supported": 1.0, "unsupported": 0.0}


def check_support(answer: str, context: str) -> None:
    """The docstring that a test declares."""


def declare_judge(
    url: str, repeats: int = 3, verdicts=VERDICTS, rubric: str = "", function=check_support, response=None, **model
) -> ml.llm.Judge:
    """Return a judge; ``model`` are arguments of its language model."""
    function.__doc__ = rubric or RUBRIC
    llm = ml.llm.LLM("large", base_url=url, **({"retries": 0, "concurrency": 1} | model))
    prompt = ml.llm.prompt(model=llm, response=response)(function)
    return ml.llm.Judge("support", prompt=prompt, verdicts=verdicts, repeats=repeats)


def declare_judged(url: str, judge_url: str, rows=None, **judge) -> list:
    """Return the dataset, the prompt and the evaluation with a judge of each answer."""
    scorers = [ml.llm.ExactMatch("expected"), declare_judge(judge_url, **judge)]
    return declare(url, JUDGED_ROWS if rows is None else rows, scorers=scorers)


def label_answers(count: int = 40) -> dict[str, list[str]]:
    """Return labelled answers: every second one is supported, and contains the word "late"."""
    kinds = ["supported" if number % 2 else "unsupported" for number in range(count)]
    return {
        "case": [f"label {number}" for number in range(count)],
        "answer": ["late" if kind == "supported" else "on time" for kind in kinds],
        "context": [f"JFK: {number} minutes late." for number in range(count)],
        "human_verdict": kinds,
    }


def declare_calibration(judge: ml.llm.Judge, rows=None, **more) -> list:
    """Return the dataset of labelled answers and the calibration of a judge."""
    frame = pl.DataFrame(label_answers() if rows is None else rows)

    @ml.dataset(key="case")
    def labelled_answers() -> pl.DataFrame:
        return frame

    arguments = {"cases": labelled_answers, "label": "human_verdict"} | more
    return [labelled_answers, ml.llm.Calibration("support", judge=judge, **arguments)]


def judge_well() -> Step:
    """Reply with the verdict that the labels of :func:`label_answers` give."""

    def play(exchange: Exchange) -> None:
        late = "<answer>\nlate\n" in json.loads(json.dumps(exchange.seen.body))["messages"][-1]["content"]
        answer(f"verdict: {'supported' if late else 'unsupported'}")(exchange)

    return play
