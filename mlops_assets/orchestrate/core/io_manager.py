"""Load tables of the lake into the parameters of plain Dagster assets."""

from functools import cache
from typing import Any

import dagster as dg
import polars as pl

from mlops_assets.compute.tables.frames import FRAME_TYPES, convert_frame
from mlops_assets.orchestrate.core.project import Project, TableRef
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.asset_names import build_graph_key, find_declared_name
from mlops_assets.values.platform import Platform
from mlops_assets.values.window import window_of

IO_MANAGER_KEY = "mlops_lake"


class LakeIOManager(dg.IOManager):
    """Loads tables of the lake for plain assets; the steps of this package write the lake themselves.

    Parameters
    ----------
    platform
        The platform whose lake holds the tables.
    """

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self._refs: dict[str, TableRef] = {}

    def add_tables(self, project: Project) -> None:
        """Register the tables of a project by their keys in the asset graph."""
        self._refs.update({build_graph_key(key): ref for key, ref in project.by_key.items()})

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Do nothing: the step itself writes its table to the lake."""

    def load_input(self, context: dg.InputContext) -> Any:  # noqa: ANN401  (what the parameter's annotation says)
        """Return the table, or the partitions that the step needs, as the frame type of the annotation; a polars frame by default."""
        frame_type = _frame_type(context.dagster_type.typing_type)
        return convert_frame(self._read_rows(context), frame_type)

    def _read_rows(self, context: dg.InputContext) -> pl.DataFrame:
        key = "/".join(context.asset_key.path)
        lake = open_stores(self.platform).lake
        ref = self._refs.get(key)
        if ref is None or ref.partitions is None or not context.has_asset_partitions:
            return lake.read(ref.key if ref else f"{context.asset_key.path[0]}/{find_declared_name(key)}")
        keys = context.asset_partition_keys
        first, last = window_of(ref.partitions, keys[0]), window_of(ref.partitions, keys[-1])
        window = type(first)(first.start, last.end)  # type: ignore[misc, union-attr]  # partitioned: both exist
        return lake.read(ref.key, window=window, event_timestamp=ref.event_timestamp)


@cache
def lake_io_manager(platform: Platform) -> tuple[LakeIOManager, dg.IOManagerDefinition]:
    """Return the IO manager of a platform, and its Dagster definition.

    Both are cached for each platform, because Dagster refuses to merge definitions with two IO managers of one key.
    """
    manager = LakeIOManager(platform)
    return manager, dg.IOManagerDefinition.hardcoded_io_manager(manager)


def _frame_type(annotation: type) -> str:
    module, name = getattr(annotation, "__module__", "").split(".")[0].lstrip("_"), getattr(annotation, "__name__", "")
    label = f"{module}.{name}"
    return label if label in FRAME_TYPES else "polars.DataFrame"
