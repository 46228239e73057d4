"""Descriptions of columns for the Dagster UI, from docstrings, schemas and feature declarations."""

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mlops_assets.compute.llm_traces.trace_rows import TRACE_COLUMNS
from mlops_assets.compute.tables.own_columns import PREDICTION_COLUMNS, TRAINING_SET_COLUMNS, lake_column
from mlops_assets.orchestrate.core.project import Declaration, Project
from mlops_assets.values.dataset import Dataset, ExternalDataset
from mlops_assets.values.feature_sources import Computed
from mlops_assets.values.features import FeatureView, select_feature_views
from mlops_assets.values.llm.calibration import Calibration
from mlops_assets.values.llm.prompt_evaluation import PromptEvaluation
from mlops_assets.values.serving import BatchPrediction, Service
from mlops_assets.values.training import TrainingSet

_ATTRIBUTES = re.compile(r"^Attributes\n-{3,}\n(.*?)(?=^\S[^\n]*\n-{3,}\n|\Z)", re.MULTILINE | re.DOTALL)
_DESCRIPTIONS = {
    "prediction": "What the model predicts.",
    "probability": "Probability of the class in probability_of.",
    "probability_of": "The class whose probability is given.",
    "probabilities": "Probability of each class, in the order of the model's classes.",
    "prediction_problem": "Why this row has no prediction.",
    "input_hash": "Fingerprint of the model's inputs.",
    "prediction_id": "Identifies the answer of the service.",
    "model_version": "The version that predicted.",
    "missing": "Inputs that were missing.",
    "logged_at": "When the service logged its answer.",
    "run_id": "The run that predicted.",
    "predicted_at": "When the model predicted.",
}


def describe_columns(project: Project, key: str) -> dict[str, str]:
    """Return the descriptions of a table's columns.

    Parameters
    ----------
    project
        The declarations.
    key
        The table, ``<kind>/<name>``.

    Returns
    -------
    dict
        Column in the lake → description. Columns without a description are left out; the dict may describe columns that the table lacks.
    """
    if any(source.key == key for source in project.trace_sources):
        return TRACE_COLUMNS
    for declaration in project.declarations:
        if isinstance(declaration, Service) and declaration.predictions_key == key:
            return _DESCRIPTIONS | _rename_stored(_describe_training_set(project, declaration.model.training_set), PREDICTION_COLUMNS)
        if getattr(declaration, "key", "") == key:
            return _describe_declaration(project, declaration)
    return {}


def parse_attributes(docstring: str) -> dict[str, str]:
    """Return name → description, as one line, from the numpydoc section *Attributes* of a docstring; empty without the section."""
    section = _ATTRIBUTES.search(inspect.cleandoc(docstring) + "\n")
    lines_of: dict[str, list[str]] = {}
    names: list[str] = []
    for line in section.group(1).splitlines() if section else ():
        if line.strip() and not line.startswith(" "):
            names = [name.strip() for name in line.partition(":")[0].split(",")]
        elif line.strip():
            for name in names:
                lines_of.setdefault(name, []).append(line.strip())
    return {name: " ".join(lines) for name, lines in lines_of.items()}


def _describe_declaration(project: Project, declaration: Declaration) -> dict[str, str]:
    match declaration:
        case Dataset() | ExternalDataset():
            return _describe_dataset(declaration)
        case FeatureView():
            return _describe_view(declaration)
        case TrainingSet():
            return _rename_stored(_describe_training_set(project, declaration), TRAINING_SET_COLUMNS) | {
                "split": "The split that contains the row: train, validation or holdout; gap where its label became known too late."
            }
        case BatchPrediction():
            columns = _describe_training_set(project, declaration.model.training_set) | _describe_dataset(declaration.dataset)
            return _DESCRIPTIONS | _rename_stored(columns, PREDICTION_COLUMNS)
        case PromptEvaluation() | Calibration():
            return _describe_dataset(declaration.cases) | declaration.described_columns
    return {}


def _describe_dataset(dataset: Dataset[..., Any] | ExternalDataset) -> dict[str, str]:
    text = dataset.function.description if isinstance(dataset, Dataset) else dataset.description
    return parse_attributes(text) | dict(_describe_schema(dataset.table.schema))


def _describe_schema(schema: type | None) -> Iterator[tuple[str, str]]:
    """Yield (column, description) pairs of a pandera schema: first from docstrings of its classes, then from fields, which override."""
    if schema is None:
        return
    described: Mapping[str, str] = {}
    for base in reversed(schema.__mro__):
        described = {**described, **parse_attributes(base.__doc__ or "")} if base.__module__.split(".")[0] != "pandera" else described
    yield from described.items()
    for name, column in schema.to_schema().columns.items():  # type: ignore[attr-defined]  # a DataFrameModel of pandera
        if column.description:
            yield name, column.description


def _describe_view(view: FeatureView) -> dict[str, str]:
    """Return the descriptions of a view's columns; the view's own descriptions override those of its source."""
    source = view.source
    inherited = _describe_dataset(source) if isinstance(source, (Dataset, ExternalDataset)) else {}
    text = source.function.description if isinstance(source, Computed) else ""
    return inherited | parse_attributes(text) | parse_attributes(view.description)


def _describe_training_set(project: Project, training_set: TrainingSet[..., Any]) -> dict[str, str]:
    descriptions: dict[str, str] = {}
    for dataset in project.datasets_of(training_set):
        descriptions |= _describe_dataset(dataset)
    for view in select_feature_views(training_set.features):
        described = _describe_view(view)
        renamed = zip((*view.renamed_keys, *view.renamed_features), (*view.entity.join_keys, *view.feature_names), strict=True)
        descriptions |= {new: described[name] for new, name in renamed if name in described}
    return descriptions | parse_attributes(training_set.function.description)


def _rename_stored(descriptions: Mapping[str, str], reserved: tuple[str, ...]) -> dict[str, str]:
    """Return the descriptions by the columns' names in the lake, where a column with a ``reserved`` name is renamed."""
    return {lake_column(name, reserved): text for name, text in descriptions.items()}
