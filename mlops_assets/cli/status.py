"""``mlops status`` and ``mlops validate``: the state of a project, and whether it can run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops_assets.cli.monitoring.reports import summarise_monitors
from mlops_assets.cli.project import LoadedProject, open_reconciled_instance
from mlops_assets.cli.registry.versions import list_versions
from mlops_assets.compute.training.evaluate import check_metrics
from mlops_assets.orchestrate.compiler.extras import find_missing_packages, refuse_missing_packages
from mlops_assets.orchestrate.tables.automation import find_stale
from mlops_assets.values.dataset import Dataset, ExternalDataset
from mlops_assets.values.feature_sources import DbtModel
from mlops_assets.values.features import FeatureView
from mlops_assets.values.llm.calibration import Calibration
from mlops_assets.values.llm.prompt_evaluation import PromptEvaluation
from mlops_assets.values.llm.trace_source import TraceSource
from mlops_assets.values.model import Model
from mlops_assets.values.serving import BatchPrediction
from mlops_assets.values.training import TrainingSet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlops_assets.orchestrate.core.project import Project

_TABLES = (Dataset, ExternalDataset, FeatureView, TrainingSet, BatchPrediction, PromptEvaluation, Calibration, TraceSource)


def collect_status(project: LoadedProject) -> dict[str, Any]:
    """Return tables, versions, monitors and the latest five runs as JSON-like values.

    Before that, runs whose process is gone are marked as failed.
    """
    instance = open_reconciled_instance(project.platform)
    with project.stores.lake.freeze_records():
        return {
            "tables": [row for part in project.parts for row in _table_rows(project, part.project)],
            "versions": list_versions(project, None),
            "monitors": summarise_monitors(project, instance),
            "runs": [{"run": r.run_id[:8], "status": r.status.value, "job": r.job_name} for r in instance.get_runs(limit=5)],
        }


def _table_rows(loaded: LoadedProject, project: Project) -> Iterator[dict[str, Any]]:
    sources = [source for source in project.trace_sources if source not in project.declarations]  # those of services
    for declaration in (*project.declarations, *sources):
        if isinstance(declaration, _TABLES):
            records = loaded.stores.lake.records(declaration.key)
            newest = max((r.recorded_at for r in records.values()), default=None)
            derived = not isinstance(declaration, ExternalDataset) and not (
                isinstance(declaration, FeatureView) and isinstance(declaration.source, DbtModel)
            )
            node = project.node(declaration) if derived and not isinstance(declaration, TraceSource) else None
            stale_partitions = len(find_stale(node, loaded.platform)) if node and node.edges else 0
            yield {
                "table": declaration.key,
                "partitions": len(records),
                "rows": sum(r.rows for r in records.values()),
                "stale partitions": stale_partitions,
                "last written": newest.isoformat(timespec="seconds") if newest else "never",
            }


def validate_project(project: LoadedProject) -> str:
    """Check packages, metrics and jobs of a project, and return a sentence with the numbers of its assets and checks.

    Raises
    ------
    DefinitionError
        A metric does not exist, or Dagster refuses the definitions.
    MissingExtraError
        Optional packages that the project needs are not installed.
    """
    refuse_missing_packages([need for part in project.parts for need in find_missing_packages(part.project, part.platform)])
    for part in project.parts:
        for model in part.project.select(Model):
            check_metrics(model.metrics, f"'{model.key}'")
    graph = project.definitions.resolve_asset_graph()
    project.definitions.resolve_all_job_defs()
    return f"{project.target} is valid: {len(graph.materializable_asset_keys)} assets, {len(graph.asset_check_keys)} checks"
