"""Read the cases of an evaluation, and refuse invalid ones before the first request."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from mlops_assets.compute.prompts.messages import build_messages, dump_json
from mlops_assets.errors import DataError, MlopsError
from mlops_assets.orchestrate.llm.case_columns import find_column_problem
from mlops_assets.values.llm.scorers import EditSimilarity, ExactMatch, Groundedness, RetrievalHit, TokenF1, accepts_none

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_assets.values.llm.prompt import Prompt, Variable
    from mlops_assets.values.llm.prompt_evaluation import PromptEvaluation

_COMPARES_TEXT = (ExactMatch, TokenF1, EditSimilarity, Groundedness)


@dataclass(frozen=True)
class EvaluationCase:
    """One case of an evaluation.

    Parameters
    ----------
    label
        The key as text, for error messages.
    row
        Column → value.
    variables
        Variable of the prompt → value, in the declared type.
    """

    label: str
    row: Mapping[str, Any]
    variables: Mapping[str, Any]


def read_cases(evaluation: PromptEvaluation, frame: pl.DataFrame, prompt: Prompt[..., Any] | None = None) -> list[EvaluationCase]:
    """Return the cases of an evaluation, in the order of the rows.

    Parameters
    ----------
    evaluation
        The evaluation.
    frame
        The rows of the dataset of cases.
    prompt
        The prompt to run; the prompt of the evaluation when None.

    Raises
    ------
    DataError
        There is no case; a column is missing or misspelt, or has another type than its scorer reads; a key is null or occurs twice; or a
        variable is null or has another type than the prompt declares. The message names the case and the column.
    """
    source = evaluation.cases.key
    if frame.is_empty():
        raise DataError(
            f"'{source}' has no row: '{evaluation.key}' would evaluate nothing", hint=f"return a row for each case of '{source}'"
        )
    if problem := find_column_problem(evaluation, frame.columns):
        raise DataError(problem[0], hint=problem[1])
    _check_scored_types(evaluation, frame.schema)
    _check_keys(evaluation, frame)
    return [_read_case(evaluation, prompt or evaluation.prompt, row) for row in frame.iter_rows(named=True)]


def _check_scored_types(evaluation: PromptEvaluation, schema: Mapping[str, pl.DataType]) -> None:
    """Refuse a column that is neither text nor, for retrieved documents, a list, where a scorer reads one."""
    for scorer in evaluation.scorers:
        wanted: Sequence[type[pl.DataType]] = ()
        if isinstance(scorer, _COMPARES_TEXT):
            wanted = (pl.String, pl.Null)
        elif isinstance(scorer, RetrievalHit):
            wanted = (pl.List, pl.Array, pl.Null)
        for column in scorer.columns if wanted else ():
            if not isinstance(schema[column], tuple(wanted)):
                raise DataError(
                    f"'{evaluation.key}': column '{column}' of '{evaluation.cases.key}' is {schema[column]}, "
                    f"the scorer '{scorer.name}' reads {'lists' if pl.List in wanted else 'text'}",
                    hint=f"cast it in '{evaluation.cases.key}', or write a scorer of your own with @ml.llm.scorer",
                )


def _check_keys(evaluation: PromptEvaluation, frame: pl.DataFrame) -> None:
    keys = frame.select(evaluation.case_key)
    without = keys.filter(pl.any_horizontal(pl.all().is_null()))
    repeated = keys.filter(keys.is_duplicated())
    for rows, problem in ((without, "is null"), (repeated, "occurs twice")):
        if rows.height:
            raise DataError(
                f"'{evaluation.key}': the key of case {_build_label(evaluation, rows.row(0, named=True))} {problem}",
                hint=f"give each row of '{evaluation.cases.key}' a key of its own",
            )


def _build_label(evaluation: PromptEvaluation, row: Mapping[str, Any]) -> str:
    return ", ".join(repr(row[name]) if isinstance(row[name], str) else str(row[name]) for name in evaluation.case_key)


def _read_case(evaluation: PromptEvaluation, prompt: Prompt[..., Any], row: Mapping[str, Any]) -> EvaluationCase:
    label = _build_label(evaluation, row)
    where = f"'{evaluation.key}', case {label}"
    present = [variable for variable in prompt.variables if variable.name in row]
    for variable in present:
        if row[variable.name] is None and not accepts_none(variable.annotation):
            raise DataError(
                f"{where}: column '{variable.name}' is null, but '{prompt.key}' needs a value of '{variable.name}'",
                hint=f"fill it in, or drop the case from '{evaluation.cases.key}'",
            )
    variables = {variable.name: convert_stored(variable, row[variable.name]) for variable in present}
    _check_messages(prompt, variables, where)
    return EvaluationCase(label, row, variables)


def convert_stored(variable: Variable, value: Any) -> Any:  # noqa: ANN401  (of the declared type)
    """Return text, a list or a struct of the lake in the declared type if it fits, e.g. as the member of an Enum; else unchanged.

    Parameters
    ----------
    variable
        The variable of a prompt.
    value
        Its value in a row of the lake.
    """
    import pydantic

    if not isinstance(value, (str, list, dict)):
        return value
    adapter = variable.adapter
    with suppress(pydantic.ValidationError):
        adapter.validate_python(value, strict=True)
        return value
    with suppress(pydantic.ValidationError):
        return adapter.validate_json(json.dumps(value, default=dump_json), strict=True)
    return value


def _check_messages(prompt: Prompt[..., Any], variables: Mapping[str, Any], where: str) -> None:
    """Build the messages of a case once, so that a wrong value is found before the first request."""
    try:
        build_messages(prompt, variables)
    except MlopsError as error:
        raise DataError(f"{where}: {error.message}", hint=error.hint) from error
    except Exception as error:
        error.add_note(where)
        raise
