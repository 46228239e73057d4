"""Sources of feature views other than datasets: functions, SQL queries and dbt models."""

from __future__ import annotations

import hashlib
import inspect
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_arguments, check_constructor
from mlops_assets.values.function import CallPer, P, R, UserFunction
from mlops_assets.values.names import to_pairs, validate_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    import dagster as dg


@dataclass(frozen=True)
class Computed(Generic[P, R]):
    """A function that returns the rows of a feature view. Made by :func:`mlops_assets.feature_view`."""

    function: UserFunction[P, R]
    partitions: dg.PartitionsDefinition | None = None
    partition_mappings: tuple[tuple[str, dg.PartitionMapping], ...] = ()
    call_per: CallPer = "partition"

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.name

    @property
    def text(self) -> str:
        """The function's dedented source; a hash of its byte code when there is no source file."""
        try:
            return textwrap.dedent(inspect.getsource(self.function.function))
        except (OSError, TypeError):
            code = self.function.function.__code__
            return hashlib.sha256(code.co_code + repr(code.co_consts).encode()).hexdigest()


@check_constructor
@dataclass(frozen=True, init=False)
class Sql:
    """A query in DuckDB's SQL that returns the rows of a feature view.

    The query reads tables of the project by their names. With partitions, the query runs once for each partition, over the rows of its
    upstream partitions. The bounds of its window are ``getvariable('window_start')`` and ``getvariable('window_end')``.

    Parameters
    ----------
    query
        One SELECT.
    partitions
        Time-window partitions of the view.
    partition_mappings
        Table name → Dagster partition mapping, e.g. for a rolling window; the same partition by default.

    Raises
    ------
    DefinitionError
        The query is empty.

    See Also
    --------
    FeatureView : The view over the query.
    feature_view : A view that a function computes.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.Sql("SELECT origin, observed_at, wind_speed * 1.60934 AS wind_kmh FROM weather").query[:6]
    'SELECT'
    """

    query: str
    partitions: dg.PartitionsDefinition | None
    partition_mappings: tuple[tuple[str, dg.PartitionMapping], ...]

    def __init__(
        self,
        query: str,
        *,
        partitions: dg.PartitionsDefinition | None = None,
        partition_mappings: Mapping[str, dg.PartitionMapping] | None = None,
    ) -> None:
        if not query.strip():
            raise DefinitionError("ml.Sql was given an empty query", hint="give one SELECT")
        object.__setattr__(self, "query", query)
        object.__setattr__(self, "partitions", partitions)
        object.__setattr__(self, "partition_mappings", to_pairs(partition_mappings))

    @property
    def text(self) -> str:
        """The query with each run of white space replaced by one space."""
        return " ".join(self.query.split())


@check_constructor
@dataclass(frozen=True)
class DbtProject:
    """A dbt project whose models are stored in the lake.

    Parameters
    ----------
    path
        The folder with ``dbt_project.yml``. A relative path is looked up in the current folder, then in each folder of ``sys.path``.

    See Also
    --------
    FeatureView : Features from a dbt model.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.DbtProject("dbt_features").model("carrier_punctuality").name
    'carrier_punctuality'
    """

    path: str

    @check_arguments
    def model(
        self,
        name: str,
        *,
        partitions: dg.PartitionsDefinition | None = None,
        partition_mapping: dg.PartitionMapping | None = None,
    ) -> DbtModel:
        """Return one model of the project as a source of a feature view, without a check that dbt has this model.

        Parameters
        ----------
        name
            The model's name in dbt.
        partitions
            Time-window partitions; the model reads its window from ``env_var('MLOPS_WINDOW_START')`` and ``MLOPS_WINDOW_END`` (UTC, ISO 8601).
        partition_mapping
            The partitions of the model's sources that one of its partitions reads; the same partition when None.

        Returns
        -------
        DbtModel
            The model, e.g. for ``FeatureView(source=...)``.

        Raises
        ------
        DefinitionError
            The name is invalid.
        """
        return DbtModel(self, validate_name(name, "a dbt model"), partitions, partition_mapping)


@check_constructor
@dataclass(frozen=True)
class DbtModel:
    """One model of a dbt project. Made by :meth:`DbtProject.model`.

    See Also
    --------
    mlops_assets.DbtProject : Returns it.
    """

    project: DbtProject
    name: str
    partitions: dg.PartitionsDefinition | None = None
    partition_mapping: dg.PartitionMapping | None = None
