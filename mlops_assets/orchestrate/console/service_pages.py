"""Pages about services: processes, versions, latency and errors, from state files and counters; no request is sent to a service."""

import math

from mlops_assets.compute.pages.console_page import (
    ConsoleBlock,
    ConsoleCell,
    ConsoleFacts,
    ConsoleNotice,
    ConsoleNotices,
    ConsolePage,
    ConsoleTable,
)
from mlops_assets.compute.text import UNKNOWN, format_number
from mlops_assets.orchestrate.compiler.services import list_services
from mlops_assets.orchestrate.console.model_pages import version_path
from mlops_assets.orchestrate.console.prompt_tables import list_clients
from mlops_assets.orchestrate.console.site import ConsoleRequest, ConsoleSite, MissingPageError, encode
from mlops_assets.orchestrate.serving.service import build_service_spec
from mlops_assets.serving.http.control import ServiceStatus, status
from mlops_assets.serving.http.metrics import RequestCounts, read_request_counts
from mlops_assets.serving.http.service_folder import ServiceFolder
from mlops_assets.values.llm.prompt_service import PromptService
from mlops_assets.values.serving import Service

SECTION = "/services"
_MIN_ERROR = 500  # statuses from here on are the service's fault


def read_statuses(site: ConsoleSite) -> dict[str, ServiceStatus]:
    """Return service → its state; no file is changed."""
    return {service.name: _read_status(site, service) for service in declared_services(site)}


def declared_services(site: ConsoleSite) -> list[Service | PromptService]:
    """Return the services of models and prompts."""
    return list({service.name: service for part in site.parts for service in list_services(part.project)}.values())


def _read_status(site: ConsoleSite, service: Service | PromptService) -> ServiceStatus:
    return status(site.platform.home, service.name, build_service_spec(service, site.platform), probe=False)


def describe_state(state: ServiceStatus) -> ConsoleCell:
    """Return the state of a service as a coloured cell."""
    if state.running:
        return ConsoleCell("runs, with a problem", kind="warn") if state.problem else ConsoleCell("runs", kind="good")
    if state.wanted == "running":
        return ConsoleCell("down", kind="bad")
    return ConsoleCell(state.wanted, kind="bad" if state.wanted == "unknown" else "")


def service_path(name: str) -> str:
    """Return the path of a service's page."""
    return f"{SECTION}/{encode(name)}"


def list_states(site: ConsoleSite, _request: ConsoleRequest) -> ConsolePage:
    """Return the page with every service."""
    rows = []
    for service in declared_services(site):
        state, counts = _read_status(site, service), _read_counts(site, service.name)
        alive = [worker for worker in state.workers if worker.running]
        versions = ", ".join(dict.fromkeys(str(worker.version or "none") for worker in alive)) or UNKNOWN
        rows.append(
            (
                ConsoleCell(service.name, service_path(service.name)),
                describe_state(state),
                _model_name(service),
                versions,
                str(state.champion or "none"),
                str(len(alive)),
                f"{counts.count:,}",
                _format_errors(counts),
                _format_quantile(counts, 0.5),
                _format_quantile(counts, 0.99),
                state.problem,
            )
        )
    head = ("service", "state", "answers with", "version", "champion", "workers", "requests", "errors", "median", "99 %", "problem")
    table = ConsoleTable(
        "", head, tuple(rows), "The project declares no service. Declare one with ml.Service(name, model=MODEL).", frozenset(range(4, 10))
    )
    commands = [("The same in a terminal", site.build_command("serve status")), ("Start one", site.build_command("serve start NAME"))]
    return ConsolePage("Services", SECTION, "Requests and errors count since the counters of a service were created.", [table], commands)


def _model_name(service: Service | PromptService) -> ConsoleCell:
    name = service.prompt.name if isinstance(service, PromptService) else service.model.name
    return ConsoleCell(name, f"/models/{encode(name)}")


def _read_counts(site: ConsoleSite, name: str) -> RequestCounts:
    return read_request_counts(ServiceFolder.locate(site.platform.home, name).metrics)


def _format_errors(counts: RequestCounts) -> str:
    failed = sum(count for code, count in counts.by_status.items() if code >= _MIN_ERROR)
    return f"{failed:,} ({failed / counts.count:.2%})" if counts.count else "0"


def _format_quantile(counts: RequestCounts, share: float) -> str:
    """Return the bucket that holds a quantile, e.g. ``≤ 5 ms``; a dash without requests."""
    bound = counts.find_quantile(share)
    if bound is None:
        return UNKNOWN
    return "> 60 s" if math.isinf(bound) else f"≤ {bound * 1000:g} ms" if bound < 1 else f"≤ {bound:g} s"


def show_service(site: ConsoleSite, request: ConsoleRequest) -> ConsolePage:
    """Return the page of one service: its state, its workers, requests by status and durations."""
    name = request.path["service"]
    known = {service.name: service for service in declared_services(site)}
    if name not in known:
        raise MissingPageError("service", name, {each: service_path(each) for each in known}, site.build_command("serve status"))
    service, state, counts = known[name], _read_status(site, known[name]), _read_counts(site, name)
    shown = describe_state(state)
    notice = ConsoleNotice(
        shown.kind, f"The service {shown.text}" if state.running else f"The service is {shown.text}", state.problem or (state.url or "")
    )
    blocks: list[ConsoleBlock] = [
        ConsoleNotices("", (notice,)),
        ConsoleFacts("", _list_facts(site, service, state)),
        _list_workers(service, state),
        _list_requests(counts),
        _list_durations(counts),
        *([list_clients(site, service)] if isinstance(service, PromptService) else []),
    ]
    commands = [
        ("Start it, or update it to the champion", site.build_command(f"serve start {name}")),
        ("Stop it", site.build_command(f"serve stop {name}")),
        ("The same in a terminal", site.build_command(f"serve status {name}")),
    ]
    return ConsolePage(name, SECTION, "", blocks, commands, ConsoleCell("Services", SECTION))


def _list_facts(site: ConsoleSite, service: Service | PromptService, state: ServiceStatus) -> tuple[tuple[str, ConsoleCell | str], ...]:
    name = _model_name(service)
    champion = ConsoleCell(f"version {state.champion}", version_path(name.text, state.champion)) if state.champion else "none"
    asset = site.asset_url(service.key)
    return (
        ("requested state", state.wanted),
        ("address", state.url or "none: it does not run"),
        ("answers with", name),
        ("champion", champion),
        *([("in the Dagster UI", ConsoleCell(service.key, asset))] if asset else []),
    )


def _list_workers(service: Service | PromptService, state: ServiceStatus) -> ConsoleTable:
    model = _model_name(service).text
    rows = tuple(
        (
            f"worker {worker.index}",
            ConsoleCell("runs", kind="good") if worker.running else ConsoleCell("ended", kind="bad"),
            ConsoleCell(f"version {worker.version}", version_path(model, worker.version)) if worker.version else "none",
            str(worker.pid),
            worker.predictor,
            worker.error or (f"trained with {worker.libraries}" if worker.libraries else ""),
        )
        for worker in state.workers
    )
    return ConsoleTable("Workers", ("worker", "process", "version", "pid", "predictor", "problem"), rows, "No worker has reported.")


def _list_requests(counts: RequestCounts) -> ConsoleTable:
    rows = tuple(
        (ConsoleCell(str(code), kind="bad" if code >= _MIN_ERROR else ""), f"{count:,}", f"{count / max(1, counts.count):.2%}")
        for code, count in counts.by_status.items()
    )
    return ConsoleTable("Requests by status", ("status", "requests", "share"), rows, "No request was answered yet.", frozenset({1, 2}))


def _list_durations(counts: RequestCounts) -> ConsoleTable:
    rows = tuple((f"{share:.3g} %", _format_quantile(counts, share / 100)) for share in (50, 90, 99, 99.9)) if counts.count else ()
    mean = f", {format_number(1000 * counts.seconds / counts.count)} ms on average" if counts.count else ""
    return ConsoleTable(f"Durations{mean}", ("share of requests", "duration"), rows, "No request was answered yet.", frozenset({1}))
