"""Find the optional packages that a project needs and that are not installed, before anything runs."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.user_code.source_slice import extract_source
from mlops_assets.errors import DefinitionError, MissingExtraError
from mlops_assets.stores.online.opening import find_backend
from mlops_assets.values.dataset import Dataset
from mlops_assets.values.feature_sources import Computed, DbtProject
from mlops_assets.values.features import FeatureView
from mlops_assets.values.llm.calibration import Calibration
from mlops_assets.values.llm.prompt_evaluation import PromptEvaluation
from mlops_assets.values.llm.prompt_service import PromptService
from mlops_assets.values.llm.quality_monitor import QualityMonitor
from mlops_assets.values.llm.scorers import FunctionScorer, JsonSchemaMatch
from mlops_assets.values.model import GateFunction, Model
from mlops_assets.values.serving import Service
from mlops_assets.values.training import TrainingSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mlops_assets.orchestrate.core.project import Project
    from mlops_assets.values.llm.prompt import Prompt
    from mlops_assets.values.platform import Platform

_SERVE = ("uvicorn", "httptools", "uvloop", "msgspec", "lmdb")
_DBT = ("dagster_dbt", "dbt.cli.main", "dbt.adapters.duckdb")
_ONNX = ("onnxruntime", "skl2onnx")
_EXTRAS = {  # packages that a function may import → the extra that installs them
    **dict.fromkeys(_ONNX, "onnx"),
    **{name: name for name in ("bentoml", "evidently", "lightgbm", "mlflow", "redis", "xgboost")},
    "optuna": "search",
    "s3fs": "s3",
}


@dataclass(frozen=True)
class RequiredPackage:
    """An optional package that a project needs.

    Parameters
    ----------
    package, extra
        The module to import, and the extra that installs it.
    reason
        The part of the project that needs the package.
    asset
        The asset whose step would fail without the package; empty when every step would fail.
    """

    package: str
    extra: str
    reason: str
    asset: str = ""


def find_missing_packages(project: Project, platform: Platform) -> list[RequiredPackage]:
    """Return the optional packages that a project or its platform needs and that are not installed.

    Parameters
    ----------
    project
        The declarations.
    platform
        The platform, whose stores may need packages of their own.
    """
    needs = [*_list_platform_packages(project, platform), *_list_declared_packages(project), *_list_imported_packages(project)]
    return [need for need in dict.fromkeys(needs) if not is_installed(need.package)]


def refuse_missing_packages(missing: Sequence[RequiredPackage]) -> None:
    """Raise MissingExtraError with every missing package and one command that installs them all; do nothing if none is missing."""
    if not missing:
        return
    reasons = dict.fromkeys((need.package.partition(".")[0], need.reason) for need in missing)
    extras = sorted({need.extra for need in missing})
    raise MissingExtraError(
        "; ".join(f"{reason} needs {package}, which is not installed" for package, reason in reasons),
        hint=f"pip install 'mlops_assets[{','.join(extras)}]'",
    )


def _list_platform_packages(project: Project, platform: Platform) -> Iterator[RequiredPackage]:
    if not platform.registry.startswith("sqlite"):
        yield RequiredPackage("psycopg", "postgres", "the registry in PostgreSQL (MLOPS_REGISTRY)")
    if platform.artifacts.startswith("s3://"):
        yield RequiredPackage("s3fs", "s3", "the artifacts in S3 (MLOPS_ARTIFACTS)")
    if platform.mlflow:
        yield RequiredPackage("mlflow", "mlflow", "the mirror to MLflow (MLOPS_MLFLOW)")
    for view in project.select(FeatureView):
        if view.online:
            backend = find_backend(platform.online)
            yield RequiredPackage(backend.package, backend.extra, f"the online store of '{view.key}'", f"online/{view.name}")


def _list_declared_packages(project: Project) -> Iterator[RequiredPackage]:
    for model in project.select(Model):
        if model.search is not None and model.search.sampler != "grid":
            yield RequiredPackage("optuna", "search", f"the search of '{model.key}'", model.key)
        if model.format == "onnx":
            yield from (RequiredPackage(name, "onnx", f"format='onnx' of '{model.key}'", model.key) for name in _ONNX)
    for service in project.select(Service):
        yield from (RequiredPackage(name, "serve", f"'{service.key}'", service.key) for name in _SERVE)
    yield from _list_llm_packages(project)
    for dbt in project.select(DbtProject):
        yield from (RequiredPackage(name, "dbt", f"the dbt project '{dbt.path}'") for name in _DBT)


def _list_llm_packages(project: Project) -> Iterator[RequiredPackage]:
    for prompt_service in project.select(PromptService):
        yield from (RequiredPackage(name, "serve", f"'{prompt_service.key}'", prompt_service.key) for name in _SERVE)
        yield from _list_model_packages(prompt_service.prompt, prompt_service.key)
        if prompt_service.otlp_endpoint is not None:
            yield RequiredPackage("opentelemetry.proto", "otlp", f"otlp_endpoint of '{prompt_service.key}'", prompt_service.key)
    for evaluation in project.select(PromptEvaluation):
        for prompt in (evaluation.prompt, *(judge.prompt for judge in evaluation.judges)):
            yield from _list_model_packages(prompt, evaluation.key)
        if any(isinstance(scorer, JsonSchemaMatch) for scorer in evaluation.scorers):
            yield RequiredPackage("jsonschema", "llm", f"a scorer of '{evaluation.key}'", evaluation.key)
    for source in project.trace_sources:
        yield RequiredPackage("msgspec", "serve", f"'{source.key}'", source.key)
    for monitor in project.select(QualityMonitor):
        for judge in monitor.judges:
            yield from _list_model_packages(judge.prompt, monitor.key)
    for calibration in project.select(Calibration):
        yield from _list_model_packages(calibration.judge.prompt, calibration.key)


def _list_model_packages(prompt: Prompt[..., Any], key: str) -> Iterator[RequiredPackage]:
    """Yield the packages that the asset ``key`` needs to call the model of a prompt."""
    yield RequiredPackage("httpx", "llm", f"'{key}'", key)
    if prompt.model.is_embedded:
        yield RequiredPackage("xllamacpp", "embedded", f"the embedded model of '{prompt.key}'", key)


def _list_imported_packages(project: Project) -> Iterator[RequiredPackage]:
    """Yield the missing packages that functions import when they are called; imports at the top of a module have already run."""
    missing = {name for name in _EXTRAS if not is_installed(name)}
    for key, function in _list_functions(project) if missing else ():
        for name in sorted(_find_imports(function) & missing):
            yield RequiredPackage(name, _EXTRAS[name], f"the code of '{key}'", key)


def _list_functions(project: Project) -> Iterator[tuple[str, Callable[..., Any]]]:
    for declaration in project.declarations:
        if isinstance(declaration, (Dataset, TrainingSet, Model)):
            yield declaration.key, declaration.function.function
        elif isinstance(declaration, GateFunction):
            yield declaration.model.key, declaration.function.function
        elif isinstance(declaration, FeatureView) and isinstance(declaration.source, Computed):
            yield declaration.key, declaration.source.function.function
        elif isinstance(declaration, PromptEvaluation):
            functions = (scorer.function for scorer in declaration.scorers if isinstance(scorer, FunctionScorer))
            yield from ((declaration.key, function) for function in functions)


def _find_imports(function: Callable[..., Any]) -> set[str]:
    """Return the packages that a function and its stored source import, except in a ``try`` body; empty if the source is unavailable."""
    try:
        modules: Mapping[str, str] = extract_source(function)["modules"]
    except (DefinitionError, OSError, SyntaxError):
        return set()  # the training reports why
    return {name for text in modules.values() for name in _find_packages(ast.parse(text))}


def _find_packages(node: ast.AST) -> Iterator[str]:
    """Yield the packages that a syntax tree imports, except in the body of a ``try``: such code runs without them."""
    if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module.partition(".")[0]
    for inner in ast.iter_child_nodes(node):
        if not (isinstance(node, ast.Try) and inner in node.body):
            yield from _find_packages(inner)


def is_installed(package: str) -> bool:
    """Return True if a module is installed; the module itself is not imported."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False
