"""The commands of ``mlops traces``: list and show traces, and label them for an evaluation set."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from mlops_assets.cli.llm.trace_receiver import receive
from mlops_assets.cli.options import build_table, console, file_option, json_option, load, print_rows, write_json, write_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from mlops_assets.cli.llm.trace_reading import TraceReader
    from mlops_assets.compute.llm_traces.trace_tree import Trace

_DAY = click.DateTime(["%Y-%m-%d"])
_MAX_LINES = 3  # unreadable lines that are named


@click.group()
def traces() -> None:
    """The traces of services and applications: receive them, list them, show one, and make labelled cases of them."""


traces.add_command(receive)


@traces.command("list")
@click.argument("source")
@click.option("--since", type=_DAY, metavar="DAY", help="The first day, in UTC.")
@click.option("--until", type=_DAY, metavar="DAY", help="The last day, in UTC.")
@click.option("--status", type=click.Choice(["ok", "error"]), help="Only traces with this status.")
@click.option("--version", type=int, help="Only traces of this version of the prompt.")
@click.option("--min-seconds", type=float, default=0.0, help="Only traces that took at least this long.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The maximum number of traces.")
@file_option
@json_option
def list_traces(  # noqa: PLR0913  (options)
    source: str,
    since: datetime | None,
    until: datetime | None,
    status: str | None,
    version: int | None,
    min_seconds: float,
    limit: int,
    file: str,
    json_file: str | None,
) -> None:
    """List the traces of a service or of another source, newest first, including traces that are not imported yet.

    Example: mlops traces list delay_answer_api --status error --since 2026-05-01
    """
    from mlops_assets.cli.llm.trace_facts import describe_trace, summarise_trace
    from mlops_assets.cli.llm.trace_reading import TraceFilter

    chosen = TraceFilter(since and since.date(), until and until.date(), status, version, min_seconds)
    with _open_reader(file, source) as reader:
        found = reader.read_newest(chosen, limit)
    describe = describe_trace if json_file else summarise_trace
    print_rows(f"traces of {source}", [describe(trace) for trace in found], json_file)


@traces.command("show")
@click.argument("source")
@click.argument("trace_id", metavar="ID")
@click.option("--html", "page", type=click.Path(dir_okay=False, writable=True), metavar="FILE", help="Write the trace as a page to FILE.")
@file_option
@json_option
def show(source: str, trace_id: str, page: str | None, file: str, json_file: str | None) -> None:
    """Show one trace: its spans as a tree, input and output. The first digits of the ID are enough.

    Example: mlops traces show delay_answer_api 6a1f3c22b94e --html trace.html
    """
    from mlops_assets.cli.llm.trace_facts import describe_full_trace

    with _open_reader(file, source) as reader:
        trace = reader.find(trace_id)
    if page is not None:
        from mlops_assets.compute.pages.trace_page import render_trace

        write_text(render_trace(trace, source), page)
        click.echo(f"wrote {page}", err=json_file == "-")
    if json_file:
        write_json(describe_full_trace(trace), json_file)
    elif page is None:
        _print_trace(trace)


@traces.command("label")
@click.argument("source")
@click.argument("trace_id", metavar="ID")
@click.option("--to", "dataset", required=True, help="The dataset of cases; its function calls ml.llm.read_labels.")
@click.option("--set", "pairs", multiple=True, required=True, metavar="COLUMN=VALUE", help="A label; repeat it for further columns.")
@click.option("--case", help="The name of the case  [default: the id of the trace]")
@click.option("--by", help="Name recorded as the labeller  [default: the current user]")
@file_option
def label(  # noqa: PLR0913  (options)
    source: str, trace_id: str, dataset: str, pairs: tuple[str, ...], case: str | None, by: str | None, file: str
) -> None:
    """Add a trace to an evaluation set, with the values that you expect. A later label of the same case replaces the earlier one.

    Example: mlops traces label delay_answer_api 6a1f3c22b94e --to delay_questions --set expected=EWR
    """
    import getpass

    from mlops_assets.cli.llm.labelling import find_target, label_trace, parse_labels
    from mlops_assets.compute.text import replace_controls

    labels = parse_labels(pairs)
    with _open_reader(file, source) as reader:
        target = find_target(reader.project, dataset)
        trace = reader.find(trace_id)
    click.echo(replace_controls(label_trace(target, trace, labels, case=case, labelled_by=by or getpass.getuser())))
    click.echo(f"next: mlops run --select '{target.selection}'")


def _print_trace(trace: Trace) -> None:
    from mlops_assets.cli.llm.trace_facts import list_steps, list_texts
    from mlops_assets.compute.text import replace_controls

    out = console()
    out.print(build_table(f"trace {trace.trace_id}, {trace.started_at:%Y-%m-%d %H:%M:%S} UTC", list(list_steps(trace))))
    texts = list(list_texts(trace))
    for name, text in texts:
        click.echo(f"\n{replace_controls(name)}:\n{replace_controls(text)}")
    if not texts:
        click.echo("no content: the source does not capture it")


@contextmanager
def _open_reader(file: str, source: str) -> Iterator[TraceReader]:
    """Open the reader of a source; at the end, report the unreadable lines of its log to standard error."""
    from mlops_assets.cli.llm.trace_reading import open_reader

    reader = open_reader(load(file), source)
    try:
        yield reader
    finally:
        if reader.corrupt:
            lines = ", ".join(list(reader.corrupt)[:_MAX_LINES])
            click.echo(f"mlops: {len(reader.corrupt)} lines of the trace log in '{reader.folder}' cannot be read: {lines}", err=True)
