"""The source of traces: a trace log that becomes a table of the lake."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.llm.endpoint import validate_otlp
from mlops_assets.values.names import validate_name
from mlops_assets.values.options import AssetArguments, AssetOptions

FIRST_DAY = "2025-01-01"


@check_constructor
@dataclass(frozen=True, init=False)
class TraceSource:
    """The traces of an application: a log of spans that becomes a table of the lake, by day.

    The log is filled by :func:`mlops_assets.llm.start_trace`. A service of a prompt has
    a source of its own; declare one with the service's name only to choose ``start`` or options.

    Parameters
    ----------
    name
        Names the asset ``traces/<name>_traces`` and the lake table ``traces/<name>``.
    folder
        The folder of the log. None is ``services/<name>/traces`` below the platform's home.
    start
        The first day, as ``YYYY-MM-DD``; the days are those of UTC, and today is the last one.
    otlp_endpoint
        The base URL of an OpenTelemetry collector, e.g. ``http://127.0.0.1:4318``. Traces that :func:`mlops_assets.llm.start_trace` writes
        are sent there as well, in the background.
    otlp_headers_env
        The environment variable with headers for the collector, as ``name=value`` pairs between commas.
    **options
        Passed to Dagster, as in :func:`mlops_assets.dataset`.

    Raises
    ------
    DefinitionError
        ``start`` is not a day, or the collector's address is invalid.

    See Also
    --------
    mlops_assets.llm.start_trace : Records traces of an application.
    mlops_assets.llm.QualityMonitor : Measures the quality of traced answers.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.llm.TraceSource("delay_bot", start="2026-05-01").key
    'traces/delay_bot'
    """

    name: str
    folder: Path | None
    start: str
    otlp_endpoint: str | None
    otlp_headers_env: str | None
    options: AssetOptions = field(default=AssetOptions(), compare=False)

    def __init__(
        self,
        name: str,
        *,
        folder: Path | str | None = None,
        start: str = FIRST_DAY,
        otlp_endpoint: str | None = None,
        otlp_headers_env: str | None = None,
        **options: object,
    ) -> None:
        object.__setattr__(self, "name", validate_name(name, "a source of traces"))
        object.__setattr__(self, "folder", None if folder is None else Path(folder))
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "otlp_endpoint", validate_otlp(f"the source of traces '{name}'", otlp_endpoint, otlp_headers_env))
        object.__setattr__(self, "otlp_headers_env", otlp_headers_env)
        object.__setattr__(self, "options", AssetOptions.from_arguments(AssetArguments(**options)))  # type: ignore[typeddict-item]
        try:
            date.fromisoformat(start)
        except ValueError:
            raise DefinitionError(f"the source of traces '{name}': start={start!r} is invalid", hint="give a day as YYYY-MM-DD") from None

    @property
    def key(self) -> str:
        """``traces/<name>``: the table of the spans."""
        return f"traces/{self.name}"
