"""``mlops predict``: send rows to a running service, one request per row."""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import polars as pl

from mlops_assets.cli.partition_range import find_window
from mlops_assets.cli.serving import find_service
from mlops_assets.errors import DataError, DefinitionError, ServiceError
from mlops_assets.orchestrate.training.training_record import list_source_tables
from mlops_assets.serving.formats.packaging import read_manifest
from mlops_assets.serving.http import control
from mlops_assets.values.asset_names import build_graph_key
from mlops_assets.values.llm.prompt_service import PromptService

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.progress import Progress

    from mlops_assets.cli.project import LoadedProject
    from mlops_assets.values.serving import Service


@dataclass
class SendReport:
    """The outcome of the requests so far.

    Parameters
    ----------
    url
        The URL of the service.
    seconds
        Latency of each answered request.
    versions
        Version → number of answers.
    missing
        Feature → number of rows without it.
    refused
        The first three error responses, as ``<status>: <body>``.
    failed
        The number of error responses.
    """

    url: str
    seconds: list[float] = field(default_factory=list)
    versions: Counter[int] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)
    failed: int = 0

    @property
    def facts(self) -> dict[str, Any]:
        """Figures as JSON-like values; latencies in milliseconds."""
        ordered = sorted(self.seconds)
        latencies = (
            {
                name: round(1000 * ordered[min(int(share * len(ordered)), len(ordered) - 1)], 3)
                for name, share in (("p50", 0.5), ("p99", 0.99))
            }
            if ordered
            else {}
        )
        return {
            "url": self.url,
            "answered": len(ordered),
            "failed": self.failed,
            "latency ms": latencies,
            "versions": {str(version): count for version, count in sorted(self.versions.items())},
            "missing features": dict(self.missing.most_common()),
            "refused": self.refused,
        }


def send_rows(project: LoadedProject, name: str, *, rows: str | None, partitions: str | None, progress: Progress) -> SendReport:
    """Send rows to a running service, one request per row, and report the answers; an error response does not stop the rest.

    Parameters
    ----------
    project, name
        The project, and the name of its service.
    rows
        A CSV, Parquet or JSON-lines file.
    partitions
        ``KEY`` or ``FIRST...LAST`` of the training data, instead of a file.
    progress
        Shows progress.

    Raises
    ------
    ServiceError
        The service does not run, or its model has no champion.
    DefinitionError
        There is no such service, neither or both of ``rows`` and ``partitions`` are given, or the file or partitions do not exist.
    DataError
        The rows lack a field that the service needs.
    """
    service = find_service(project, name)
    if isinstance(service, PromptService):
        raise ServiceError(f"'{service.key}' serves a prompt and predicts no rows", hint="send its variables to POST /answer")
    status = control.status(project.platform.home, name)
    if not status.running or status.url is None:
        reason = f" ({status.problem})" if status.problem else ""
        raise ServiceError(f"service '{name}' is not running{reason}", hint=f"start it: mlops serve start {name}")
    frame = _read_rows(project, service, rows, partitions)
    bodies = list(_encode_requests(project, service, frame))
    sent = SendReport(status.url)
    connection = http.client.HTTPConnection(urlsplit(status.url).netloc, timeout=60)
    for body in progress.track(bodies, description=f"{len(bodies):,} requests"):
        _send_row(connection, body, sent)
    connection.close()
    return sent


def _send_row(connection: http.client.HTTPConnection, body: bytes, sent: SendReport) -> None:
    started = time.perf_counter()
    connection.request("POST", "/predict", body, {"content-type": "application/json"})
    reply = connection.getresponse()
    answer = json.loads(reply.read())
    if reply.status != http.HTTPStatus.OK:
        sent.failed += 1
        sent.refused = [*sent.refused, f"{reply.status}: {json.dumps(answer)}"][:3]
        return
    sent.seconds.append(time.perf_counter() - started)
    sent.versions[answer["version"]] += 1
    sent.missing.update(answer["predictions"][0]["missing"])


def _read_rows(project: LoadedProject, service: Service, rows: str | None, partitions: str | None) -> pl.DataFrame:
    if (rows is None) == (partitions is None):
        raise DefinitionError("there are no rows to send", hint="pass either --rows FILE or --partitions A...B")
    return _read_file(Path(rows)) if rows is not None else _read_partitions(project, service, partitions or "")


def _read_file(path: Path) -> pl.DataFrame:
    readers = {".csv": lambda: pl.read_csv(path, try_parse_dates=True), ".parquet": lambda: pl.read_parquet(path)}
    readers |= dict.fromkeys((".jsonl", ".ndjson"), lambda: pl.read_ndjson(path))
    if not path.exists() or path.suffix not in readers:
        raise DefinitionError(f"'{path}' cannot be read", hint=f"give a file that exists and ends in {', '.join(readers)}")
    return readers[path.suffix]()


def _read_partitions(project: LoadedProject, service: Service, partitions: str) -> pl.DataFrame:
    declared = next(part.project for part in project.parts if service in part.project.declarations)
    ref = next((ref for ref in list_source_tables(declared, service.model.training_set) if ref.partitions is not None), None)
    if ref is None or ref.partitions is None:
        raise DefinitionError(
            f"'{service.key}' has no partitioned training data, so --partitions cannot choose rows", hint="pass --rows FILE"
        )
    window = find_window(ref.partitions, partitions, f"'{ref.key}'")
    return project.stores.lake.read(ref.key, window=window, event_timestamp=ref.event_timestamp)


def _encode_requests(project: LoadedProject, service: Service, frame: pl.DataFrame) -> Iterator[bytes]:
    """Yield each row as the JSON of a request, with the fields of the champion's request schema."""
    champion = project.stores.registry.champion(service.model.name)
    if champion is None:
        raise ServiceError(f"'{service.key}' has no champion", hint=f"train one: materialise {build_graph_key(service.model.key)}")
    fields: Sequence[dict[str, Any]] = read_manifest(project.stores.artifacts, champion.artifact)["request"]
    needed = [f["name"] for f in fields if f["role"] not in {"key", "time"}]
    if lacking := [name for name in needed if name not in frame.columns]:
        raise DataError(
            f"the rows lack the field '{lacking[0]}', which '{service.key}' needs", hint=f"they have {', '.join(frame.columns)}"
        )
    chosen = frame.select(f["name"] for f in fields if f["name"] in frame.columns)
    for row in chosen.iter_rows(named=True):
        yield json.dumps({name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}).encode()
