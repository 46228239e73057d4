"""The steps of a service: update it to the champion, and import its predictions into the lake."""

import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from mlops_assets.compute.tables.own_columns import (
    LOGGED_AT,
    MODEL_VERSION,
    PREDICTION_COLUMNS,
    PREDICTION_ID,
    RUN_ID,
    lake_column,
    rename_from_table,
    rename_to_table,
)
from mlops_assets.compute.tables.verify import check_names, verify
from mlops_assets.errors import ServiceError
from mlops_assets.orchestrate.core.graph import Node
from mlops_assets.orchestrate.core.metadata import to_markdown
from mlops_assets.orchestrate.core.partitions import day_span, list_days
from mlops_assets.orchestrate.core.project import Project, served_partitions, served_time
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.core.steps import asset_key
from mlops_assets.orchestrate.online.skew import NO_SKEW, check_skew
from mlops_assets.orchestrate.predictions.prediction_tables import stack_predictions
from mlops_assets.orchestrate.tables.quality import CheckedTable
from mlops_assets.orchestrate.tables.stored_rows import LOG_READABLE, add_stored_rows, build_log_metadata, build_log_outcome
from mlops_assets.orchestrate.tables.tables import build_check_specs, publish_table
from mlops_assets.serving.formats.packaging import read_manifest
from mlops_assets.serving.formats.prediction_columns import PredictionKind
from mlops_assets.serving.logs.prediction_rows import build_prediction_rows, read_key_types, split_storable
from mlops_assets.serving.push.spec import list_push_specs
from mlops_assets.values.dataset import Table
from mlops_assets.values.features import select_feature_views, select_stored_views
from mlops_assets.values.llm.prompt_service import PromptService
from mlops_assets.values.platform import Platform
from mlops_assets.values.serving import Service
from mlops_assets.values.window import join_windows, window_of

if TYPE_CHECKING:
    from mlops_assets.compute.llm_evaluation.prices import PriceTable
    from mlops_assets.serving.http.control import ServiceSpec, ServiceStatus
    from mlops_assets.serving.logs.inference_log import PredictionRecord

_AUTOMATIC = ("dagster/sensor_name", "dagster/schedule_name", "dagster/auto_materialize", "dagster/from_automation_condition")


def read_service_prices(service: Service | PromptService, platform: Platform) -> "PriceTable | None":
    """Return the prices of the dataset that a prompt's service declares; None without one.

    Raises
    ------
    ServiceError
        The service has a budget in US dollars, and a model has no price.
    LakeError, DataError
        The dataset was never materialised, or a row is not a valid price.
    """
    if not isinstance(service, PromptService) or service.prices is None:
        return None
    from mlops_assets.compute.llm_evaluation.price_rows import read_prices
    from mlops_assets.stores.platform.stores import open_stores

    key = service.prices.key
    table = read_prices(open_stores(platform).lake.read(key), key)
    for model in (service.prompt.model, *service.prompt.model.fallbacks):
        if service.budget is not None and service.budget.limits_cost and model.model not in table.models:
            raise ServiceError(
                f"'{service.key}' has a budget in US dollars, and '{key}' has no price of its model '{model.model}'", hint="add its price"
            )
    return table


def build_service_spec(service: Service | PromptService, platform: Platform, prices: "PriceTable | None" = None) -> "ServiceSpec":
    """Return the specification from which the processes of a model's or a prompt's service start.

    Parameters
    ----------
    service, platform
        The declared service, and the platform that it uses.
    prices
        The result of :func:`read_service_prices`, which a start of the service needs.
    """
    from mlops_assets.serving.http.control import ServiceSpec

    plan = ServiceSpec(
        name=service.name,
        model=service.prompt.name if isinstance(service, PromptService) else service.model.name,
        home=platform.home,
        registry=platform.registry,
        artifacts=platform.artifacts,
        online=platform.online,
        environment=platform.environment,
        host=service.host,
        port=service.port,
        workers=service.workers,
        max_bytes=service.max_bytes,
    )
    if isinstance(service, PromptService):
        from mlops_assets.serving.prompts.settings import encode_settings

        drain_seconds = max(plan.drain_seconds, service.prompt.model.time_limit.total_seconds())
        return replace(plan, kind="prompt", settings=encode_settings(service, prices), drain_seconds=drain_seconds)
    push = list_push_specs(select_stored_views(service.model.training_set.features))
    return replace(plan, max_rows=service.max_rows, trusted_types=service.model.trusted_types, push=push)


def service_body(service: Service | PromptService) -> Callable[[StepContext], Iterator[object]]:
    """Return the body of the step that starts a service or updates it to the champion.

    A run of a sensor, schedule or automation condition does not start a service that a person has stopped.
    """

    def body(step: StepContext) -> Iterator[object]:
        from mlops_assets.serving.http import control

        platform = step.stores.platform
        status, is_automatic = control.status(platform.home, service.name), any(tag in step.context.run.tags for tag in _AUTOMATIC)
        if is_automatic and status.wanted == "stopped":
            step.context.log.info(
                f"'{service.key}' was stopped by a person and stays stopped: `mlops serve start {service.name}` starts it"
            )
        elif is_automatic and status.wanted == "unknown" and not status.running:
            step.context.log.warning(f"'{service.key}' is not changed: {status.problem}")
        else:
            status = control.start(build_service_spec(service, platform, read_service_prices(service, platform)))
        yield dg.MaterializeResult(asset_key(service.key), metadata=_service_metadata(service, status))

    return body


def _service_metadata(service: Service | PromptService, status: "ServiceStatus") -> dict[str, Any]:
    """Return the state of a service as metadata; for a model's running service, the latency of a test prediction is measured."""
    workers = [{"worker": w.index, "pid": w.pid, "version": w.version, "problem": w.error or ""} for w in status.workers]
    facts: dict[str, Any] = {"state": "running" if status.running else "stopped", "workers": to_markdown(workers)}
    if status.url is None:
        return facts
    if changed_libraries := next((w.libraries for w in status.workers if w.libraries), ""):
        facts["trained with other libraries"] = changed_libraries
    facts |= {"url": dg.MetadataValue.url(status.url), "version": status.champion or 0}
    if isinstance(service, PromptService):
        return facts  # a call of its model would cost money
    return facts | {"smoke latency ms": round(1000 * _time_smoke_prediction(service, status.url), 3)}


def _time_smoke_prediction(service: Service, url: str) -> float:
    """Return the seconds that the service takes to predict its stored example row; raise ServiceError if it cannot.

    The row is predicted twice and the second call is timed; neither call is logged.
    """
    begun = 0.0
    for _ in range(2):
        begun = time.perf_counter()
        try:
            urllib.request.urlopen(f"{url}/smoke", timeout=30).close()  # noqa: S310  (the service's own URL)
        except OSError as error:
            raise ServiceError(
                f"'{service.key}' cannot predict its example row: {error}", hint=f"`mlops serve status {service.name}` shows its workers"
            ) from error
    return time.perf_counter() - begun


def served_node(project: Project, service: Service, platform: Platform) -> Node:
    """Return the node of a service's predictions in the asset graph; its external input is the prediction log."""
    partitions = served_partitions(project, service)
    return Node(
        service.predictions_key, partitions, external_inputs=lambda keys: _hash_logged_partitions(service, platform, partitions, keys)
    )


def find_log_folder(service: Service, platform: Platform) -> Path:
    """Return the folder of the service's prediction log; it may not exist yet."""
    return Path(platform.home) / "services" / service.name / "log"


def _hash_logged_partitions(
    service: Service, platform: Platform, partitions: dg.PartitionsDefinition | None, keys: Sequence[str]
) -> Mapping[str, str]:
    """Return partition → hash of its log files, for the partitions among ``keys`` with logged predictions."""
    folder = find_log_folder(service, platform)
    if not folder.is_dir():
        return {}
    from mlops_assets.serving.logs.day_log import hash_log_files, list_log_days

    days = set(list_log_days(folder))
    spans = {key: day_span(window_of(partitions, key), days) for key in keys}
    return {key: hash_log_files(folder, *span) for key, span in spans.items() if span and days & set(list_days(*span))}


def served_rules(project: Project, service: Service) -> Table:
    """Return the rules for imported predictions: each occurs once, in the partition of its event time. A partition may be empty."""
    return Table(
        partitions=served_partitions(project, service),
        key=(lake_column(PREDICTION_ID, PREDICTION_COLUMNS),),
        event_timestamp=lake_column(served_time(service), PREDICTION_COLUMNS),
        allow_empty=True,
    )


def list_served_checks(project: Project, service: Service) -> list[dg.AssetCheckSpec]:
    """Return the check specs of a service's predictions; unreadable log lines and feature skew only warn."""
    own_checks = (LOG_READABLE, NO_SKEW) if select_feature_views(service.model.training_set.features) else (LOG_READABLE,)
    return build_check_specs(service.predictions_key, (*check_names(served_rules(project, service)), *own_checks), warnings=own_checks)


def publish_served(step: StepContext, service: Service) -> Iterator[object]:
    """Import the logged predictions of a service into the lake, and yield the results for Dagster."""
    rules = served_rules(step.project, service)
    yield from publish_table(
        step, rules, partial(_import_predictions, step, service, rules), unhashed_columns=(lake_column(RUN_ID, PREDICTION_COLUMNS),)
    )


def _import_predictions(step: StepContext, service: Service, rules: Table) -> CheckedTable:
    """Return the logged and the stored predictions of the step's partitions, the outcomes of their checks, and facts for the UI."""
    from mlops_assets.serving.logs.day_log import list_log_days
    from mlops_assets.serving.logs.inference_log import PredictionRecord, build_records_frame, read_records

    folder, corrupt = find_log_folder(service, step.stores.platform), list[str]()
    windows = [window for _, window in step.windows]
    spans = [span for span in (day_span(window, set(list_log_days(folder))) for window in windows) if span]
    first, last = (min(s[0] for s in spans), max(s[1] for s in spans)) if spans else (date.min, date.min)
    records = read_records(folder, first, last, corrupt)
    types, keys, kinds = _read_types(step, service, sorted({record.version for record in records}))
    storable, unfit = list[PredictionRecord](), list[str]()
    for dtype, group in groupby(sorted(records, key=partial(_prediction_dtype, kinds)), key=partial(_prediction_dtype, kinds)):
        accepted, rejected = split_storable(list(group), types=types, keys=keys, prediction_type=dtype)
        storable, unfit = [*storable, *accepted], [*unfit, *rejected]
    log = build_records_frame(storable)
    if windows[0] is not None:
        inside = [pl.col("at").is_between(w.start, w.end, closed="left") for w in join_windows(w for w in windows if w is not None)]
        log = log.filter(pl.any_horizontal(inside))
    typed_frames = build_prediction_rows(log, types, keys=keys, event_timestamp=served_time(service), kinds=kinds)
    predictions = stack_predictions(step, [rename_to_table(frame, PREDICTION_COLUMNS) for frame in typed_frames], rules.event_timestamp)
    stored, counts = add_stored_rows(step, predictions, rules)
    frame = rename_from_table(stored, PREDICTION_COLUMNS)
    facts = {
        "versions": ", ".join(map(str, sorted(frame[MODEL_VERSION].unique()))),
        "logged until": str(frame[LOGGED_AT].max()),
        **build_log_metadata(counts, corrupt, unfit),
    }
    skew = [check_skew(step, service, frame)] if select_feature_views(service.model.training_set.features) else []
    return CheckedTable(stored, [*verify(stored, rules, step.windows), build_log_outcome(corrupt, unfit), *skew], facts)


def _prediction_dtype(kinds: Mapping[int, PredictionKind], record: "PredictionRecord") -> str:
    """Return the dtype of a record's prediction; a record of an unregistered version gets that of the newest version."""
    newest = kinds[max(kinds)].dtype if kinds else "String"
    return kinds[record.version].dtype if record.version in kinds else newest


def _read_types(
    step: StepContext, service: Service, versions: Sequence[int]
) -> tuple[dict[str, str], dict[str, str], dict[int, PredictionKind]]:
    """Return column of ``X`` → dtype, key column → dtype, and version → kind of its predictions.

    They cover the registered versions among ``versions``, and the champion.
    """
    registered = step.stores.registry.versions(service.model.name)
    selected = [v for v in registered if v.version in versions or "champion" in v.aliases]
    manifests = [read_manifest(step.stores.artifacts, version.artifact) for version in selected]
    types = {name: manifest["types"][name] for manifest in manifests for name in manifest["columns"]}
    keys = {name: dtype for manifest in manifests for name, dtype in read_key_types(manifest).items()}
    return types, keys, {v.version: PredictionKind.from_manifest(manifest) for v, manifest in zip(selected, manifests, strict=True)}
