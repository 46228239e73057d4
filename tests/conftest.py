"""What tests share: a platform of their own, an instance, and one way to materialise."""

import gc
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import skops.io  # noqa: F401  (first: it searches all that is imported for the module of each function of scipy)

# isort: split
import dagster as dg
import psutil
import pytest
from hypothesis import settings

from mlops_assets import errors
from mlops_assets.orchestrate.core.dagster_files import DAGSTER_YAML
from mlops_assets.orchestrate.core.event_storage import open_pooled_instance
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.stores.lake import connection
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.platform import Platform
from tests.cached_jobs import cache_jobs
from tests.memory_instance import open_memory_instance

ROOT = Path(__file__).parents[1]
# Threads of OpenMP that wait by spinning take the processor from the other process that runs tests: fits were ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
connection._CONFIG["threads"] = 1  # DuckDB's threads spin too, for small tables longer than they work; tests/stores has as many as users
cache_jobs()
settings.register_profile("loaded", deadline=None)  # an example takes longer on a machine under load
settings.load_profile("loaded")
# In memory, where there is room, no commit waits for the disk: a month of a small project waits a thousand times.
MEMORY, ROOM = Path("/dev/shm"), 6 * 2**30
pytest_plugins = ["tests.temporary_files"]
if MEMORY.is_dir() and min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available) > ROOM:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


# Files that take longest, in this order: one that begins last leaves the other processor idle.
LONG = (
    "docs/test_guides.py",
    "e2e/test_closed_loop.py",
    "e2e/test_equals_replay.py",
    "reference/test_flights.py",
    "orchestrate/compiler/test_daemon.py",
    "cli/test_replay.py",
    "orchestrate/replay/test_matches_production.py",
    "orchestrate/replay/test_drift.py",
    "ui/test_web_ui.py",
    "ui/test_console.py",
    "cli/test_killed.py",
    "cli/test_wheel.py",
    "orchestrate/features/test_dbt.py",
    "orchestrate/retraining/test_decisions.py",
    "serving/http/test_service.py",
    "serving/bridges/test_mlflow_mirror.py",
    "orchestrate/training/test_search_processes.py",
    "cli/test_cli.py",
    "orchestrate/llm/test_pairwise_judges.py",
    "typing/test_typing.py",
    "orchestrate/tables/test_backfill.py",
    "orchestrate/llm/test_release.py",
    "orchestrate/online/test_online.py",
    "orchestrate/llm/test_costs.py",
    "orchestrate/features/test_push.py",
    "orchestrate/tables/test_automation.py",
    "orchestrate/upkeep/test_erasure.py",
    "orchestrate/tables/test_bad_input.py",
    "orchestrate/llm/test_calibrations.py",
    "compute/training/test_resampling.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {ROOT / "tests" / name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path, len(LONG)))


def pytest_collection() -> None:
    gc.disable()  # imports make objects that stay; looking for garbage among them takes a third of the time


def pytest_collection_finish() -> None:
    gc.freeze()  # what has been imported is not garbage: do not search it, nor take it apart at the end
    gc.enable()


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform.at(tmp_path / "home")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with open_memory_instance() as opened:
        yield opened


class Runner:
    """Materialises assets of one project on one instance."""

    def __init__(self, definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
        self.definitions = definitions
        self.instance = instance

    def __call__(self, *keys: str, partitions: str | None = None, config: dict | None = None, ok: bool = True) -> dg.ExecuteInProcessResult:
        first, _, last = (partitions or "").partition("...")
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last or first} if first else {}
        graph = self.definitions.resolve_asset_graph()
        wanted = {asset_key(key) for key in keys}  # each <kind>/<name>
        chosen = [key for key in graph.materializable_asset_keys if key in wanted]  # the job itself when there are none
        assert len(chosen) == len(keys), f"{keys} are not all in the project"
        ops = {name: {"config": value} for name, value in (config or {}).items()}
        job = self.definitions.resolve_implicit_global_asset_job_def()
        loggers = {"console": {"config": {"log_level": "CRITICAL"}}}
        result = job.execute_in_process(
            instance=self.instance, asset_selection=chosen, tags=tags, run_config={"ops": ops, "loggers": loggers}, raise_on_error=ok
        )
        assert result.success is ok
        return result

    def error(self, *keys: str, **more) -> str:
        """Return the message of the step that failed."""
        result = self(*keys, ok=False, **more)
        failure = next(e for e in result.all_events if e.event_type is dg.DagsterEventType.STEP_FAILURE)
        error = failure.step_failure_data.error
        chain = [error]
        while chain[-1].cause is not None:
            chain.append(chain[-1].cause)
        ours = [link for link in chain if hasattr(errors, link.cls_name or "")]
        return (ours or chain[-1:])[0].message


@pytest.fixture
def run(instance: dg.DagsterInstance):
    return lambda definitions: Runner(definitions, instance)


@contextmanager
def open_dagster(folder: Path) -> Iterator[dg.DagsterInstance]:
    """Open an instance on disk; a test that copies the folder continues from its events."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dagster.yaml").write_text(DAGSTER_YAML)
    with open_pooled_instance(str(folder)) as opened:
        yield opened


def metadata(result: dg.ExecuteInProcessResult, key: str) -> dict:
    events = [e.step_materialization_data.materialization for e in result.get_asset_materialization_events()]
    found = [m for m in events if m.asset_key == asset_key(key)]
    assert found, f"{key} was not materialised"
    return {name: value.value for name, value in found[-1].metadata.items()}


def records(platform: Platform, table: str) -> dict[str, str]:
    """Return partition → content hash as recorded."""
    return {key: record.content_hash for key, record in open_stores(platform).lake.records(table).items()}


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """Return an environment for commands: the interpreter's own folder first, nothing of Dagster's or ours inherited."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLOPS_", "DAGSTER_", "DBT_"))}
    return (
        kept | {"PATH": f"{Path(sys.executable).parent}:{kept['PATH']}", "MLOPS_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "1"} | more
    )
