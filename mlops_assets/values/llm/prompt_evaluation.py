"""The evaluation of a prompt: its cases, its scorers, and the maximum share of errors."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import DefinitionError, suggest_name
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.gates.gate import GATE_MEMBERS, Gate, needs_costs
from mlops_assets.values.llm.judge import Judge
from mlops_assets.values.llm.pairwise_judge import PairwiseJudge
from mlops_assets.values.llm.scorers import SCORERS
from mlops_assets.values.names import validate_name
from mlops_assets.values.options import AssetArguments, AssetOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_assets.values.dataset import Dataset, ExternalDataset
    from mlops_assets.values.gates.gate import GateLike
    from mlops_assets.values.llm.prompt import Prompt
    from mlops_assets.values.llm.scorers import PlainScorer, Scorer

# What an evaluation measures besides its scorers; less is better.
LATENCY_METRICS = {  # metric → its measurement, and the percentile
    "p50_seconds": ("seconds", 0.5),
    "p95_seconds": ("seconds", 0.95),
    "p50_seconds_to_first_token": ("seconds_to_first_token", 0.5),
    "p95_seconds_to_first_token": ("seconds_to_first_token", 0.95),
}
OPERATIONAL_METRICS = ("error_rate", *LATENCY_METRICS, "cost_per_request")
COMPLETE = "complete"  # the check on the error rate, which is a gate too
RESERVED_CHECKS = (COMPLETE, "key", "priced", "token_counts")
# The columns of an evaluation's table apart from the key, the slices and the scores.
EVALUATION_COLUMNS = {
    "answer": "The text of the model; null when no model answered.",
    "error": "Why the answer or a score is missing; null when nothing is.",
    "model": "The model that answered: that of the prompt, or one of its fallbacks.",
    "prompt_version": "The version of the prompt.",
    "cached": "Whether the answer comes from the response cache.",
    "input_tokens": "Tokens of the prompt, as the endpoint reports them.",
    "output_tokens": "Tokens of the answer, as the endpoint reports them.",
    "endpoint": "The address that answered; the durations are those of its answer.",
    "seconds": "Duration of the call; null for a stored answer of another endpoint.",
    "seconds_to_first_token": "Seconds until the first text of a stream; null when the answer came in one piece.",
}
# Its further columns with prices: from them and the prices, each cost can be computed again.
COST_COLUMNS = {
    "answered_at": "When the model answered; of a cached answer, when it was stored.",
    "cached_input_tokens": "Tokens of the prompt that the provider read from its own cache, as the endpoint reports them.",
    "may_be_billed": "How many failed requests of this call the provider may have billed; their cost is unknown.",
    "cost": "What the answer cost in USD when the model gave it, also of a cached answer; null when it is unknown.",
    "price_version": "The version of the prices.",
}


@check_constructor
@dataclass(frozen=True, init=False)
class PromptEvaluation:
    """The answers of a prompt to the cases of a dataset, with their scores.

    A failed call, or a score that cannot be computed, is recorded as an error of the case, and never as a score of 0.

    Parameters
    ----------
    name
        Names the asset ``evaluation/<name>_evaluation`` and the lake table ``evaluation/<name>``.
    prompt
        The prompt to evaluate.
    cases
        The dataset of cases. It has a key, a column for each variable of the prompt, and the columns that the scorers read.
    scorers
        The scorers of each answer; each adds a column to the table.
    slices
        Columns of the cases; scores are reported for each of their values.
    max_error_rate
        The maximum share of cases with an error. Above it, the check ``complete`` fails, and no version is registered.
    gates
        The gates that the prompt must pass before a version of it is registered: :class:`mlops_assets.Gate` on the name of a scorer, or
        with ``at_most`` on ``error_rate``, ``cost_per_request``, ``p50_seconds`` or ``p95_seconds``, or on ``p50_seconds_to_first_token``
        or ``p95_seconds_to_first_token``. A failed call counts as slower than every other one. With a gate on durations, a cached answer of
        another endpoint is requested again, and evidence counts only for the endpoints that gave it.
    prices
        The dataset of prices in USD per million tokens, with the columns ``model``, ``valid_from``, ``input_price``, ``output_price`` and
        optionally ``cached_price``. The table then has the cost of each answer, and the check ``priced`` fails when a cost is unknown.
    stream
        Whether answers are requested as streams, which measures the time to the first token. An endpoint may reply in one piece all the
        same; that time is then null. False is for an endpoint that refuses such requests.
    **options
        Passed to Dagster, as in :func:`mlops_assets.dataset`.

    Raises
    ------
    DefinitionError
        The dataset has no key, there is no scorer, a scorer is a plain function, the table would have two columns of one name,
        ``max_error_rate`` is not from 0 to 1, or a gate reads something that the evaluation does not measure.

    See Also
    --------
    prompt : Declares a prompt.
    scorer : Declares a scorer.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> import polars as pl
    >>> @ml.dataset(key="case")
    ... def delay_questions() -> pl.DataFrame:
    ...     return pl.DataFrame({"case": ["jfk"], "question": ["Is JFK late?"], "context": ["JFK: 15 min"], "expected": ["yes"]})
    >>> @ml.llm.prompt(model=ml.llm.LLM("smollm2", base_url="http://127.0.0.1:8080/v1"))
    ... def answer_question(question: str, context: str) -> None:
    ...     '''Answer the question from the context alone.'''
    >>> answers = ml.llm.PromptEvaluation(
    ...     "delay_answers",
    ...     prompt=answer_question,
    ...     cases=delay_questions,
    ...     scorers=[ml.llm.ExactMatch("expected"), ml.llm.Groundedness(context="context")],
    ...     gates=[ml.Gate("groundedness", at_least=0.8), ml.Gate("p95_seconds", at_most=2)],
    ... )
    >>> answers.key
    'evaluation/delay_answers'
    """

    name: str
    prompt: Prompt[..., Any]
    cases: Dataset[..., Any] | ExternalDataset
    scorers: tuple[Scorer, ...]
    slices: tuple[str, ...]
    max_error_rate: float
    gates: tuple[GateLike, ...]
    prices: Dataset[..., Any] | ExternalDataset | None
    stream: bool
    options: AssetOptions = field(default=AssetOptions(), compare=False)

    def __init__(  # noqa: PLR0913  (a flat declaration reads best)
        self,
        name: str,
        *,
        prompt: Prompt[..., Any],
        cases: Dataset[..., Any] | ExternalDataset,
        scorers: Sequence[Scorer],
        slices: Sequence[str] = (),
        max_error_rate: float = 0.0,
        gates: Sequence[GateLike] = (),
        prices: Dataset[..., Any] | ExternalDataset | None = None,
        stream: bool = True,
        **options: object,
    ) -> None:
        values = {
            "name": validate_name(name, "an evaluation"),
            "prompt": prompt,
            "cases": cases,
            "scorers": tuple(scorers),
            "slices": (slices,) if isinstance(slices, str) else tuple(slices),
            "max_error_rate": float(max_error_rate),
            "gates": tuple(gates),
            "prices": prices,
            "stream": stream,
            "options": AssetOptions.from_arguments(AssetArguments(**options)),  # type: ignore[typeddict-item]
        }
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)
        self._check()

    @property
    def key(self) -> str:
        """``evaluation/<name>``: the table of the answers and their scores."""
        return f"evaluation/{self.name}"

    @property
    def case_key(self) -> tuple[str, ...]:
        """The columns that identify a case."""
        return self.cases.table.key

    @property
    def judges(self) -> tuple[Judge | PairwiseJudge, ...]:
        """The scorers that ask a language model."""
        return tuple(scorer for scorer in self.scorers if isinstance(scorer, Judge | PairwiseJudge))

    @property
    def pairwise_judges(self) -> tuple[PairwiseJudge, ...]:
        """The scorers that compare each answer with that of the version in production."""
        return tuple(scorer for scorer in self.scorers if isinstance(scorer, PairwiseJudge))

    @property
    def plain_scorers(self) -> tuple[PlainScorer, ...]:
        """The scorers that ask no language model."""
        return tuple(scorer for scorer in self.scorers if not isinstance(scorer, Judge | PairwiseJudge))

    def compares(self, gate: GateLike) -> bool:
        """Return whether a gate compares with production: a relative gate, and one on the win rate of a pairwise judge.

        Parameters
        ----------
        gate
            One of the gates.
        """
        return gate.relative or (isinstance(gate, Gate) and gate.metric in {judge.name for judge in self.pairwise_judges})

    @property
    def limits_latency(self) -> bool:
        """Whether a gate reads durations."""
        return bool(self.limited_durations)

    @property
    def limited_durations(self) -> set[str]:
        """The durations of a call that gates read: ``seconds``, ``seconds_to_first_token``."""
        metrics = (gate.metric for gate in self.gates if isinstance(gate, Gate))
        return {LATENCY_METRICS[metric][0] for metric in metrics if metric in LATENCY_METRICS}

    @property
    def described_columns(self) -> dict[str, str]:
        """Column of the table apart from the key, the slices and the scores → description."""
        judged = {column: text for judge in self.judges for column, text in judge.verdict_columns.items()}
        return EVALUATION_COLUMNS | (COST_COLUMNS if self.prices else {}) | judged

    @property
    def required_columns(self) -> dict[str, str]:
        """Required column of the cases → the declaration that needs it."""
        variables = {v.name: f"the variable '{v.name}' of '{self.prompt.key}'" for v in self.prompt.variables if v.is_required}
        scored = {column: f"the scorer '{scorer.name}'" for scorer in self.scorers for column in scorer.columns}
        return {**dict.fromkeys(self.slices, "slices="), **scored, **variables, **dict.fromkeys(self.case_key, "the key")}

    def _check(self) -> None:
        where = f"the evaluation '{self.name}'"
        if not self.case_key:
            raise DefinitionError(
                f"{where} has cases of '{self.cases.key}', which has no key",
                hint=f"set key= of '{self.cases.name}' to the columns that identify a case",
            )
        if not self.scorers:
            raise DefinitionError(f"{where} has no scorer", hint='give one, e.g. scorers=[ml.llm.ExactMatch("expected")]')
        for scorer in self.scorers:
            if not isinstance(scorer, SCORERS):
                raise DefinitionError(
                    f"{where} was given {getattr(scorer, '__name__', scorer)!r} as a scorer",
                    hint="write @ml.llm.scorer above a function; the others are values such as ml.llm.ExactMatch",
                )
            validate_name(scorer.name, "a scorer")
        if not 0 <= self.max_error_rate <= 1:
            raise DefinitionError(f"{where}: max_error_rate={self.max_error_rate} is invalid", hint="give a share from 0 to 1")
        self._check_table_columns(where)
        check_gates(self, where)

    def _check_table_columns(self, where: str) -> None:
        """Refuse two columns of one name in the table of the evaluation."""
        carried = dict.fromkeys((*self.case_key, *self.slices))
        judged = (column for judge in self.judges for column in judge.verdict_columns)
        counts = Counter(
            (*carried, *EVALUATION_COLUMNS, *(COST_COLUMNS if self.prices else ()), *judged, *(scorer.name for scorer in self.scorers))
        )
        name, count = counts.most_common(1)[0]
        if count > 1:
            raise DefinitionError(
                f"{where} has two columns named '{name}' in its table",
                hint="give the scorer another name=, or rename the column of the cases",
            )


def check_gates(evaluation: PromptEvaluation, where: str) -> None:
    """Raise DefinitionError for an object that is not a gate, a repeated gate name, and a gate on something that is not measured.

    Parameters
    ----------
    evaluation
        The evaluation.
    where
        A description of the evaluation for error messages.
    """
    measured = {*(scorer.name for scorer in evaluation.scorers), *OPERATIONAL_METRICS}
    names = Counter([*RESERVED_CHECKS, *(getattr(gate, "name", "") for gate in evaluation.gates)])
    for gate in evaluation.gates:
        if not all(hasattr(gate, member) for member in GATE_MEMBERS):
            raise DefinitionError(f"{where} was given {gate!r} as a gate", hint='give e.g. ml.Gate("groundedness", at_least=0.8)')
        if names[gate.name] > 1:
            raise DefinitionError(f"{where} has two checks named '{gate.name}'", hint="drop one of the gates, or give it another rule")
        if needs_costs(gate):
            raise DefinitionError(
                f"{where}: the gate '{gate.name}' measures models, not prompts",
                hint='limit a prompt with ml.Gate("p95_seconds", at_most=2)',
            )
        if isinstance(gate, Gate):
            _check_gate(gate, measured, evaluation.slices, where)
            if evaluation.compares(gate) and not gate.relative and gate.rule != "at_least":
                raise DefinitionError(
                    f"{where}: a gate on the win rate '{gate.metric}' cannot use {gate.rule}=",
                    hint="a higher win rate is better: give at_least=",
                )
            if gate.relative and gate.metric in {judge.name for judge in evaluation.pairwise_judges}:
                raise DefinitionError(
                    f"{where}: a gate on the win rate '{gate.metric}' cannot use {gate.rule}=, because a win rate compares with production already",
                    hint="give at_least=0.5",
                )


def _check_gate(gate: Gate, measured: set[str], slices: tuple[str, ...], where: str) -> None:
    if gate.metric not in measured:
        raise DefinitionError(
            f"{where} has a gate on '{gate.metric}', which is not measured",
            hint=suggest_name(gate.metric, sorted(measured)) + f"it measures {', '.join(sorted(measured))}",
        )
    if gate.metric in OPERATIONAL_METRICS and not gate.is_maximum:
        raise DefinitionError(
            f"{where}: a gate on '{gate.metric}' cannot use {gate.rule}=", hint="for this metric, lower is better: give at_most="
        )
    if gate.slice_column and gate.slice_column not in slices:
        raise DefinitionError(
            f"{where} has a gate on the slice '{gate.slice_column}', which is not measured", hint=f"add '{gate.slice_column}' to slices="
        )
