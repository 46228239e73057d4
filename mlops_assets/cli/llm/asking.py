"""Send each case of a dataset to the running service of a prompt, one request per case."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mlops_assets.cli.serving import find_service
from mlops_assets.compute.prompts.messages import dump_json
from mlops_assets.errors import DataError, DefinitionError, ServiceError
from mlops_assets.serving.http import control
from mlops_assets.values.llm.prompt_service import PromptService

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlops_assets.cli.project import LoadedProject

_TIMEOUT = 300.0  # seconds that one answer may take
_MAX_SHOWN = 3  # refused requests that are shown


@dataclass
class AskReport:
    """The outcome of the requests so far.

    Parameters
    ----------
    url
        The URL of the service.
    answers
        The first answers, with the first variable of their case.
    seconds
        The duration of each answered request.
    versions
        Version → number of answers.
    refused
        The first error replies, as ``<status>: <body>``.
    failed
        The number of error replies.
    """

    url: str
    answers: list[tuple[str, str]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    versions: Counter[int] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)
    failed: int = 0

    def add(self, question: str, status: int, body: bytes, seconds: float) -> None:
        """Count a reply."""
        if status != http.client.OK:
            self.failed += 1
            self.refused = [*self.refused, f"{status}: {body.decode(errors='replace')[:300]}"][:_MAX_SHOWN]
            return
        reply = json.loads(body)
        self.seconds.append(seconds)
        self.versions[reply["version"]] += 1
        if len(self.answers) < _MAX_SHOWN:
            answer = reply["answer"]
            self.answers.append((question, answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)))

    @property
    def lines(self) -> Iterator[str]:
        """The report as lines of text."""
        for question, answer in self.answers:
            yield f"{question}  {answer}"
        ordered = sorted(self.seconds)
        if ordered:
            by_version = ", ".join(f"{count} by version {version}" for version, count in sorted(self.versions.items()))
            middle, slow = (ordered[min(int(share * len(ordered)), len(ordered) - 1)] for share in (0.5, 0.95))
            yield f"{len(ordered)} answers of {self.url} ({by_version}), median {middle:.2f} s, 95 % within {slow:.2f} s"
        if self.failed:
            yield f"{self.failed} requests were refused, e.g. {self.refused[0]}"


def ask_service(project: LoadedProject, name: str, dataset: str, key_env: str | None = None) -> AskReport:
    """Send each row of a dataset to a running service, and return a report of the replies.

    Parameters
    ----------
    project
        The project that declares the service.
    name
        The service.
    dataset
        The dataset; its columns that are variables of the prompt are sent.
    key_env
        The environment variable with the API key to send; None sends none.

    Raises
    ------
    ServiceError
        There is no such service, it does not run, or the connection to it is lost.
    DefinitionError
        The service serves a model, there is no such dataset, or the API key is missing.
    DataError
        The dataset has no row, or lacks a variable of the prompt.
    """
    service = find_service(project, name)
    if not isinstance(service, PromptService):
        raise DefinitionError(f"'{service.key}' serves a model", hint=f"send rows to it: mlops predict {name}")
    headers = {"content-type": "application/json", **_read_key(service, key_env)}
    status = control.status(project.platform.home, name)
    if not status.running or status.url is None:
        raise ServiceError(f"'{service.key}' does not run", hint=f"start it: mlops serve start {name}")
    report = AskReport(status.url)
    address = urlsplit(status.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_TIMEOUT)
    try:
        for call in _read_calls(project, service, dataset):
            began = time.perf_counter()
            connection.request("POST", "/answer", json.dumps(call, default=dump_json), headers)
            reply = connection.getresponse()
            report.add(str(next(iter(call.values()), "")), reply.status, reply.read(), time.perf_counter() - began)
    except (OSError, http.client.HTTPException) as error:
        raise ServiceError(f"the connection to '{service.key}' was lost: {error}", hint=f"mlops serve status {name}") from error
    finally:
        connection.close()
    return report


def _read_key(service: PromptService, variable: str | None) -> Mapping[str, str]:
    """Return the header with the API key; raise DefinitionError, which quotes no part of the key, when it is missing or malformed."""
    if variable is None:
        if service.keys_env is not None:
            raise DefinitionError(f"'{service.key}' needs an API key", hint="name the variable with your key as --key-env")
        return {}
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise DefinitionError(f"the environment variable {variable} holds no API key", hint="set it to one key, without its name")
    return {"authorization": f"Bearer {key}"}


def _read_calls(project: LoadedProject, service: PromptService, dataset: str) -> Iterator[Mapping[str, Any]]:
    """Yield variable → value of each row of a dataset; columns that are not variables are dropped."""
    key = f"dataset/{dataset}"
    known = {each.name for part in project.parts for each in part.project.datasets}
    if dataset not in known:
        raise DefinitionError(f"there is no dataset '{dataset}'", hint=f"there are {', '.join(sorted(known)) or 'none'}")
    if key not in project.stores.lake.tables():
        raise DataError(f"'{key}' has no rows", hint=f"materialise it: mlops run --select 'key:\"{key}\"'")
    rows = project.stores.lake.read(key)
    for variable in service.prompt.variables:
        if variable.is_required and variable.name not in rows.columns:
            raise DataError(
                f"'{key}' has no column '{variable.name}', a variable of '{service.prompt.key}'", hint="name a dataset of cases"
            )
    names = [variable.name for variable in service.prompt.variables if variable.name in rows.columns]
    yield from rows.select(names).iter_rows(named=True)
