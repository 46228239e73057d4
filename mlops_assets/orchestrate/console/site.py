"""What the pages of a console read: the declarations of a project, the stores of its platform, and its Dagster instance."""

import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import dagster as dg

from mlops_assets.compute.pages.console_page import ConsoleCell
from mlops_assets.orchestrate.compiler.build import CompiledProject
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.stores.database import sql
from mlops_assets.stores.platform.stores import Stores, open_stores
from mlops_assets.stores.tracker.tracker import SqlTracker
from mlops_assets.values.platform import Platform

N = TypeVar("N")
PAGE_ROWS = 50  # rows of a table; links lead to the others
MAX_FILE_BYTES = 50_000_000  # of a stored page or result


class MissingPageError(Exception):
    """Raised for an address with a name that does not exist.

    Parameters
    ----------
    noun, name
        What is missing, e.g. ``model`` and its name.
    known
        The names that exist, with the addresses of their pages.
    command
        The command that lists them.
    """

    def __init__(self, noun: str, name: str, known: Mapping[str, str], command: str = "") -> None:
        super().__init__(f"there is no {noun} '{name}'")
        self.noun, self.name, self.known, self.command = noun, name, known, command


@dataclass(frozen=True)
class StoredDocument:
    """A stored HTML page: a report, a card or a replay."""

    content: bytes


@dataclass(frozen=True)
class ConsoleRequest:
    """The parts of a request that pages read.

    Parameters
    ----------
    path
        Names in the path of the address.
    query
        Parameter → values.
    """

    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """Return the first value of a parameter; empty without one."""
        return next(iter(self.query.get(name, ())), "").strip()

    @property
    def offset(self) -> int:
        """The number of rows before the page that the parameter ``page`` numbers from 1."""
        number = self.text("page")
        return (int(number) - 1) * PAGE_ROWS if re.fullmatch(r"[1-9]\d{0,8}", number, re.ASCII) else 0


@dataclass(frozen=True)
class ConsoleSite:
    """The project and the platform that a console shows.

    Parameters
    ----------
    parts
        The compiled projects, one for each call of ``build_definitions``.
    definitions
        Its definitions, plain Dagster assets included.
    platform
        The platform.
    instance
        The Dagster instance, open while the console runs.
    dagster_url
        The address of the Dagster UI; empty when it is unknown.
    target
        The project's option on a command line, e.g. ``-f shop.py``; empty for the default.
    """

    parts: tuple[CompiledProject, ...]
    definitions: dg.Definitions
    platform: Platform
    instance: dg.DagsterInstance
    dagster_url: str = ""
    target: str = ""

    @property
    def stores(self) -> Stores:
        """The stores of the platform."""
        return open_stores(self.platform)

    @cached_property
    def tracker(self) -> SqlTracker:
        """The runs; reading them does not mark killed runs, as other readers do."""
        return SqlTracker(sql.open_database(self.platform.registry), reaps=False)

    def find_file(self, path: Path) -> Path | None:
        """Return a regular file of the home with its links resolved; None for any other, and for one of more than 50 MB."""
        try:
            resolved = path.resolve(strict=True)
            facts = resolved.stat()
        except (OSError, ValueError, RuntimeError):
            return None
        inside = resolved.is_relative_to(Path(self.platform.home).resolve())
        return resolved if inside and stat.S_ISREG(facts.st_mode) and facts.st_size <= MAX_FILE_BYTES else None

    def select(self, kind: type[N]) -> list[tuple[Project, N]]:
        """Return the declarations of a kind, each with its project; one that several projects share is returned once."""
        found = {declared.name: (part.project, declared) for part in self.parts for declared in part.project.select(kind)}  # type: ignore[attr-defined]
        return list(found.values())

    def build_command(self, text: str) -> str:
        """Return a command line of ``mlops`` for the project."""
        return f"mlops {text}{f' {self.target}' if self.target else ''}"

    def asset_url(self, key: str) -> str:
        """Return the address of an asset, named by its declared key, in the Dagster UI; empty when that is unknown."""
        if not self.dagster_url:
            return ""
        return f"{self.dagster_url}/assets/{'/'.join(map(encode, asset_key(key).path))}"

    @cached_property
    def cache(self) -> dict[Any, Any]:
        """The results that pages have computed from immutable content, such as an artifact or a snapshot."""
        return {}

    @cached_property
    def readers(self) -> Mapping[str, tuple[str, ...]]:
        """Node of the asset graph → nodes that read it, e.g. ``features/crowds_features``; plain assets included."""
        graph = self.definitions.resolve_asset_graph()
        return {
            key.to_user_string(): tuple(sorted(child.to_user_string() for child in graph.get(key).child_keys))
            for key in graph.get_all_asset_keys()
        }

    @cached_property
    def plain_nodes(self) -> frozenset[str]:
        """The nodes of plain Dagster assets, which this package did not declare."""
        assets = [item for part in self.parts for item in part.project.plain if isinstance(item, (dg.AssetsDefinition, dg.AssetSpec))]
        return frozenset(key.to_user_string() for item in assets for key in _list_keys(item))


def _list_keys(item: dg.AssetsDefinition | dg.AssetSpec) -> Iterable[dg.AssetKey]:
    return [item.key] if isinstance(item, dg.AssetSpec) else item.keys


def encode(name: str) -> str:
    """Return a name, percent-encoded, as one part of an address."""
    return quote(name, safe="")


def format_time(time: datetime | None) -> str:
    """Return a time in UTC to the minute; a dash for None."""
    return "–" if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M}"


def format_age(time: datetime, now: datetime | None = None) -> str:
    """Return how long ago a time was, in the largest fitting unit."""
    seconds = max(0, int(((now or datetime.now(UTC)) - time).total_seconds()))
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = seconds // length
            return f"{count} {unit}{'s' * (count > 1)} ago"
    return "just now"


def build_page_links(path: str, request: ConsoleRequest, *, has_more: bool) -> tuple[ConsoleCell, ...]:
    """Return links to the rows before and after the current ones, with the other parameters of the request."""
    number = request.offset // PAGE_ROWS + 1
    kept = [(name, value) for name, values in request.query.items() for value in values if name != "page"]
    numbers = [("← newer", number - 1)] * (number > 1) + [("older →", number + 1)] * has_more
    return tuple(ConsoleCell(text, f"{path}?{join_query([*kept, ('page', str(to))])}") for text, to in numbers)


def join_query(pairs: Iterable[tuple[str, str]]) -> str:
    """Return the query string of an address from (name, value) pairs."""
    return "&".join(f"{encode(name)}={encode(value)}" for name, value in pairs)


def select_page_rows(rows: Sequence[N], request: ConsoleRequest) -> tuple[Sequence[N], bool]:
    """Return the rows of the requested page, and whether there are more."""
    return rows[request.offset : request.offset + PAGE_ROWS], len(rows) > request.offset + PAGE_ROWS
