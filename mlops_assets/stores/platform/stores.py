"""The stores of one platform, opened when first used."""

from __future__ import annotations

from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_assets.stores.artifacts.store import open_artifacts
from mlops_assets.stores.database import sql
from mlops_assets.stores.llm.response_cache import ResponseCache
from mlops_assets.stores.online.opening import open_online
from mlops_assets.stores.registry.alerts import open_alerts
from mlops_assets.stores.registry.attempts import open_attempts
from mlops_assets.stores.registry.decisions import open_decisions
from mlops_assets.stores.registry.registry import open_registry
from mlops_assets.stores.tracker.tracker import open_tracker

if TYPE_CHECKING:
    from mlops_assets.stores.artifacts.store import Artifacts
    from mlops_assets.stores.lake.layouts import Layouts
    from mlops_assets.stores.lake.protocol import Lake
    from mlops_assets.stores.lake.view_versions import ViewVersions
    from mlops_assets.stores.online.protocol import OnlineStore
    from mlops_assets.stores.registry.alerts import AlertStore
    from mlops_assets.stores.registry.attempts import Attempts
    from mlops_assets.stores.registry.decisions import Decisions
    from mlops_assets.stores.registry.registry import Registry
    from mlops_assets.stores.tracker.tracker import SqlTracker
    from mlops_assets.values.platform import Platform


class Stores:
    """The stores of one platform; each is opened when it is first used. Only those of the lake import DuckDB and polars.

    Parameters
    ----------
    platform
        The platform whose stores to open.
    """

    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    @cached_property
    def lake(self) -> Lake:
        """The lake: versioned tables."""
        from mlops_assets.stores.lake.ducklake import DuckLake

        return DuckLake.open(self.platform.lake)

    @cached_property
    def layouts(self) -> Layouts:
        """Feature rows sorted for point-in-time lookups (as-of layouts, ADR 10), in a folder of the platform."""
        from mlops_assets.stores.lake.layouts import Layouts

        return Layouts(Path(self.platform.home) / "layouts", self.lake)

    @cached_property
    def view_versions(self) -> ViewVersions:
        """The current and earlier versions of feature views."""
        from mlops_assets.stores.lake.view_versions import open_view_versions

        return open_view_versions(self.platform.registry)

    @cached_property
    def registry(self) -> Registry:
        """The model versions, and the aliases of the platform's environment."""
        return open_registry(self.platform.registry, environment=self.platform.environment)

    @cached_property
    def tracker(self) -> SqlTracker:
        """The runs."""
        return open_tracker(self.platform.registry)

    @cached_property
    def artifacts(self) -> Artifacts:
        """The content-addressed artifacts.

        The registry is created first, because an error reports a home that has artifacts but no registry.
        """
        sql.open_database(self.platform.registry)
        return open_artifacts(self.platform.artifacts)

    @cached_property
    def online(self) -> OnlineStore:
        """The online store: feature rows for services."""
        return open_online(self.platform.online)

    @cached_property
    def responses(self) -> ResponseCache:
        """The cached answers of language models, in the platform's home."""
        return ResponseCache(Path(self.platform.home) / "llm" / "responses.sqlite")

    @cached_property
    def decisions(self) -> Decisions:
        """The monitoring reports, retraining decisions and training runs of the platform's environment."""
        return open_decisions(self.platform.registry, self.platform.environment)

    @cached_property
    def alerts(self) -> AlertStore:
        """The alerts, their deliveries and the silences of the platform's environment."""
        return open_alerts(self.platform.registry, self.platform.environment)

    @cached_property
    def attempts(self) -> Attempts:
        """The attempts of automated runs that have not succeeded."""
        return open_attempts(self.platform.registry)


@cache
def open_stores(platform: Platform) -> Stores:
    """Return the stores of ``platform``; all callers in a process share one object."""
    return Stores(platform)
