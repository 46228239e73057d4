"""Receive traces of an existing application: ``mlops traces receive``."""

from __future__ import annotations

import click

from mlops_assets.cli.options import file_option, load


@click.command()
@click.argument("source")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; senders are not authenticated.")
@click.option("--port", type=click.IntRange(0, 65_535), default=4318, show_default=True, help="Port to listen on; 0 is any free one.")
@click.option("--redact/--no-redact", default=True, show_default=True, help="Replace e-mail addresses, IBANs and phone numbers in texts.")
@file_option
def receive(source: str, host: str, port: int, file: str, *, redact: bool) -> None:
    """Receive traces over OTLP/HTTP into the log of a source, until Ctrl-C.

    The application needs only OTEL_EXPORTER_OTLP_ENDPOINT; spans are in the log before their reply is sent.

    Example: mlops traces receive shop --port 4318
    """
    from datetime import UTC, datetime

    from mlops_assets.cli.llm.trace_reading import find_receiving_source
    from mlops_assets.compute.llm_traces.otlp_protobuf import require_protobuf
    from mlops_assets.orchestrate.llm.traces_step import find_trace_folder
    from mlops_assets.serving.http.supervisor import make_url
    from mlops_assets.serving.http.trace_receiver import PATH, TraceReceiver, run_receiver
    from mlops_assets.serving.logs.trace_days import TraceDays
    from mlops_assets.serving.logs.trace_log import TraceLog
    from mlops_assets.values.llm.span import SECOND

    require_protobuf()
    declared, platform = find_receiving_source(load(file), source)
    folder = find_trace_folder(declared, platform)
    log, first = TraceLog(folder), datetime.fromisoformat(declared.start).replace(tzinfo=UTC)
    days = TraceDays(folder, datetime.now(UTC).date())
    receiver = TraceReceiver(log, days, first_start=int(first.timestamp()) * SECOND, redact=redact)

    def announce(bound: int) -> None:
        url = make_url(host, bound)
        click.echo(f"receiving traces at {url}{PATH} into {folder}")
        click.echo(f"in the application: OTEL_EXPORTER_OTLP_ENDPOINT={url}")

    try:
        run_receiver(receiver, host, port, announce)
    finally:
        log.close()
    click.echo(f"received {receiver.spans} spans in {receiver.requests} requests, refused {receiver.refused} spans")
