"""Check that the columns of a dataset of cases are those that an evaluation reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_assets.errors import DefinitionError, suggest_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from mlops_assets.values.llm.calibration import Calibration
    from mlops_assets.values.llm.prompt_evaluation import PromptEvaluation


def check_case_columns(evaluations: Iterable[PromptEvaluation]) -> None:
    """Refuse an evaluation whose dataset lacks a column that it reads; a dataset without a schema is checked when it is read.

    Raises
    ------
    DefinitionError
        A column is missing or misspelt.
    """
    for evaluation in evaluations:
        columns = evaluation.cases.table.schema_columns
        if columns and (problem := find_column_problem(evaluation, columns)):
            raise DefinitionError(problem[0], hint=problem[1])


def check_labelled_columns(calibrations: Iterable[Calibration]) -> None:
    """Refuse a calibration whose dataset lacks a column that it reads; a dataset without a schema is checked when it is read.

    Raises
    ------
    DefinitionError
        A column is missing.
    """
    for calibration in calibrations:
        columns = calibration.cases.table.schema_columns
        if columns and (problem := find_absent_column(calibration, columns)):
            raise DefinitionError(problem[0], hint=problem[1])


def find_absent_column(declared: PromptEvaluation | Calibration, columns: Collection[str]) -> tuple[str, str] | None:
    """Return message and hint for the first column that the cases lack; None when none is missing.

    Parameters
    ----------
    declared
        The evaluation or calibration that reads the cases.
    columns
        The columns of the cases.
    """
    for name, user in declared.required_columns.items():
        if name not in columns:
            message = f"'{declared.key}' needs the column '{name}' for {user}, which '{declared.cases.key}' lacks"
            return message, suggest_name(name, columns) + f"it has {', '.join(columns)}"
    return None


def find_column_problem(evaluation: PromptEvaluation, columns: Collection[str]) -> tuple[str, str] | None:
    """Return message and hint for a missing column of the cases, or a misspelt one; None when the columns fit.

    Parameters
    ----------
    evaluation
        The evaluation.
    columns
        The columns of the dataset of cases.
    """
    source = evaluation.cases.key
    if problem := find_absent_column(evaluation, columns):
        return problem
    absent = [variable.name for variable in evaluation.prompt.variables if variable.name not in columns]
    for name in list_unused_columns(evaluation, columns):
        if meant := suggest_name(name, absent):  # the variable's default would be sent in each call
            return (
                f"'{source}' has the column '{name}', which is not a variable of '{evaluation.prompt.key}'",
                f"{meant}rename it, or drop it",
            )
    return None


def list_unused_columns(evaluation: PromptEvaluation, columns: Collection[str]) -> list[str]:
    """Return the columns of the cases that neither the prompt nor a scorer nor a slice reads, without keys and times.

    Parameters
    ----------
    evaluation, columns
        As in :func:`find_column_problem`.
    """
    table, variables = evaluation.cases.table, [variable.name for variable in evaluation.prompt.variables]
    times = (table.event_timestamp, table.created_timestamp, table.order_by, *(name for pair in table.known_at for name in pair))
    return [name for name in columns if name not in {*evaluation.required_columns, *variables, *times}]
