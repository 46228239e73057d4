"""The calibration of a judge: labelled answers, and the agreement with them that a judge needs before gates may use its scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.llm.answer import ANSWER
from mlops_assets.values.llm.pairwise_judge import PairwiseJudge
from mlops_assets.values.names import validate_name
from mlops_assets.values.options import AssetArguments, AssetOptions

if TYPE_CHECKING:
    from mlops_assets.values.dataset import Dataset, ExternalDataset
    from mlops_assets.values.llm.judge import Judge

# The columns of a calibration's table apart from the key.
CALIBRATION_COLUMNS = {
    "label": "The human verdict.",
    "verdict": "The verdict of the judge, or unparsable, error or timeout.",
    "agrees": "Whether the verdict is the label.",
    "repeats": "The verdict of each repeat.",
    "flip_rate": "The share of pairs of repeats that differ; null without repeats.",
    "error": "Why there is no verdict; null when there is one.",
    "judge_version": "The version of the judge.",
}
ORDER_COLUMN = {"orders": "The reply to each call: for each repeat with the answers in the order of the case, then swapped."}


@check_constructor
@dataclass(frozen=True, init=False)
class Calibration:
    """The agreement of a judge with human labels, as an asset.

    The judge gives a verdict on each labelled answer, or on each labelled pair of answers. The asset reports Cohen's kappa, true-positive
    and true-negative rate with 95 % intervals, and the flip rate over repeats. It compares them with a judge that always gives the most
    frequent label. Its check ``may_gate`` passes when the lower end of kappa's interval reaches ``min_kappa``. The check needs 30 cases,
    five of each verdict, and at most 5 % failed calls.

    The labels of a :class:`PairwiseJudge` are ``first``, ``second`` or ``tie``, and its answers are the columns ``first`` and ``second``. Its
    check also needs verdicts that do not depend on the position. The share of pairs with the same verdict in both orders has an interval
    whose lower end reaches 0.5, and neither position is preferred by more than 0.2.

    The asset reports the requests and tokens of the judge, but not their cost, because a calibration has no prices.

    A gate on the scores of a judge fails unless this version of the judge has a calibration that passes on the current labels.

    Parameters
    ----------
    name
        Names the asset ``calibration/<name>_calibration`` and the lake table ``calibration/<name>``.
    judge
        The judge.
    cases
        The dataset of labelled answers. It has a key, the columns that ``label`` and ``answer`` name, and those that the judge reads.
    label
        The column with the human verdict, which is one of the judge's verdicts.
    answer
        The column with the answer to judge; not used for a :class:`PairwiseJudge`.
    min_kappa
        The minimum of the lower end of kappa's interval, above 0 and at most 1.
    positive
        The verdict that counts as positive in the true-positive rate; the verdict with the highest score when None.
    **options
        Passed to Dagster, as in :func:`mlops_assets.dataset`.

    Raises
    ------
    DefinitionError
        The dataset has no key, ``min_kappa`` is out of range, ``positive`` is not a verdict of the judge, or a column of the key has the name
        of a column of the table.

    See Also
    --------
    Judge : Declares a judge.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> import polars as pl
    >>> @ml.dataset(key="case")
    ... def labelled_answers() -> pl.DataFrame:
    ...     return pl.DataFrame({"case": ["a"], "context": ["JFK: 9 min"], "answer": ["9 min"], "human_verdict": ["supported"]})
    >>> @ml.llm.prompt(model=ml.llm.LLM("large", base_url="http://127.0.0.1:8080/v1"))
    ... def check_support(answer: str, context: str) -> None:
    ...     '''Does the context support the answer? Reply with one line: `verdict: supported` or `verdict: unsupported`.'''
    >>> judge = ml.llm.Judge("support", prompt=check_support, verdicts={"supported": 1.0, "unsupported": 0.0})
    >>> ml.llm.Calibration("support", judge=judge, cases=labelled_answers, label="human_verdict").key
    'calibration/support'
    """

    name: str
    judge: Judge | PairwiseJudge
    cases: Dataset[..., Any] | ExternalDataset
    label: str
    answer: str
    min_kappa: float
    positive: str
    options: AssetOptions = field(default=AssetOptions(), compare=False)

    def __init__(  # noqa: PLR0913  (a flat declaration reads best)
        self,
        name: str,
        *,
        judge: Judge | PairwiseJudge,
        cases: Dataset[..., Any] | ExternalDataset,
        label: str,
        answer: str = ANSWER,
        min_kappa: float = 0.6,
        positive: str | None = None,
        **options: object,
    ) -> None:
        values = {
            "name": validate_name(name, "a calibration"),
            "judge": judge,
            "cases": cases,
            "label": label,
            "answer": answer,
            "min_kappa": float(min_kappa),
            "positive": judge.best_verdict if positive is None else positive,
            "options": AssetOptions.from_arguments(AssetArguments(**options)),  # type: ignore[typeddict-item]
        }
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)
        self._check()

    @property
    def key(self) -> str:
        """``calibration/<name>``: the table of the labelled answers and the judge's verdicts."""
        return f"calibration/{self.name}"

    @property
    def case_key(self) -> tuple[str, ...]:
        """The columns that identify a case."""
        return self.cases.table.key

    @property
    def described_columns(self) -> dict[str, str]:
        """Column of the table apart from the key → description."""
        return CALIBRATION_COLUMNS | (ORDER_COLUMN if isinstance(self.judge, PairwiseJudge) else {})

    @property
    def answers(self) -> tuple[str, ...]:
        """The columns of the cases that hold answers."""
        return self.judge.answers if isinstance(self.judge, PairwiseJudge) else (self.answer,)

    @property
    def required_columns(self) -> dict[str, str]:
        """Column of the cases that must be present → what needs it."""
        judged = dict.fromkeys(self.judge.columns, f"the judge '{self.judge.name}'")
        answers = dict.fromkeys(self.answers, f"the judge '{self.judge.name}'" if isinstance(self.judge, PairwiseJudge) else "answer=")
        return {**judged, self.label: "label=", **answers, **dict.fromkeys(self.case_key, "the key")}

    def _check(self) -> None:
        where = f"the calibration '{self.name}'"
        if not self.case_key:
            raise DefinitionError(
                f"{where} has cases of '{self.cases.key}', which has no key",
                hint=f"set key= of '{self.cases.name}' to the columns that identify a case",
            )
        if not 0 < self.min_kappa <= 1:
            raise DefinitionError(
                f"{where}: min_kappa={self.min_kappa} is invalid", hint="give a number above 0, the kappa of a constant judge, up to 1"
            )
        if self.positive not in self.judge.allowed:
            raise DefinitionError(f"{where}: positive='{self.positive}' is invalid", hint=f"name one of {', '.join(self.judge.allowed)}")
        if shared := set(self.case_key) & set(self.described_columns):
            raise DefinitionError(f"{where} has two columns named '{min(shared)}' in its table", hint="rename the column of the cases")
