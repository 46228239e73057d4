"""``mlops replay``: what retraining policies would have done in the past."""

from __future__ import annotations

import os

import click

from mlops_assets.cli.options import build_table, console, file_option, json_option, load, write_json


@click.command("replay")
@click.option("--from", "start", metavar="DATE", required=True, help="The beginning of the first window (ISO 8601).")
@click.option("--to", "end", metavar="DATE", required=True, help="The end of the last window (ISO 8601).")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="POLICY",
    help="never, every:30d, every:30d,window=90d, loop (the monitor's on_failure), or FILE.py:NAME of an ml.Retrain(...); repeat it.  "
    "[default: never, every:30d and, with a monitor that retrains, loop]",
)
@click.option("--suggest", is_flag=True, help="Compare a small grid of policies, and print the recommended on_failure= line.")
@click.option("--model", "model_name", metavar="NAME", default="", help="The model; required when the project has several.")
@click.option(
    "--by",
    type=click.Choice(["hour", "day", "week", "month", "quarter", "year"]),
    help="Length of the windows in the result.  [default: the longest unit that gives 20 windows or more]",
)
@click.option("--metric", default="", help="A scikit-learn scorer to compare policies by.  [default: the model's first metric]")
@click.option("--processes", type=click.IntRange(1), default=None, help="Processes that train in parallel.  [default: one for each core]")
@click.option("--refresh", is_flag=True, help="Reload the replay's cached copies of the tables.")
@file_option
@json_option
def replay(  # noqa: PLR0913  (options of the command)
    start: str,
    end: str,
    policies: tuple[str, ...],
    suggest: bool,  # noqa: FBT001  (click passes it)
    model_name: str,
    by: str | None,
    metric: str,
    processes: int | None,
    refresh: bool,  # noqa: FBT001
    file: str,
    json_file: str | None,
) -> None:
    """Replay retraining policies on history, with the decisions, gates and trainings of production.

    At each decision, a policy uses only rows and labels that were known then. The result is a page and a JSON file in the platform's
    home; stores of the project are not changed. A replay that was killed continues when it is started again.

    Example: mlops replay --from 2013-05-01 --to 2014-01-01 --policy never --policy every:30d --policy loop
    """
    from rich.console import Console

    from mlops_assets.cli.replay import preparation
    from mlops_assets.orchestrate.replay.run import to_json

    out = Console(stderr=True, emoji=False) if json_file == "-" else console()
    with out.status("loading the project"):
        project = load(file)
    request = preparation.ReplayRequest(start, end, policies, suggest, model_name, by, metric, processes or os.cpu_count() or 1, refresh)
    finished = preparation.run(project, file, request, out)
    if json_file:
        write_json(to_json(finished.result), json_file)
        return
    out.print(build_table(f"{finished.result.model}: {finished.result.metric} by {finished.result.by}", finished.rows))
    for line in finished.lines:
        out.print(line, highlight=False, soft_wrap=True, markup=False)
