"""A project with one prompt and its evaluation, on any endpoint."""

import polars as pl

import mlops_assets as ml

ROWS = {
    "case": [f"case {number}" for number in range(6)],
    "question": [f"Question {number}?" for number in range(6)],
    "context": ["JFK: 15 minutes."] * 6,
    "expected": ["yes"] * 4 + ["no"] * 2,
    "airline": ["AA", "AA", "AA", "UA", "UA", "UA"],
}
TABLE = "evaluation/replies"
_MODEL_ARGUMENTS = ("api_key_env", "concurrency", "timeout", "retries", "max_bytes", "fallbacks")


def reply(question: str, context: str, sentences: int = 1) -> None:
    """Answer the question from the context alone."""


@ml.llm.scorer
def is_short(answer: str, expected: str) -> float:
    return float(len(answer) <= len(expected))


def declare(url: str, rows=None, instructions: str = "", function=reply, response=None, **more) -> list:
    """Return the dataset, the prompt and the evaluation; ``more`` are arguments of the model and of the evaluation."""
    frame = pl.DataFrame(ROWS if rows is None else rows)

    @ml.dataset(key="case")
    def questions() -> pl.DataFrame:
        return frame

    function.__doc__ = instructions or "Answer the question from the context alone."
    model = {"retries": 0, "concurrency": 1} | {name: more.pop(name) for name in _MODEL_ARGUMENTS if name in more}
    prompt = ml.llm.prompt(model=ml.llm.LLM("tiny", base_url=url, **model), response=response)(function)
    arguments = {"scorers": [ml.llm.ExactMatch("expected"), is_short], "slices": ["airline"]} | more
    return [questions, prompt, ml.llm.PromptEvaluation("replies", prompt=prompt, cases=questions, **arguments)]
