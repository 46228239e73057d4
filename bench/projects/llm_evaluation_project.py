"""A prompt and its evaluation, on the endpoint of ``BENCH_CHAT_URL``: a project for ``mlops run``."""

import os

import polars as pl

import mlops_assets as ml
from bench.projects.llm_work import CASES, CONCURRENCY


@ml.dataset(key="case")
def questions() -> pl.DataFrame:
    """Questions with the expected answer."""
    numbers = range(CASES)
    return pl.DataFrame({"case": numbers, "question": [f"Is flight {number} late?" for number in numbers], "expected": ["yes"] * CASES})


@ml.llm.prompt(model=ml.llm.LLM("instant", base_url=os.environ["BENCH_CHAT_URL"], concurrency=CONCURRENCY))
def reply(question: str) -> None:
    """Answer the question."""


replies = ml.llm.PromptEvaluation("replies", prompt=reply, cases=questions, scorers=[ml.llm.ExactMatch("expected")])

defs = ml.build_definitions([questions, reply, replies], platform=ml.Platform.from_env())
