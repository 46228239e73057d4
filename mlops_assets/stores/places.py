"""The places of one platform, opened when first used."""

from __future__ import annotations

from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_assets.stores import sql
from mlops_assets.stores.artifacts import open_artifacts
from mlops_assets.stores.attempts import open_attempts
from mlops_assets.stores.decisions import open_decisions
from mlops_assets.stores.ducklake import DuckLake
from mlops_assets.stores.layouts import Layouts
from mlops_assets.stores.online import open_online
from mlops_assets.stores.registry import open_registry
from mlops_assets.stores.tracker import open_tracker
from mlops_assets.stores.view_versions import open_view_versions

if TYPE_CHECKING:
    from mlops_assets.stores.artifacts import Artifacts
    from mlops_assets.stores.attempts import Attempts
    from mlops_assets.stores.decisions import Decisions
    from mlops_assets.stores.online import OnlineStore
    from mlops_assets.stores.registry import Registry
    from mlops_assets.stores.tracker import SqlTracker
    from mlops_assets.stores.view_versions import ViewVersions
    from mlops_assets.values.platform import Platform


class Places:
    """Lake, layouts, registry, tracker, artifacts, online store, decisions and attempts of a platform.

    Parameters
    ----------
    platform
        Where they live.
    """

    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    @cached_property
    def lake(self) -> DuckLake:
        """The tables."""
        return DuckLake.open(self.platform.lake)

    @cached_property
    def layouts(self) -> Layouts:
        """Feature views, ready to be looked up."""
        return Layouts(Path(self.platform.home) / "layouts", self.lake)

    @cached_property
    def view_versions(self) -> ViewVersions:
        """How feature views were declared, and when."""
        return open_view_versions(self.platform.registry)

    @cached_property
    def registry(self) -> Registry:
        """Versions and aliases."""
        return open_registry(self.platform.registry, environment=self.platform.environment)

    @cached_property
    def tracker(self) -> SqlTracker:
        """Runs."""
        return open_tracker(self.platform.registry)

    @cached_property
    def artifacts(self) -> Artifacts:
        """Content-addressed bytes; the registry is made before them, as artifacts without one mean that it was deleted."""
        sql.database(self.platform.registry)
        return open_artifacts(self.platform.artifacts)

    @cached_property
    def online(self) -> OnlineStore:
        """Feature rows that services look up."""
        return open_online(self.platform.online)

    @cached_property
    def decisions(self) -> Decisions:
        """What monitors reported and what was decided."""
        return open_decisions(self.platform.registry, self.platform.environment)

    @cached_property
    def attempts(self) -> Attempts:
        """What automation tried."""
        return open_attempts(self.platform.registry)


@cache
def places(platform: Platform) -> Places:
    """Return the places of ``platform``, the same in the whole process."""
    return Places(platform)
