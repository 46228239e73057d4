"""The application of a worker that serves a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_assets.serving.formats.stored_prompts import connect_prompt, open_prompt
from mlops_assets.serving.http.model_swap import ModelLoader
from mlops_assets.serving.http.prompt_app import PromptApp
from mlops_assets.serving.llm.span_exporter import SpanExporter
from mlops_assets.serving.logs.trace_log import TraceLog
from mlops_assets.serving.prompts.api_keys import ApiKeys
from mlops_assets.serving.prompts.call_runner import CallRunner
from mlops_assets.serving.prompts.endpoints import PromptEndpoints
from mlops_assets.serving.prompts.feedback import FeedbackStore
from mlops_assets.serving.prompts.served_prompt import ServedPrompt
from mlops_assets.serving.prompts.settings import decode_settings
from mlops_assets.stores.artifacts.store import open_artifacts
from mlops_assets.stores.llm.budget_ledger import BudgetLedger

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlops_assets.serving.http.metrics import Metrics
    from mlops_assets.serving.http.service_folder import ServiceFolder, ServiceSpec, TargetVersion


def open_prompt_app(
    spec: ServiceSpec, folder: ServiceFolder, metrics: Metrics, index: int
) -> tuple[PromptApp, ModelLoader[ServedPrompt], Callable[[], None]]:
    """Return the application of a worker, the thread that loads its versions, and a function to call at the end.

    Parameters
    ----------
    spec, folder, metrics, index
        The service, its folder, the worker's counters and its index.

    Raises
    ------
    ServiceError
        The API keys, the headers for the collector or the trace log cannot be read.
    InstallationError
        The budget ledger cannot be opened.
    """
    settings = decode_settings(spec.settings)
    keys = None if settings.keys_env is None else ApiKeys(settings.keys_env)
    exporter = (
        None
        if settings.otlp_endpoint is None
        else SpanExporter(settings.otlp_endpoint, spec.name, headers_env=settings.otlp_headers_env, count=metrics.count)
    )
    log = TraceLog(folder.traces, export=None if exporter is None else exporter.add)
    ledger = BudgetLedger(folder.ledger, settings.budget, settings.rate_limits)
    app = PromptApp(
        PromptEndpoints(CallRunner(settings, ledger, log), FeedbackStore(log, ledger, keys), keys=keys, redact=settings.redact),
        ledger=ledger,
        log=log,
        metrics=metrics,
        max_bytes=spec.max_bytes,
        versions=lambda: {w.index: w.version for w in folder.read_workers() if w.running},
    )

    def load(target: TargetVersion) -> ServedPrompt:
        prompt = open_prompt(open_artifacts(spec.artifacts), target.artifact)
        return ServedPrompt(
            prompt if settings.model is None else connect_prompt(prompt, settings.model), target, needs_key=keys is not None
        )

    def close() -> None:
        log.close()
        ledger.close()
        if exporter is not None:
            exporter.close()

    return app, ModelLoader(load, app, metrics, folder, index), close
