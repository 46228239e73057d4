"""Pages about models and prompts: their versions, the history of their aliases, one version, its card, and the comparison of versions."""

from collections.abc import Mapping, Sequence
from typing import Any

from mlops_assets.compute.pages.console_page import (
    ConsoleBlock,
    ConsoleCell,
    ConsoleComparison,
    ConsoleFacts,
    ConsoleNotice,
    ConsoleNotices,
    ConsolePage,
    ConsoleRow,
    ConsoleTable,
)
from mlops_assets.compute.text import UNKNOWN, format_number
from mlops_assets.compute.training.lifecycle import CHALLENGER, CHAMPION, DAMAGED, GATES_PASSED
from mlops_assets.orchestrate.console.run_pages import MAX_COMPARED, compare_run, link_run, list_metric_names
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
from mlops_assets.orchestrate.versions.card import PAGE
from mlops_assets.stores.registry.records import AliasEvent, Evidence, Version
from mlops_assets.stores.registry.version_files import open_version_files
from mlops_assets.stores.tracker.tracker import Run
from mlops_assets.values.llm.prompt import Prompt
from mlops_assets.values.model import Model

SECTION = "/models"
_MAX_METRICS = 5
_MAX_MOVES = 30
_KINDS = {CHAMPION: "good", DAMAGED: "bad", CHALLENGER: "warn"}


def list_models(site: ConsoleSite, _request: ConsoleRequest) -> ConsolePage:
    """Return the page with every model and prompt, declared or registered."""
    by_model: dict[str, list[Version]] = {name: [] for name in declared_names(site)}
    for version in site.stores.registry.versions():
        by_model.setdefault(version.model, []).append(version)
    champions = {name: find_alias(versions, CHAMPION) for name, versions in by_model.items()}
    runs = site.tracker.load([version.run_id for version in champions.values() if version])
    rows = [_summarise(site, name, versions, champions[name], runs) for name, versions in sorted(by_model.items())]
    head = ("model", "kind", "champion", "its metrics", "challenger", "versions", "newest")
    table = ConsoleTable("", head, tuple(rows), "The project declares no model yet. Declare one with @ml.model.", frozenset({5}))
    commands = [("List all versions", site.build_command("models list")), ("Train, judge and register", site.build_command("run"))]
    return ConsolePage(
        "Models", SECTION, "The champion answers requests. A version is registered once its gates have passed.", [table], commands
    )


def declared_names(site: ConsoleSite) -> dict[str, str]:
    """Return model or prompt → ``model`` or ``prompt``, for the declared ones."""
    models = {model.name: "model" for _, model in site.select(Model)}
    return models | {prompt.name: "prompt" for _, prompt in site.select(Prompt)}


def find_alias(versions: Sequence[Version], alias: str) -> Version | None:
    """Return the version with an alias; None when no version has it."""
    return next((version for version in versions if alias in version.aliases), None)


def link_version(version: Version | None) -> ConsoleCell | str:
    """Return a version as a link to its page; a dash for None."""
    if version is None:
        return UNKNOWN
    return ConsoleCell(f"version {version.version}", version_path(version.model, version.version), _KINDS.get(version.state, ""))


def version_path(model: str, number: int) -> str:
    """Return the path of a version's page."""
    return f"{SECTION}/{encode(model)}/versions/{number}"


def find_waiting(site: ConsoleSite, versions: Sequence[Version]) -> list[Version]:
    """Return the versions that a person must approve: gates passed, undecided, and newer than the champion of a model with approval."""
    names = {model.name for _, model in site.select(Model) if model.approval}
    names |= {prompt.name for _, prompt in site.select(Prompt) if prompt.approval}
    champions = {version.model: version.version for version in versions if CHAMPION in version.aliases}
    return [v for v in versions if v.model in names and v.state == GATES_PASSED and v.version > champions.get(v.model, 0)]


def _summarise(
    site: ConsoleSite, name: str, versions: Sequence[Version], champion: Version | None, runs: Mapping[str, Run]
) -> tuple[ConsoleCell | str, ...]:
    newest = versions[-1] if versions else None
    kind = declared_names(site).get(name, "not declared any more")
    metrics = _list_gate_metrics(runs.get(champion.run_id)) if champion else {}
    shown = ", ".join(f"{metric} {format_number(value)}" for metric, value in list(metrics.items())[:2])
    state = f"version {newest.version}: {newest.state}, {format_time(newest.created_at)}" if newest else "not trained yet"
    cells = (link_version(champion), shown, link_version(find_alias(versions, CHALLENGER)), str(len(versions)), state)
    return (ConsoleCell(name, f"{SECTION}/{encode(name)}"), kind, *cells)


def _list_gate_metrics(run: Run | None) -> Mapping[str, float]:
    """Return the metrics that gates judge."""
    if run is None:
        return {}
    names = run.record.get("judged_by", run.metrics)
    return {name: value for name, value in run.metrics.items() if name in names}


def _find_model(site: ConsoleSite, name: str) -> list[Version]:
    """Return the versions of a model or prompt; raise MissingPageError for an unknown name."""
    versions = site.stores.registry.versions(name)
    declared = declared_names(site)
    if not versions and name not in declared:
        names = sorted({*declared, *(version.model for version in site.stores.registry.versions())})
        known = {each: f"{SECTION}/{encode(each)}" for each in names}
        raise MissingPageError("model", name, known, site.build_command("models list"))
    return versions


def show_model(site: ConsoleSite, request: ConsoleRequest) -> ConsolePage:
    """Return the page of one model: its champion, its versions, newest first, and the moves of its aliases."""
    name = request.path["model"]
    versions = _find_model(site, name)
    group = "prompts" if declared_names(site).get(name) == "prompt" else "models"
    path = f"{SECTION}/{encode(name)}"
    shown, has_more = select_page_rows(versions[::-1], request)
    blocks: list[ConsoleBlock] = [
        ConsoleNotices("", tuple(_list_state_notices(site, name, versions, group))),
        *(
            [ConsoleFacts("", (("ML Test Score", ConsoleCell("show", f"{path}/score")),))]
            if declared_names(site).get(name) == "model"
            else []
        ),
        _list_versions(site, path, shown, build_page_links(path, request, has_more=has_more)),
        _list_moves(site.stores.registry.history(name)[: -_MAX_MOVES - 1 : -1]),
    ]
    newest = versions[-1].version if versions else 1
    commands = [
        ("All events, refused candidates included", site.build_command(f"{group} history {name}")),
        ("Make a version the champion", site.build_command(f"{group} promote {name} --version {newest} --reason WHY")),
        ("Restore the champion before", site.build_command(f"{group} rollback {name} --reason WHY")),
    ]
    return ConsolePage(name, SECTION, "", blocks, commands, ConsoleCell("Models", SECTION))


def _list_state_notices(site: ConsoleSite, name: str, versions: Sequence[Version], group: str) -> list[ConsoleNotice]:
    champion = find_alias(versions, CHAMPION)
    found = [
        ConsoleNotice(
            "warn",
            f"Version {v.version} waits for approval",
            "Its gates passed.",
            version_path(name, v.version),
            _build_approve_command(site, v, group),
        )
        for v in find_waiting(site, versions)[-1:]
    ]
    if champion is None:
        text = "Train and register a version first." if not versions else "No version was promoted in this environment."
        return [ConsoleNotice("", "No champion", text, "", site.build_command("run")), *found]
    moved = f"registered {format_time(champion.created_at)} UTC"
    return [ConsoleNotice("good", f"Version {champion.version} is the champion", moved, version_path(name, champion.version)), *found]


def _build_approve_command(site: ConsoleSite, version: Version, group: str = "models") -> str:
    return site.build_command(f"{group} approve {version.model} {version.version} --approver NAME --reason WHY")


def _list_versions(site: ConsoleSite, path: str, shown: Sequence[Version], more: tuple[ConsoleCell, ...]) -> ConsoleTable:
    runs = site.tracker.load([version.run_id for version in shown])
    metrics = list_metric_names((_list_gate_metrics(run) for run in runs.values()), _MAX_METRICS)
    rows = []
    for version in shown:
        values = _list_gate_metrics(runs.get(version.run_id))
        state = ConsoleCell(version.state, kind=_KINDS.get(version.state, ""))
        figures = [format_number(values.get(name), 5) for name in metrics]
        run = link_run(version.run_id)
        rows.append((link_version(version), state, *figures, format_time(version.created_at), run))
    head = ("version", "state", *metrics, "registered (UTC)", "run")
    numeric = frozenset(range(2, 2 + len(metrics)))
    empty = "No version yet: a candidate that passes its gates becomes one."
    numbers = tuple(str(version.version) for version in shown)
    compare = f"{path}/compare" if len(shown) > 1 else ""
    return ConsoleTable("Versions", head, tuple(rows), empty, numeric, "version" if compare else "", compare, numbers, more)


def _list_moves(events: Sequence[AliasEvent]) -> ConsoleTable:
    rows = tuple(
        (
            format_time(event.at),
            event.kind,
            ConsoleCell(f"version {event.version}", version_path(event.model, event.version)),
            f"version {event.previous}" if event.previous else "none",
            event.environment,
            event.actor,
            event.reason,
            "; ".join(f"{gate['gate']}: {gate['reason']}" for gate in event.evidence),
        )
        for event in events
    )
    head = ("time (UTC)", "move", "to", "from", "environment", "actor", "reason", "evidence of the gates")
    title = f"Moves of aliases, newest first{f' (the last {_MAX_MOVES})' if len(events) == _MAX_MOVES else ''}"
    return ConsoleTable(title, head, rows, "No alias has moved yet.")


def find_version(site: ConsoleSite, model: str, number: str) -> Version:
    """Return a version by its number as text; raise MissingPageError when there is none."""
    return find_versions(site, model, [number])[0]


def find_versions(site: ConsoleSite, model: str, numbers: Sequence[str]) -> list[Version]:
    """Return versions by their numbers as text; raise MissingPageError for the first that does not exist."""
    by_number = {str(version.version): version for version in _find_model(site, model)}
    for number in numbers:
        if number not in by_number:
            known = {each: version_path(model, int(each)) for each in by_number}
            raise MissingPageError(f"version of '{model}' numbered", number, known, site.build_command(f"models list {model}"))
    return [by_number[number] for number in numbers]


def show_version(site: ConsoleSite, request: ConsoleRequest) -> ConsolePage:
    """Return the page of one version: state, evidence, approvals, damage, training, data and code."""
    version = find_version(site, request.path["model"], request.path["version"])
    registry, model, name = site.stores.registry, version.model, f"{version.model}@{version.version}"
    group = "prompts" if declared_names(site).get(model) == "prompt" else "models"
    run = site.tracker.load([version.run_id]).get(version.run_id)
    approvals = tuple(
        (format_time(a.at), a.environment, "approved" if a.approved else "rejected", a.approver, a.reason)
        for a in registry.approvals(model, version.version)
    )
    marks = tuple((format_time(m.at), m.mark, m.reason) for m in registry.marks(model, version.version))
    blocks: list[ConsoleBlock] = [
        ConsoleFacts("", _list_facts(site, version)),
        list_evidence("Evidence of the gates", registry.evidence(model, version.digest)),
        ConsoleTable("Approvals", ("time (UTC)", "environment", "decision", "approver", "reason"), approvals, "No person has decided."),
        *([ConsoleTable("Damage", ("time (UTC)", "mark", "reason"), marks, "")] if marks else []),
        *(_describe_training(run) if run else []),
    ]
    commands = [
        ("Show everything recorded, files verified", site.build_command(f"{group} show {name}")),
        ("Promote it", site.build_command(f"{group} promote {model} --version {version.version} --reason WHY")),
        ("Approve it", _build_approve_command(site, version, group)),
        *([("Train it again and compare", site.build_command(f"reproduce {name}"))] if group == "models" else []),
    ]
    return ConsolePage(name, SECTION, "", blocks, commands, ConsoleCell(model, f"{SECTION}/{encode(model)}"))


def _list_facts(site: ConsoleSite, version: Version) -> tuple[tuple[str, ConsoleCell | str], ...]:
    path = version_path(version.model, version.version)
    has_card = PAGE in open_version_files(site.platform.registry).list_files(version.model, version.version)
    card = (
        ConsoleCell("open", f"{path}/card")
        if has_card
        else f"not stored: {site.build_command(f'models card {version.model}@{version.version}')} builds it"
    )
    return (
        ("state", ConsoleCell(version.state + (f": {version.damage}" if version.damage else ""), kind=_KINDS.get(version.state, ""))),
        ("aliases", ", ".join(version.aliases) or "none"),
        ("approval", version.approval or "undecided"),
        ("registered (UTC)", format_time(version.created_at)),
        ("model card", card),
        ("run", link_run(version.run_id)),
        ("candidate", version.digest),
        ("lake snapshot", str(version.snapshot)),
    )


def list_evidence(title: str, evidence: Sequence[Evidence]) -> ConsoleTable:
    """Return the results of gates as a table."""
    rows = tuple(
        (
            e.gate,
            ConsoleCell("passed", kind="good") if e.passed else ConsoleCell("failed", kind="bad"),
            format_number(e.value, 5),
            format_number(e.threshold, 5),
            UNKNOWN if e.low is None or e.high is None else f"{format_number(e.low)} to {format_number(e.high)}",
            (e.champion[:12] or "no champion") if e.relative else "",
            e.reason,
        )
        for e in evidence
    )
    head = ("gate", "result", "value", "threshold", "interval", "compared with", "reason")
    return ConsoleTable(title, head, rows, "No gate was evaluated in this environment.", frozenset({2, 3, 4}))


def _describe_training(run: Run) -> list[ConsoleFacts | ConsoleTable]:
    metrics = tuple((name, format_number(value, 6, nan="NaN")) for name, value in run.metrics.items())
    params = tuple((name, str(value)) for name, value in run.params.items())
    return [
        ConsoleTable("Metrics", ("metric", "value"), metrics, "The training logged no metric.", frozenset({1})),
        ConsoleTable("Parameters", ("parameter", "value"), params, "The training has no parameters."),
        ConsoleFacts("Data and code", tuple(describe_inputs(run).items())),
    ]


def describe_inputs(run: Run) -> dict[str, str]:
    """Return the data, code and libraries of a training, as they were recorded: name → value."""
    facts: Mapping[str, Any] = run.record.get("facts", {})
    rows = {entry["table"]: f" ({entry['rows']:,} rows)" for entry in run.record.get("inputs", ())}
    hashes = {entry["table"]: entry["content_hash"] for entry in run.record.get("inputs", ())} | dict(facts.get("tables", {}))
    git = facts.get("git", {})
    commit = git.get("commit", "none") + (" with changes that were not committed" if "diff" in git else "")
    return {
        **{f"table {table}": f"{sha[:16]}{rows.get(table, '')}" for table, sha in sorted(hashes.items())},
        **{f"feature view {view}": f"version {version}" for view, version in facts.get("views", {}).items()},
        "code of the model": str(run.record.get("code", UNKNOWN))[:16],
        "commit": commit,
        "Python": str(run.record.get("python", UNKNOWN)),
        **{f"library {name}": str(version) for name, version in dict(run.record.get("libraries", {})).items()},
    }


def compare_versions(site: ConsoleSite, request: ConsoleRequest) -> ConsolePage:
    """Return the comparison of at most 20 versions of a model: metrics, parameters, curves, data and code."""
    model = request.path["model"]
    above = ConsoleCell(model, f"{SECTION}/{encode(model)}")
    numbers = list(dict.fromkeys(request.query.get("version", ())))[:MAX_COMPARED]
    versions = find_versions(site, model, numbers)
    if len(versions) < 2:
        return ConsolePage(f"Compare versions of {model}", SECTION, "Choose two versions or more on the page of the model.", above=above)
    runs = site.tracker.load([version.run_id for version in versions])
    known = [(version, runs[version.run_id]) for version in versions if version.run_id in runs]
    inputs = [describe_inputs(run) for _, run in known]
    names = list(dict.fromkeys(name for described in inputs for name in described))
    rows = sorted(
        ((name, *(described.get(name, UNKNOWN) for described in inputs)) for name in names), key=lambda row: len(set(row[1:])) == 1
    )
    marked: tuple[ConsoleRow, ...] = tuple((ConsoleCell(row[0], kind="" if len(set(row[1:])) == 1 else "warn"), *row[1:]) for row in rows)
    titles = [f"version {version.version}" for version, _ in known]
    table = ConsoleTable("Data and code, differing rows first", ("", *titles), marked, "Nothing was recorded.")
    compared = tuple(compare_run(site, run, f"version {version.version}") for version, run in known)
    gates = [list_evidence(f"Gates of version {v.version}", site.stores.registry.evidence(model, v.digest)) for v, _ in known]
    ids = " ".join(run.id[:8] for _, run in known)
    commands = [("The same in a terminal", site.build_command(f"runs compare {ids}"))]
    return ConsolePage(f"{model}: {', '.join(titles)}", SECTION, "", [ConsoleComparison(compared), table, *gates], commands, above)


def show_card(site: ConsoleSite, request: ConsoleRequest) -> StoredDocument:
    """Return the stored model card of a version; raise MissingPageError when none is stored."""
    version = find_version(site, request.path["model"], request.path["version"])
    sha256 = open_version_files(site.platform.registry).list_files(version.model, version.version).get(PAGE)
    if sha256 is None:
        name = f"{version.model}@{version.version}"
        raise MissingPageError(
            "stored card of", name, {name: version_path(version.model, version.version)}, site.build_command(f"models card {name}")
        )
    return StoredDocument(site.stores.artifacts.get(sha256))
