"""The page of a model's ML Test Score."""

from mlops_assets.compute.pages.console_page import ConsoleCell, ConsoleFacts, ConsolePage, ConsoleRow, ConsoleTable
from mlops_assets.orchestrate.console.model_pages import SECTION
from mlops_assets.orchestrate.console.site import ConsoleRequest, ConsoleSite, MissingPageError, encode
from mlops_assets.orchestrate.score.score_facts import ScoreFacts
from mlops_assets.orchestrate.score.scoring import score_model
from mlops_assets.values.model import Model
from mlops_assets.values.score.rubric import FULL, SECTIONS

_HEAD = ("test", "verifies that", "points", "evidence", "next")


def show_score(site: ConsoleSite, request: ConsoleRequest) -> ConsolePage:
    """Return the page of a model's score, by section; raise MissingPageError for a name that is not a declared model."""
    name = request.path["model"]
    known = {model.name: (part, model) for part in site.parts for model in part.project.select(Model)}
    if name not in known:
        addresses = {each: f"{SECTION}/{encode(each)}/score" for each in known}
        raise MissingPageError("declared model", name, addresses, site.build_command("doctor --score"))
    part, model = known[name]
    report = score_model(ScoreFacts(part.project, site.stores, model, site.instance, part.alerts))
    pairs = (
        ("score", f"{report.score:g} of 7: {report.level}"),
        *((section, f"{report.sections[section]:g} of 7") for section in SECTIONS),
    )
    tables = [_list_section(section, [row for row in report.rows if row["section"] == section]) for section in SECTIONS]
    text = "Half a point for a test by hand, a full point for an automated one. The score is the minimum of the sections."
    commands = [("The same in a terminal", site.build_command(f"doctor --score --model {name}"))]
    above = ConsoleCell(name, f"{SECTION}/{encode(name)}")
    return ConsolePage(f"ML Test Score of {name}", SECTION, text, [ConsoleFacts("", pairs), *tables], commands, above)


def _list_section(section: str, rows: list[dict[str, object]]) -> ConsoleTable:
    cells: list[ConsoleRow] = []
    for row in rows:
        points = float(str(row["points"]))
        kind = "good" if points == FULL else "warn" if points else "bad"
        cells.append(
            (
                str(row["test"]),
                str(row["verifies that"]),
                ConsoleCell(f"{points:g}", kind=kind),
                str(row["evidence"]),
                str(row["next"]) or "nothing",
            )
        )
    return ConsoleTable(section.capitalize(), _HEAD, tuple(cells), "", frozenset({2}))
