"""The costs of an evaluation: what each answer cost when the model gave it, and what a run spends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from mlops_assets.compute.llm_evaluation.price_rows import read_prices
from mlops_assets.compute.llm_evaluation.prices import CallCost, to_amount
from mlops_assets.compute.tables.verify import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlops_assets.compute.llm_evaluation.prices import PriceTable
    from mlops_assets.orchestrate.core.step_context import StepContext
    from mlops_assets.values.llm.prompt_evaluation import PromptEvaluation
    from mlops_assets.values.llm.provider import Completion

PRICED = "priced"
_PICO = 1e12
_MAX_NAMED = 3  # answers that a check names


@dataclass(frozen=True)
class Spend:
    """The sum of known costs of some answers.

    Parameters
    ----------
    pico
        The sum, in 10⁻¹² USD.
    answers, unpriced
        All answers, and those whose cost is unknown.
    """

    pico: int = 0
    answers: int = 0
    unpriced: int = 0

    def __add__(self, other: Spend) -> Spend:
        return Spend(self.pico + other.pico, self.answers + other.answers, self.unpriced + other.unpriced)

    def __str__(self) -> str:
        return f"{'at least ' if self.unpriced else ''}{to_amount(self.pico):f} USD"

    @property
    def mean(self) -> float:
        """The mean cost in USD; NaN without answers, and when a cost is unknown."""
        return math.nan if self.unpriced or not self.answers else self.pico / self.answers / _PICO


def read_evaluation_prices(step: StepContext, evaluation: PromptEvaluation) -> PriceTable | None:
    """Return the prices of an evaluation; None when it declares none.

    Raises
    ------
    DataError
        A row of the dataset is no price.
    """
    if evaluation.prices is None:
        return None
    return read_prices(step.read(step.project.by_key[evaluation.prices.key]), evaluation.prices.key)


def find_cost(prices: PriceTable, completion: Completion) -> CallCost:
    """Return what an answer cost when the model gave it.

    Parameters
    ----------
    prices, completion
        The prices and the answer.
    """
    tokens = completion.prompt_tokens, completion.completion_tokens, completion.cached_prompt_tokens
    return prices.price_call(completion.model, completion.answered_at, *tokens)


def price_answer(prices: PriceTable, completion: Completion) -> Spend:
    """Return the cost of one answer as a sum.

    Parameters
    ----------
    prices, completion
        The prices and the answer.
    """
    cost = find_cost(prices, completion).pico
    return Spend(cost or 0, 1, int(cost is None))


def sum_answers(prices: PriceTable, completions: Iterable[Completion]) -> Spend:
    """Return the sum of the costs of answers.

    Parameters
    ----------
    prices, completions
        The prices and the answers.
    """
    return sum((price_answer(prices, completion) for completion in completions), Spend())


def list_cost_columns(
    prices: PriceTable, completions: Sequence[Completion | None]
) -> dict[str, tuple[type[pl.DataType] | pl.DataType, list[Any]]]:
    """Return the columns of costs, and of the counts and times that they are computed from.

    Parameters
    ----------
    prices
        The prices.
    completions
        The answer of each row; None where there is none.
    """
    costs = [None if found is None else find_cost(prices, found).pico for found in completions]
    return {
        "answered_at": (pl.Datetime("us", "UTC"), [found and found.answered_at for found in completions]),
        "cached_input_tokens": (pl.Int64, [found and found.cached_prompt_tokens for found in completions]),
        "cost": (pl.Float64, [None if pico is None else pico / _PICO for pico in costs]),
        "price_version": (pl.String, [prices.version] * len(completions)),
    }


def check_prices(prices: PriceTable, answers: Sequence[tuple[str, Completion | None]]) -> Outcome:
    """Return the outcome of the check that the cost of each answer is known; it keeps no rows from being committed.

    Parameters
    ----------
    prices
        The prices.
    answers
        The case of each row as text, with its answer; None where there is none.
    """
    found = [(label, completion, find_cost(prices, completion)) for label, completion in answers if completion is not None]
    unpriced = [f"case {label}: {cost.missing} ('{completion.model}')" for label, completion, cost in found if cost.pico is None]
    named = "; ".join(unpriced[:_MAX_NAMED]) + ("; …" if len(unpriced) > _MAX_NAMED else "")
    return Outcome(
        PRICED,
        passed=not unpriced,
        message=f"the cost of {len(unpriced)} of {len(found)} answers is unknown: {named}",
        hint="add the price of the model, from a time before its answers; 0 for a model that is free",
        blocking=False,
        serious=True,
        facts={"answers without cost": len(unpriced), "price version": prices.version},
    )


def describe_costs(prices: PriceTable, answers: Sequence[Completion], verdicts: Sequence[Completion]) -> dict[str, Any]:
    """Return costs as metadata: of all answers when they were given, and of what this run has asked.

    Parameters
    ----------
    prices, answers, verdicts
        The prices, the answers of the prompt, and the replies of judges.
    """
    total, spent = sum_answers(prices, answers), sum_answers(prices, (one for one in (*answers, *verdicts) if not one.cached))
    mean = {} if math.isnan(total.mean) else {"mean cost per request (USD)": dg.MetadataValue.float(total.mean)}
    return {"total cost": str(total), **mean, "spent by this run": str(spent), "price version": prices.version}
