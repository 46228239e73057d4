"""``mlops doctor --score``: the ML Test Score of each model, and what earns the next point."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_assets.cli.options import build_table, console, load, write_json
from mlops_assets.errors import DefinitionError

if TYPE_CHECKING:
    from mlops_assets.cli.project import LoadedProject
    from mlops_assets.orchestrate.score.scoring import ScoreReport


def print_scores(file: str, model: str, json_file: str | None) -> None:
    """Print the score of one model, or of every model when ``model`` is empty, as tables or as JSON."""
    reports = _score_models(load(file), model)
    if json_file:
        write_json([_describe_report(report) for report in reports], json_file)
        return
    out = console()
    for report in reports:
        sections = ", ".join(f"{section} {points:g}" for section, points in report.sections.items())
        out.print(build_table(f"ML Test Score of {report.model}: {report.score:g} ({sections}) of 7", _shorten(report)))
        out.print(f"{report.score:g}: {report.level}. The score is the minimum of the sections.")


def _score_models(project: LoadedProject, name: str) -> list[ScoreReport]:
    """Return the score of the named model, or of each model; raise DefinitionError when there is none."""
    from mlops_assets.orchestrate.core.dagster_files import open_instance
    from mlops_assets.orchestrate.score.score_facts import ScoreFacts
    from mlops_assets.orchestrate.score.scoring import score_model
    from mlops_assets.values.model import Model

    if name:
        project.find(Model, name, "model")
    declared = {model.name: (part, model) for part in project.parts for model in part.project.select(Model)}
    if not declared:
        raise DefinitionError(f"{project.target} declares no model", hint="declare a model with @ml.model")
    with open_instance(project.platform) as instance:
        facts = [
            ScoreFacts(part.project, project.stores, model, instance, part.alerts)
            for part, model in declared.values()
            if name in ("", model.name)
        ]
        return [score_model(each) for each in facts]


def _shorten(report: ScoreReport) -> list[dict[str, str]]:
    """Return the rows of a table for a terminal."""
    return [
        {
            "section": row["section"],
            "test": f"{row['test']}: {row['verifies that']}",
            "points": f"{row['points']:g}",
            "evidence": row["evidence"],
            "next": row["next"],
        }
        for row in report.rows
    ]


def _describe_report(report: ScoreReport) -> dict[str, object]:
    return {
        "model": report.model,
        "score": report.score,
        "meaning": report.level,
        "sections": report.sections,
        "tests": report.rows,
    }
