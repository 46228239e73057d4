"""Pages about replays: the results that ``mlops replay`` has stored in the platform's home."""

import contextlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlops_assets.compute.pages.console_page import ConsoleCell, ConsolePage, ConsoleRow, ConsoleTable
from mlops_assets.compute.text import UNKNOWN, format_number
from mlops_assets.orchestrate.console.site import (
    ConsoleRequest,
    ConsoleSite,
    MissingPageError,
    StoredDocument,
    build_page_links,
    encode,
    format_time,
    select_page_rows,
)

SECTION = "/replays"
_RESULT, _PAGE = "replay.json", "replay.html"


def list_replays(site: ConsoleSite, request: ConsoleRequest) -> ConsolePage:
    """Return the page with every replay, newest first."""
    folders = sorted(_list_folders(site), key=_find_time, reverse=True)
    shown, has_more = select_page_rows(folders, request)
    rows = tuple(_summarise(site, folder) for folder in shown)
    empty = "No replay yet. The command below replays history with each policy, and shows which policy would have been best."
    head = ("replay", "model", "period", "windows", "mean metric and trainings of each policy", "finished (UTC)", "page")
    table = ConsoleTable("", head, rows, empty, frozenset({3}), more=build_page_links(SECTION, request, has_more=has_more))
    commands = [
        ("Compare policies on history", site.build_command("replay --from DATE --to DATE --policy never --policy every:30d --policy loop"))
    ]
    return ConsolePage("Replays", SECTION, "What each retraining policy would have done.", [table], commands)


def _list_folders(site: ConsoleSite) -> list[Path]:
    return [path.parent for path in (Path(site.platform.home) / "replays").glob(f"*/{_RESULT}") if site.find_file(path)]


def _find_time(folder: Path) -> float:
    with contextlib.suppress(OSError):
        return (folder / _RESULT).stat().st_mtime
    return 0.0


def _summarise(site: ConsoleSite, folder: Path) -> ConsoleRow:
    path = f"{SECTION}/{encode(folder.name)}"
    has_page = site.find_file(folder / _PAGE) is not None
    end = (format_time(datetime.fromtimestamp(_find_time(folder), UTC)), ConsoleCell("open", path) if has_page else "not written")
    try:
        result = json.loads((folder / _RESULT).read_bytes())
        policies, metric = dict(result["policies"]), result.get("metric", "")
        windows = max((len(policy["windows"]) for policy in policies.values()), default=0)
        means = "; ".join(_describe_policy(name, policy, metric) for name, policy in policies.items())
        facts = (
            str(result.get("model", UNKNOWN)),
            f"{result.get('from', '')[:10]} to {result.get('to', '')[:10]}",
            f"{windows:,}",
            means or UNKNOWN,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = ConsoleCell(f"{_RESULT} cannot be read ({type(error).__name__})", kind="bad")
        return (folder.name, problem, UNKNOWN, UNKNOWN, UNKNOWN, *end)
    return (ConsoleCell(folder.name, path if has_page else ""), *facts, *end)


def _describe_policy(name: str, policy: Mapping[str, Any], metric: str) -> str:
    """Return the mean of the metric over the windows of a policy, and its number of trainings."""
    values = [window[metric] for window in policy["windows"] if window.get(metric) is not None]
    mean = format_number(sum(values) / len(values), 4) if values else UNKNOWN
    return f"{name} {mean} ({len(policy.get('trainings', ()))})"


def show_replay(site: ConsoleSite, request: ConsoleRequest) -> StoredDocument:
    """Return the stored page of a replay; raise MissingPageError for an unknown name."""
    name = request.path["replay"]
    known = {folder.name: page for folder in _list_folders(site) if (page := site.find_file(folder / _PAGE))}
    if name not in known:
        raise MissingPageError("replay", name, {each: f"{SECTION}/{encode(each)}" for each in known})
    return StoredDocument(known[name].read_bytes())
