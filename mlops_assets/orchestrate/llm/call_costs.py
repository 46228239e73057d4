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
    from mlops_assets.serving.llm.ask_many import CallRecord
    from mlops_assets.values.llm.prompt_evaluation import PromptEvaluation
    from mlops_assets.values.llm.provider import Completion

PRICED = "priced"
_PICO = 1e12
_MAX_NAMED = 3  # answers that a check names


@dataclass(frozen=True)
class Spend:
    """The sum of known costs of some calls.

    Parameters
    ----------
    pico
        The sum, in 10⁻¹² USD.
    answers
        The answers.
    unpriced
        The answers whose cost is unknown, and the failed requests that the provider may have billed.
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
        A row of the dataset is not a valid price.
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


def price_call(prices: PriceTable, call: CallRecord) -> Spend:
    """Return the cost of a call: that of its answer, cached or not, and of failed requests that may have been billed, whose cost is unknown.

    Parameters
    ----------
    prices, call
        The prices and the call.
    """
    if call.completion is None:
        return Spend(unpriced=call.may_be_billed)
    cost = find_cost(prices, call.completion).pico
    return Spend(cost or 0, 1, int(cost is None) + call.may_be_billed)


def price_requests(prices: PriceTable, call: CallRecord) -> Spend:
    """Return what a call costs in this run: as :func:`price_call`, but a cached answer costs nothing.

    Parameters
    ----------
    prices, call
        The prices and the call.
    """
    is_cached = call.completion is not None and call.completion.cached
    return Spend(unpriced=call.may_be_billed) if is_cached else price_call(prices, call)


def sum_calls(prices: PriceTable, calls: Iterable[CallRecord]) -> Spend:
    """Return the sum of the costs of calls.

    Parameters
    ----------
    prices, calls
        The prices and the calls.
    """
    return sum((price_call(prices, call) for call in calls), Spend())


def list_cost_columns(prices: PriceTable, calls: Sequence[CallRecord]) -> dict[str, tuple[type[pl.DataType] | pl.DataType, list[Any]]]:
    """Return the columns of costs, and of the counts and times that they are computed from.

    Parameters
    ----------
    prices, calls
        The prices, and the call of each row.
    """
    completions, costs = [call.completion for call in calls], [price_call(prices, call) for call in calls]
    return {
        "answered_at": (pl.Datetime("us", "UTC"), [found and found.answered_at for found in completions]),
        "cached_input_tokens": (pl.Int64, [found and found.cached_prompt_tokens for found in completions]),
        "may_be_billed": (pl.Int64, [call.may_be_billed for call in calls]),
        "cost": (pl.Float64, [cost.pico / _PICO if cost.answers and not cost.unpriced else None for cost in costs]),
        "price_version": (pl.String, [prices.version] * len(calls)),
    }


def check_prices(prices: PriceTable, calls: Sequence[tuple[str, CallRecord]]) -> Outcome:
    """Return the outcome of the check that the cost of each call is known; a failure does not block the commit of rows.

    Parameters
    ----------
    prices
        The prices.
    calls
        The case of each row as text, with its call.
    """
    found = [(label, call) for label, call in calls if call.completion is not None or call.may_be_billed]
    unpriced = [f"case {label}: {reason}" for label, call in found if (reason := _explain_unpriced(prices, call))]
    named = "; ".join(unpriced[:_MAX_NAMED]) + ("; …" if len(unpriced) > _MAX_NAMED else "")
    return Outcome(
        PRICED,
        passed=not unpriced,
        message=f"the cost of {len(unpriced)} of {len(found)} calls is unknown: {named}",
        hint="add the model's price, valid from before its answers (0 for a free model); after failed requests, run again",
        blocking=False,
        serious=True,
        facts={"calls without cost": len(unpriced), "price version": prices.version},
    )


def _explain_unpriced(prices: PriceTable, call: CallRecord) -> str:
    """Return why the cost of a call is unknown; empty when it is known."""
    if call.may_be_billed:
        return f"{call.may_be_billed} failed request(s) may have been billed"
    missing = None if call.completion is None else find_cost(prices, call.completion).missing
    return f"{missing} ('{call.completion.model}')" if missing and call.completion else ""


def describe_costs(prices: PriceTable, answers: Sequence[CallRecord], others: Sequence[CallRecord]) -> dict[str, Any]:
    """Return costs as metadata: what all answers cost when the model gave them, and what this run has spent.

    Parameters
    ----------
    prices, answers, others
        The prices, the calls of the prompt, and the other calls of this run: those of judges, and of production.
    """
    total, spent = sum_calls(prices, answers), sum((price_requests(prices, call) for call in (*answers, *others)), Spend())
    mean = {} if math.isnan(total.mean) else {"mean cost per request (USD)": dg.MetadataValue.float(total.mean)}
    return {"total cost": str(total), **mean, "spent by this run": str(spent), "price version": prices.version}
