"""The front page: what needs attention, and a line for each model and monitor."""

from collections.abc import Iterator

import dagster as dg

from mlops_assets.compute.pages.console_page import (
    ConsoleBlock,
    ConsoleCell,
    ConsoleNotice,
    ConsoleNotices,
    ConsolePage,
    ConsoleTable,
)
from mlops_assets.compute.training.lifecycle import CHAMPION, DAMAGED
from mlops_assets.orchestrate.console.model_pages import declared_names, find_alias, find_waiting, link_version, version_path
from mlops_assets.orchestrate.console.monitor_pages import find_newest, monitor_path, read_windows
from mlops_assets.orchestrate.console.run_pages import describe_status, link_run
from mlops_assets.orchestrate.console.service_pages import read_statuses, service_path
from mlops_assets.orchestrate.console.site import ConsoleRequest, ConsoleSite, encode, format_time
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.versions.approval import APPROVED
from mlops_assets.stores.registry.records import Version
from mlops_assets.values.decisions import DRIFT, ESTIMATED, PERFORMANCE
from mlops_assets.values.llm.prompt import Prompt
from mlops_assets.values.monitoring import BREACH, Monitor

SECTION = "/"
_MAX_RUNS, _MAX_CHECKS = 5, 500
_PROBLEMS = {
    PERFORMANCE: ("bad", "performance is too low"),
    ESTIMATED: ("warn", "estimated performance is too low"),
    DRIFT: ("warn", "drift"),
}
_REPORTS = ("drift_report", "estimate_report", "performance_report")  # their checks repeat the reports of monitors


def show_front_page(site: ConsoleSite, _request: ConsoleRequest) -> ConsolePage:
    """Return the front page."""
    versions = site.stores.registry.versions()
    notices = (
        *_list_breach_notices(site),
        *_list_service_notices(site),
        *_list_version_notices(site, versions),
        *_list_check_notices(site),
    )
    calm = ConsoleNotice(
        "good", "Nothing needs attention", "No breach, no failed check, no service down, and no version that waits for approval."
    )
    runs = site.tracker.list(limit=_MAX_RUNS)
    has_nothing = not versions and not runs
    first = ConsoleNotice(
        "", "Nothing has run yet", "Train, judge and register the models of the project first.", "", site.build_command("run")
    )
    blocks: list[ConsoleBlock] = [
        ConsoleNotices("", notices or ((first,) if has_nothing else (calm,))),
        _list_champions(site, versions),
        ConsoleTable(
            "Latest runs",
            ("run", "experiment", "kind", "status", "started (UTC)"),
            tuple((link_run(run.id), run.model, run.kind, describe_status(run), format_time(run.started_at)) for run in runs),
            "No run is recorded yet.",
            more=(ConsoleCell("all runs", "/runs"),) if runs else (),
        ),
    ]
    commands = [("State of tables, versions and monitors", site.build_command("status")), ("Check the installation", "mlops doctor")]
    title = f"{len(notices)} {'thing needs' if len(notices) == 1 else 'things need'} attention" if notices else "Overview"
    return ConsolePage(title, SECTION, "", blocks, commands)


def _list_breach_notices(site: ConsoleSite) -> Iterator[ConsoleNotice]:
    """Yield a notice for each monitor whose newest window is a breach, of performance before drift."""
    for _, monitor in site.select(Monitor):
        windows = read_windows(site, monitor)
        for kind, (colour, problem) in _PROBLEMS.items():
            report = find_newest(windows, kind)
            if report is not None and report.state == BREACH:
                path = monitor_path(monitor.name, report.partition)
                headline = f"{monitor.name}: {problem}"
                text = f"{report.partition}, version {report.version}: {report.reason}"
                yield ConsoleNotice(colour, headline, text, path, site.build_command(f"monitor show {monitor.name}"))


def _list_service_notices(site: ConsoleSite) -> Iterator[ConsoleNotice]:
    for name, state in read_statuses(site).items():
        if state.wanted == "running" and not state.running:
            text = state.problem or "it should run"
            yield ConsoleNotice("bad", f"{name} is down", text, service_path(name), site.build_command(f"serve start {name}"))
        elif state.problem:
            yield ConsoleNotice(
                "warn", f"{name} has a problem", state.problem, service_path(name), site.build_command(f"serve status {name}")
            )


def _list_version_notices(site: ConsoleSite, versions: list[Version]) -> Iterator[ConsoleNotice]:
    """Yield notices for damaged versions in use, and for the newest version of each model that waits for approval."""
    prompts = {prompt.name for _, prompt in site.select(Prompt)}
    for version in versions:
        if version.state == DAMAGED and version.aliases:
            name = f"{version.model}@{version.version}"
            yield ConsoleNotice("bad", f"{name} is damaged", version.damage, version_path(version.model, version.version), "mlops doctor")
    for version in {version.model: version for version in find_waiting(site, versions)}.values():
        group = "prompts" if version.model in prompts else "models"
        command = site.build_command(f"{group} approve {version.model} {version.version} --approver NAME --reason WHY")
        path = version_path(version.model, version.version)
        yield ConsoleNotice("warn", f"{version.model}@{version.version} waits for approval", "Its gates passed.", path, command)


def _list_check_notices(site: ConsoleSite) -> Iterator[ConsoleNotice]:
    """Yield notices for the asset checks whose last result failed, except those of monitor reports."""
    graph = site.definitions.resolve_asset_graph()
    waiting = {dg.AssetCheckKey(asset_key(f"version/{name}"), APPROVED) for name in declared_names(site)}  # shown as versions
    keys = [key for key in graph.asset_check_keys if key.asset_key.path[0] not in _REPORTS][:_MAX_CHECKS]
    for key, record in site.instance.event_log_storage.get_latest_asset_check_execution_by_key(keys).items():
        evaluation = record.evaluation if record.event is not None else None
        if evaluation is None or evaluation.passed or key in waiting:
            continue
        asset = key.asset_key.to_user_string()
        address = f"{site.dagster_url}/assets/{'/'.join(map(encode, key.asset_key.path))}?view=checks" if site.dagster_url else ""
        text = (evaluation.description or "The check names no reason.").partition("\n")[0]
        colour = "warn" if evaluation.severity.value == "WARN" else "bad"
        yield ConsoleNotice(
            colour, f"{asset}: check {key.name} failed", text, address, site.build_command(f"run --select 'key:\"{asset}\"'")
        )


def _list_champions(site: ConsoleSite, versions: list[Version]) -> ConsoleTable:
    by_model: dict[str, list[Version]] = {name: [] for name in declared_names(site)}
    for version in versions:
        by_model.setdefault(version.model, []).append(version)
    rows = tuple(
        (ConsoleCell(name, f"/models/{encode(name)}"), link_version(find_alias(known, CHAMPION)), str(len(known)))
        for name, known in sorted(by_model.items())
    )
    return ConsoleTable("Models", ("model", "champion", "versions"), rows, "The project declares no model.", frozenset({2}))
