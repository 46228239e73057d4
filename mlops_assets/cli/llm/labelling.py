"""Make a labelled case of an evaluation set from a trace."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import polars as pl

from mlops_assets.errors import DataError, DefinitionError, suggest_name
from mlops_assets.orchestrate.core.project import reads_labels
from mlops_assets.stores.platform.labels import CASE, LABEL_COLUMNS, add_label
from mlops_assets.values.asset_names import select_nodes
from mlops_assets.values.dataset import Dataset
from mlops_assets.values.llm.calibration import Calibration
from mlops_assets.values.llm.prompt_evaluation import PromptEvaluation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_assets.cli.project import LoadedProject
    from mlops_assets.compute.llm_traces.trace_tree import Trace

_MISFITS = (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError)
_SIMPLE = {str: pl.String, int: pl.Int64, float: pl.Float64, bool: pl.Boolean}
_EMPTY = (pl.Null(), pl.List(pl.Null()))
_INPUT = "input"  # the column of an input that is not a JSON object


@dataclass(frozen=True)
class LabelTarget:
    """The dataset that a label is added to.

    Parameters
    ----------
    project
        The loaded project.
    dataset
        The dataset; its function reads labels.
    evaluations, calibrations
        The evaluations and calibrations on its cases.
    """

    project: LoadedProject
    dataset: Dataset[..., Any]
    evaluations: tuple[PromptEvaluation, ...]
    calibrations: tuple[Calibration, ...]

    @property
    def selection(self) -> str:
        """The assets to materialise, so that evaluations and calibrations include the label."""
        evaluations, calibrations = ([each.key for each in users] for users in (self.evaluations, self.calibrations))
        return select_nodes(self.dataset.key, *evaluations, *calibrations)

    @property
    def variables(self) -> frozenset[str]:
        """The variables of the evaluated prompts."""
        return frozenset(variable.name for evaluation in self.evaluations for variable in evaluation.prompt.variables)

    def find_column_types(self) -> Mapping[str, pl.DataType | None]:
        """Return column → type for the columns of the dataset, from its rows or its schema, and for the variables of its prompts.

        A type that is not known yet is None.

        Raises
        ------
        DataError
            The dataset has neither rows nor a schema.
        """
        lake, table = self.project.stores.lake, self.dataset.table
        simple = {name: pl.Datetime("us", "UTC") if kind is datetime else kind for name, kind in table.schema_types.items()}
        types = {**dict.fromkeys(table.schema_columns), **pl.DataFrame(schema=simple).schema, **lake.schema(self.dataset.key)}
        if not types:
            raise DataError(
                f"'{self.dataset.key}' has no rows and no schema, so the types of its columns are unknown",
                hint=f"materialise it first: mlops run --select '{select_nodes(self.dataset.key)}'",
            )
        annotations = {variable.name: variable.annotation for evaluation in self.evaluations for variable in evaluation.prompt.variables}
        declared = {name: _choose_type(annotation) for name, annotation in annotations.items()}
        known = {name: kind for name, kind in types.items() if kind is not None}
        return {**types, **declared, **lake.schema(self.dataset.labels_key), **known}


def find_target(project: LoadedProject, name: str) -> LabelTarget:
    """Return the dataset to label.

    Raises
    ------
    DefinitionError
        There is no such dataset, or its function does not read labels.
    """
    part, dataset = project.find(Dataset, name, "dataset")
    if not reads_labels(dataset):
        raise DefinitionError(
            f"'{dataset.key}' does not read labels",
            hint=f"return pl.concat([…, ml.llm.read_labels('{name}')], how='diagonal') from its function",
        )
    evaluations = tuple(each for each in part.select(PromptEvaluation) if each.cases.key == dataset.key)
    calibrations = tuple(each for each in part.select(Calibration) if each.cases.key == dataset.key)
    return LabelTarget(project, dataset, evaluations, calibrations)


def label_trace(target: LabelTarget, trace: Trace, labels: Mapping[str, str], *, case: str | None, labelled_by: str) -> str:
    """Add the trace as a labelled case, and return a sentence about it.

    Parameters
    ----------
    target, trace
        The dataset and the trace.
    labels
        Column → value as text. A value replaces the trace's value of the same column.
    case
        The name of the case; None for the id of the trace.
    labelled_by
        Name of the labeller.

    Raises
    ------
    DataError
        The trace has no content, a variable of the prompt has no value, there is no such column, or a value does not fit its column. Or
        the columns of the dataset are not known yet.
    """
    types = target.find_column_types()
    _check_columns(target, labels, types)
    inputs = _choose_inputs(target, trace, types)
    values = {name: _cast_input(target, name, value, types.get(name)) for name, value in inputs.items() if name not in labels}
    values = {name: value for name, value in values.items() if value.dtype not in _EMPTY}  # the table would choose a type
    values |= {name: _cast_text(target, name, text, types.get(name)) for name, text in labels.items()}
    _check_variables(target, trace, values)
    name = case or trace.trace_id
    earlier = add_label(
        target.project.stores.lake,
        target.dataset.labels_key,
        pl.DataFrame(list(values.values())),
        case=name,
        trace_id=trace.trace_id,
        labelled_by=labelled_by,
    )
    shown = ", ".join(f"{column}={text!r}" for column, text in labels.items())
    replaced = f", replaces the label of {earlier['labelled_by'][-1]}" if earlier.height else ""
    return f"case '{name}' of {target.dataset.key}: {shown}{replaced}"


def parse_labels(pairs: Sequence[str]) -> dict[str, str]:
    """Return column → value of texts ``column=value``.

    Raises
    ------
    DefinitionError
        A text has no ``=``, or a column occurs twice.
    """
    labels: dict[str, str] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name or name in labels:
            raise DefinitionError(
                f"--set {pair!r} " + (f"sets '{name}' twice" if name in labels else "is not column=value"), hint='e.g. --set expected="EWR"'
            )
        labels[name] = text
    return labels


def _choose_inputs(target: LabelTarget, trace: Trace, types: Mapping[str, pl.DataType | None]) -> dict[str, Any]:
    """Return the values of the input that are columns of the dataset or variables of a prompt."""
    if taken := target.variables & set(LABEL_COLUMNS):
        raise DataError(f"the variable '{min(taken)}' of a prompt has the name of a column of every label", hint="rename the variable")
    inputs, known = _read_input(trace), {*types, *target.variables}
    return {name: value for name, value in inputs.items() if name in known - set(LABEL_COLUMNS)}


def _choose_type(annotation: Any) -> pl.DataType | None:  # noqa: ANN401  (any annotation)
    """Return the type of a column for the values of a variable; None where it depends on the values."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _choose_type(arguments[0])
    if get_origin(annotation) is list:
        inner = _choose_type(arguments[0])
        return None if inner is None else pl.List(inner)
    if get_origin(annotation) in (Literal, Union, UnionType):
        kinds = [type(item) if get_origin(annotation) is Literal else item for item in arguments]
        types = {_choose_type(kind) for kind in kinds if kind is not NoneType}
        return types.pop() if len(types) == 1 else None
    return next((_SIMPLE[kind]() for kind in _SIMPLE if annotation is kind), None)


def _read_input(trace: Trace) -> Mapping[str, Any]:
    if trace.input is None:
        raise DataError(
            f"trace '{trace.trace_id}' has no content",
            hint="set capture=True in ml.llm.PromptService, or the attribute mlops.input in ml.llm.start_trace: later traces have it",
        )
    try:
        value = json.loads(trace.input)
    except (ValueError, RecursionError):
        return {_INPUT: trace.input}
    return value if isinstance(value, dict) else {_INPUT: trace.input}


def _check_columns(target: LabelTarget, labels: Mapping[str, str], types: Mapping[str, pl.DataType | None]) -> None:
    if types.get(CASE) not in (None, pl.String):
        raise DataError(
            f"column '{CASE}' of '{target.dataset.key}' is {types[CASE]}, and the name of a labelled case is text",
            hint=f"return '{CASE}' as text from '{target.dataset.key}'",
        )
    known = {*types, *target.variables}
    for name in labels:
        if name in LABEL_COLUMNS:
            raise DataError(f"column '{name}' of a label cannot be set", hint="--case names the case, --by the labeller")
        if name not in known:
            offered = sorted(known - set(LABEL_COLUMNS))
            raise DataError(
                f"'{target.dataset.key}' has no column '{name}'", hint=suggest_name(name, offered) + f"it has {', '.join(offered)}"
            )


def _check_variables(target: LabelTarget, trace: Trace, values: Mapping[str, pl.Series]) -> None:
    for evaluation in target.evaluations:
        for variable in evaluation.prompt.variables:
            if variable.is_required and variable.name not in values:
                raise DataError(
                    f"trace '{trace.trace_id}' has no value of '{variable.name}', a variable of '{evaluation.prompt.key}'",
                    hint=f'give it: --set {variable.name}="…"',
                )


def _cast_input(target: LabelTarget, name: str, value: object, dtype: pl.DataType | None) -> pl.Series:
    """Return a value of the input as a column of one row."""
    try:
        return pl.Series(name, [value], dtype=dtype) if dtype is None or value is None else _convert(name, value, dtype)
    except _MISFITS:
        raise _build_value_error(target, name, value, dtype) from None


def _convert(name: str, value: object, dtype: pl.DataType) -> pl.Series:
    """Return a JSON value in the type of a column; raise an error where the value would change."""
    if isinstance(value, str):
        return _parse(name, value, dtype)
    if dtype == pl.String or isinstance(value, bool) != (dtype == pl.Boolean):
        raise TypeError(name)
    series = pl.Series(name, [value], strict=True)
    cast = series.cast(dtype, strict=True)
    if dtype.is_numeric() and cast.cast(series.dtype).item() != value:
        raise ValueError(name)
    return cast


def _cast_text(target: LabelTarget, name: str, text: str, dtype: pl.DataType | None) -> pl.Series:
    """Return a text of the command line as a column of one row."""
    try:
        return _parse(name, text, dtype or pl.String())
    except _MISFITS:
        raise _build_value_error(target, name, text, dtype) from None


def _parse(name: str, text: str, dtype: pl.DataType) -> pl.Series:
    """Return a text in the type of a column: JSON for lists and structs, ISO 8601 for times."""
    if dtype.is_nested():
        return pl.Series(name, [json.loads(text)], dtype=dtype, strict=True)
    if dtype == pl.Boolean:
        return pl.Series(name, [{"true": True, "false": False}.get(text.lower(), text)], dtype=dtype, strict=True)
    series = pl.Series(name, [text])
    if isinstance(dtype, pl.Datetime):
        return series.str.to_datetime(time_unit=dtype.time_unit, time_zone=dtype.time_zone, strict=True)
    return series.cast(dtype, strict=True)


def _build_value_error(target: LabelTarget, name: str, value: object, dtype: pl.DataType | None) -> DataError:
    where, shown = f"column '{name}' of '{target.dataset.key}'", f"{str(value)[:80]!r}"
    if dtype is None:
        return DataError(f"{where} cannot hold {shown}", hint=f'give another value: --set {name}="…"')
    return DataError(f"{where} is {dtype}, and {shown} does not fit", hint=f'give a value of this type: --set {name}="…"')
