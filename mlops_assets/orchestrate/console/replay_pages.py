"""Pages about replays: the results that ``mlops replay`` has left in the platform's home."""

import contextlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlops_assets.compute.pages.console_page import ConsoleCell, ConsolePage, ConsoleTable
from mlops_assets.compute.text import UNKNOWN
from mlops_assets.orchestrate.console.site import (
    ConsoleRequest,
    ConsoleSite,
    MissingPageError,
    StoredDocument,
    encode,
    format_time,
    number_rows,
    page_links,
)

SECTION = "/replays"
_RESULT, _PAGE = "replay.json", "replay.html"


def list_replays(site: ConsoleSite, request: ConsoleRequest) -> ConsolePage:
    """Return the page with every replay, newest first."""
    folders = sorted(_list_folders(site), key=_find_time, reverse=True)
    shown, has_more = number_rows(folders, request)
    rows = tuple(_summarise(folder) for folder in shown)
    empty = "No replay yet. The command below runs history through the code that decides, and shows which policy would have been best."
    head = ("replay", "finished (UTC)", "policies", "windows", "page")
    table = ConsoleTable("", head, rows, empty, frozenset({3}), more=page_links(SECTION, request, has_more=has_more))
    commands = [
        ("Compare policies on history", site.command("replay --from DATE --to DATE --policy never --policy every:30d --policy loop"))
    ]
    return ConsolePage("Replays", SECTION, "What each retraining policy would have done.", [table], commands)


def _list_folders(site: ConsoleSite) -> list[Path]:
    return [path.parent for path in (Path(site.platform.home) / "replays").glob(f"*/{_RESULT}")]


def _find_time(folder: Path) -> float:
    with contextlib.suppress(OSError):
        return (folder / _RESULT).stat().st_mtime
    return 0.0


def _summarise(folder: Path) -> tuple[ConsoleCell | str, ...]:
    path = f"{SECTION}/{encode(folder.name)}"
    page = ConsoleCell("open", path) if (folder / _PAGE).is_file() else "not written"
    finished = format_time(datetime.fromtimestamp(_find_time(folder), UTC))
    try:
        policies = _read_policies(json.loads((folder / _RESULT).read_bytes()))
    except (OSError, ValueError) as error:
        return folder.name, finished, ConsoleCell(f"cannot be read: {error}", kind="bad"), UNKNOWN, page
    windows = max((len(found) for found in policies.values()), default=0)
    return ConsoleCell(folder.name, path if page != "not written" else ""), finished, ", ".join(policies) or UNKNOWN, f"{windows:,}", page


def _read_policies(result: Any) -> dict[str, Any]:  # noqa: ANN401  (JSON)
    """Return policy → its windows; empty for a result without policies."""
    found = result.get("policies", {}) if isinstance(result, Mapping) else {}
    if not isinstance(found, Mapping):
        found = {str(each.get("policy", each.get("name", at))): each for at, each in enumerate(found) if isinstance(each, Mapping)}
    return {str(name): (each.get("windows", ()) if isinstance(each, Mapping) else each) or () for name, each in found.items()}


def show_replay(site: ConsoleSite, request: ConsoleRequest) -> StoredDocument:
    """Return the stored page of a replay; raise MissingPageError for an unknown name."""
    name = request.path["replay"]
    known = {folder.name: folder for folder in _list_folders(site) if (folder / _PAGE).is_file()}
    if name not in known:
        raise MissingPageError("replay", name, {each: f"{SECTION}/{encode(each)}" for each in known})
    return StoredDocument((known[name] / _PAGE).read_bytes())
