"""Pages about runs: a list with filter and order, one run, and the comparison of chosen runs."""

from collections.abc import Iterable, Mapping, Sequence

from mlops_assets.compute.pages.charts import Line, draw_lines
from mlops_assets.compute.pages.console_page import (
    ConsoleBlock,
    ConsoleCell,
    ConsoleCharts,
    ConsoleComparison,
    ConsoleFacts,
    ConsoleForm,
    ConsoleNotice,
    ConsoleNotices,
    ConsolePage,
    ConsoleRow,
    ConsoleTable,
)
from mlops_assets.compute.pages.run_comparison import ComparedRun
from mlops_assets.compute.text import UNKNOWN, format_duration, format_number
from mlops_assets.errors import RegistryError
from mlops_assets.orchestrate.console.site import (
    PAGE_ROWS,
    ConsoleRequest,
    ConsoleSite,
    MissingPageError,
    build_page_links,
    encode,
    format_time,
    join_query,
)
from mlops_assets.stores.base.process import is_gone
from mlops_assets.stores.tracker.queries import quote_name
from mlops_assets.stores.tracker.tracker import FAILED, KILLED, RUNNING, Run

SECTION = "/runs"
MAX_COMPARED = 20
_MAX_COLUMNS = 4  # of metrics, and of parameters
_MAX_CHARTS = 24
_MAX_CHILDREN = 20
_KINDS = {FAILED: "bad", KILLED: "bad", RUNNING: "warn"}


def list_runs(site: ConsoleSite, request: ConsoleRequest) -> ConsolePage:
    """Return the page with the runs that match a filter, in an order; for an invalid filter, the page shows the reason."""
    where, order = request.text("where"), request.text("order")
    fields = (
        ("where", "Filter", where, "metrics.roc_auc > 0.7 and params.depth >= 3"),
        ("order", "Order", order, "metrics.roc_auc desc  (default: newest first)"),
    )
    form = ConsoleForm(SECTION, fields, "Show")
    options = "".join(f" --{name} {_quote_shell(text)}" for name, text in (("where", where), ("order", order)) if text)
    commands = [
        ("The same in a terminal", site.build_command(f"runs list{options}")),
        ("Write them to a file", site.build_command(f"runs export runs.parquet{f' --where {_quote_shell(where)}' if where else ''}")),
    ]
    try:
        runs = site.tracker.search(where, order, PAGE_ROWS + 1, request.offset)
    except RegistryError as error:
        notice = ConsoleNotices("", (ConsoleNotice("bad", error.message, error.hint),))
        return ConsolePage("Runs", SECTION, "", [form, notice], commands, status=400)
    links = build_page_links(SECTION, request, has_more=len(runs) > PAGE_ROWS)
    table = _build_table(runs[:PAGE_ROWS], where, order, links)
    return ConsolePage("Runs", SECTION, "Trainings, trials, notebooks and scripts.", [form, table], commands)


def _build_table(runs: Sequence[Run], where: str, order: str, links: tuple[ConsoleCell, ...]) -> ConsoleTable:
    metrics = list_metric_names((run.metrics for run in runs), _MAX_COLUMNS)
    params = _list_param_names(runs)
    heads: list[ConsoleCell | str] = [
        *(_build_sort_heading(name, name, where, order) for name in ("experiment", "name", "kind", "status")),
        _build_sort_heading("started (UTC)", "started_at", where, order),
        "took",
        *(_build_sort_heading(name, f"metrics.{quote_name(name)}", where, order) for name in metrics),
        *(_build_sort_heading(name, f"params.{quote_name(name)}", where, order) for name in params),
    ]
    rows: tuple[ConsoleRow, ...] = tuple(
        (
            link_run(run.id),
            run.model,
            run.name,
            run.kind,
            ConsoleCell(describe_status(run), kind=_KINDS.get(run.status, "")),
            format_time(run.started_at),
            _format_run_duration(run),
            *(format_number(run.metrics.get(name), 5, nan="NaN") if name in run.metrics else "" for name in metrics),
            *(_format_param(run.params.get(name)) for name in params),
        )
        for run in runs
    )
    empty = (
        "No run matches the filter."
        if where
        else "No run is recorded yet: train a model with `mlops run`, or use ml.start_run in a notebook."
    )
    numeric = frozenset(range(7, 7 + len(metrics)))
    compare = f"{SECTION}/compare" if len(runs) > 1 else ""
    return ConsoleTable("", ("run", *heads), rows, empty, numeric, "run" if compare else "", compare, tuple(run.id for run in runs), links)


def _build_sort_heading(text: str, field: str, where: str, order: str) -> ConsoleCell:
    """Return a heading that sorts by its column; in reverse order when the list is sorted by it already."""
    mark = {f"{field} desc": " ↓", field: " ↑"}.get(order, "")
    to = field if order == f"{field} desc" else f"{field} desc"
    return ConsoleCell(text + mark, f"{SECTION}?{join_query([('where', where), ('order', to)])}")


def list_metric_names(metrics: Iterable[Mapping[str, float]], limit: int) -> list[str]:
    """Return the names of the first ``limit`` metrics that any run has; names with a dot come last."""
    names = dict.fromkeys(name for values in metrics for name in values)
    return sorted(names, key=lambda name: "." in name)[:limit]


def _list_param_names(runs: Sequence[Run]) -> list[str]:
    """Return the names of up to four parameters; those whose values differ between the runs come first."""
    values: dict[str, set[str]] = {}
    for run in runs:
        for name, value in run.params.items():
            values.setdefault(name, set()).add(str(value))
    return sorted(values, key=lambda name: len(values[name]) == 1)[:_MAX_COLUMNS]


def _format_param(value: object) -> str:
    text = "" if value is None else format_number(value, 4) if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _quote_shell(text: str) -> str:
    return '"{}"'.format("".join(f"\\{sign}" if sign in '\\"$`' else sign for sign in text))


def link_run(run_id: str) -> ConsoleCell:
    """Return a run as a link to its page."""
    return ConsoleCell(run_id[:8], f"{SECTION}/{encode(run_id)}")


def describe_status(run: Run) -> str:
    """Return the status of a run; the status of a running run says so if its process has ended."""
    is_dead = run.status == RUNNING and is_gone(run.record.get("process", {}))
    return "running, but its process has ended" if is_dead else run.status


def _format_run_duration(run: Run) -> str:
    return format_duration(None if run.ended_at is None else run.ended_at - run.started_at)


def _find_run(site: ConsoleSite, run_id: str) -> Run:
    try:
        return site.tracker.get(run_id)
    except RegistryError:
        newest = {run.id: f"{SECTION}/{run.id}" for run in site.tracker.list(limit=PAGE_ROWS)}
        raise MissingPageError("run", run_id, newest, site.build_command("runs list")) from None


def show_run(site: ConsoleSite, request: ConsoleRequest) -> ConsolePage:
    """Return the page of one run: facts, metrics, parameters, curves, files and children."""
    run = _find_run(site, request.path["run"])
    metrics = tuple((name, format_number(value, 6, nan="NaN")) for name, value in run.metrics.items())
    blocks: list[ConsoleBlock] = [
        ConsoleFacts("", _list_facts(site, run)),
        ConsoleTable("Metrics, last values", ("metric", "value"), metrics, "It logged no metric.", frozenset({1})),
        ConsoleTable("Parameters", ("parameter", "value"), tuple((n, str(v)) for n, v in run.params.items()), "It has no parameters."),
        *_draw_curves(site, run),
        ConsoleTable(
            "Files",
            ("file", "bytes", "type", "sha256"),
            tuple((file.name, f"{file.size:,}", file.media, file.sha256[:16]) for file in site.tracker.artifacts(run.id)),
            "It stored no file.",
            frozenset({1}),
        ),
        *_list_children(site, run),
    ]
    commands = [
        ("The same in a terminal", site.build_command(f"runs show {run.id[:8]}")),
        ("Compare with another run", site.build_command(f"runs compare {run.id[:8]} OTHER --html comparison.html")),
    ]
    title = f"{run.model} {run.name or run.id[:8]}"
    return ConsolePage(title, SECTION, "", blocks, commands, ConsoleCell("Runs", SECTION))


def _list_facts(site: ConsoleSite, run: Run) -> tuple[tuple[str, ConsoleCell | str], ...]:
    same = join_query([("where", f"experiment = '{run.model}'")])
    experiment = ConsoleCell(run.model, f"{SECTION}?{same}")
    dagster = ConsoleCell(run.dagster_run_id[:8], f"{site.dagster_url}/runs/{encode(run.dagster_run_id)}" if site.dagster_url else "")
    facts: list[tuple[str, ConsoleCell | str]] = [
        ("id", run.id),
        ("experiment", experiment),
        ("kind", run.kind),
        ("status", ConsoleCell(describe_status(run), kind=_KINDS.get(run.status, ""))),
        *([("error", ConsoleCell(run.error, kind="bad"))] if run.error else []),
        ("started (UTC)", format_time(run.started_at)),
        ("took", _format_run_duration(run)),
        ("environment", run.environment),
        *([("parent", link_run(run.parent_id))] if run.parent_id else []),
        *([("Dagster run", dagster)] if run.dagster_run_id else []),
        ("lake snapshot", UNKNOWN if run.snapshot is None else str(run.snapshot)),
        *((f"tag {name}", value) for name, value in run.tags.items()),
    ]
    return tuple(facts)


def _draw_curves(site: ConsoleSite, run: Run) -> list[ConsoleBlock]:
    curves = {name: curve for name, curve in site.tracker.curves(run.id).items() if len(curve.steps) > 1}
    charts = tuple(
        (name, draw_lines([Line(name, curve.steps.tolist(), curve.values.tolist(), "of0")], f"{name} by step"))
        for name, curve in list(curves.items())[:_MAX_CHARTS]
    )
    hidden = f", the first {_MAX_CHARTS} of {len(curves)}" if len(curves) > _MAX_CHARTS else ""
    return [ConsoleCharts(f"Curves by step{hidden}", charts)] if charts else []


def _list_children(site: ConsoleSite, run: Run) -> list[ConsoleBlock]:
    condition = f"parent = '{run.id}'"
    children = site.tracker.search(condition, limit=_MAX_CHILDREN + 1)
    if not children:
        return []
    rows = tuple((link_run(child.id), child.kind, child.name, describe_status(child)) for child in children[:_MAX_CHILDREN])
    more = (ConsoleCell("all children", f"{SECTION}?{join_query([('where', condition)])}"),) if len(children) > _MAX_CHILDREN else ()
    return [ConsoleTable("Children", ("run", "kind", "name", "status"), rows, "", more=more)]


def compare_run(site: ConsoleSite, run: Run, name: str | None = None) -> ComparedRun:
    """Return a run with its curves for a comparison; ``name`` replaces that of the run."""
    curves = {metric: (curve.steps.tolist(), curve.values.tolist()) for metric, curve in site.tracker.curves(run.id).items()}
    took = None if run.ended_at is None else run.ended_at - run.started_at
    return ComparedRun(
        run.id, run.model, run.name if name is None else name, run.status, run.started_at, took, run.params, run.metrics, run.tags, curves
    )


def compare_runs(site: ConsoleSite, request: ConsoleRequest) -> ConsolePage:
    """Return the comparison of the chosen runs, at most 20."""
    above = ConsoleCell("Runs", SECTION)
    chosen = [_find_run(site, run_id) for run_id in list(dict.fromkeys(request.query.get("run", ())))[:MAX_COMPARED]]
    if len(chosen) < 2:
        return ConsolePage("Compare runs", SECTION, "Choose two runs or more in the list of runs.", above=above)
    ids = " ".join(run.id[:8] for run in chosen)
    commands = [("Write the comparison as a page", site.build_command(f"runs compare {ids} --html comparison.html"))]
    block = ConsoleComparison(tuple(compare_run(site, run) for run in chosen))
    return ConsolePage(f"{len(chosen)} runs", SECTION, "", [block], commands, above)
