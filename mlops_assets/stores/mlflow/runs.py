"""Mirror runs to an MLflow server, one way and each run once; after a kill, the next mirror completes partially sent runs."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_assets.stores.mlflow.client import PAGE_SIZE, iterate_pages
from mlops_assets.stores.mlflow.names import MAX_PARAM, MAX_TAG, split_batches, to_mlflow_key, to_mlflow_text
from mlops_assets.stores.tracker.tracker import FAILED, FINISHED, RUNNING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlops_assets.stores.platform.stores import Stores
    from mlops_assets.stores.tracker.tracker import Run

MIRROR, RUN, DONE = "mlops_assets.mirror", "mlops_assets.run_id", "mlops_assets.mirrored"
FOREIGN = "mlflow"  # the key in the record of a run that was imported from MLflow; such a run is not sent back
_STATUS = {FINISHED: "FINISHED", FAILED: "FAILED"}  # pruned and killed runs become KILLED


class RunMirror:
    """Mirrors the runs of a platform to a server; ``sent`` counts the sent runs, ``waiting`` those that cannot be sent yet.

    Parameters
    ----------
    client
        The client of MLflow.
    stores
        The stores of the platform.
    """

    def __init__(self, client: Any, stores: Stores) -> None:  # noqa: ANN401  (MLflow has no types)
        self._client, self._stores = client, stores
        self._experiments: dict[str, str] = {}
        self._ids: dict[str, str] = {}  # our id → the server's
        self._done: set[str] = set()
        self.sent = self.waiting = 0

    def __call__(self) -> None:
        """Send every run that is not complete on the server, parents first; a run waits until it and its parent have ended."""
        for run in self._list_runs():
            if self._has_ended(run):
                self.send_run(run)
            else:
                self.waiting += 1

    def send_run(self, run: Run) -> str:
        """Send a run unless it is complete on the server; return its MLflow run id."""
        experiment = self._find_experiment(run.model)
        if run.id not in self._done:
            self._send(run, experiment)
            self._done.add(run.id)
            self.sent += 1
        return self._ids[run.id]

    def _list_runs(self) -> Iterator[Run]:
        """Yield the runs that were not imported from MLflow, oldest first; first mark runs whose process has ended as killed."""
        self._stores.tracker.reap()
        offset = 0
        while page := self._stores.tracker.search("", "started_at", PAGE_SIZE, offset):
            offset += len(page)
            yield from (run for run in page if FOREIGN not in run.record)

    def _has_ended(self, run: Run) -> bool:
        """Return whether a run and its parent, if any, have ended."""
        if run.status == RUNNING:
            return False
        return run.parent_id is None or self._stores.tracker.get(run.parent_id).status != RUNNING

    def _find_experiment(self, name: str) -> str:
        """Return the MLflow id of the experiment that mirrors a name, created if needed.

        If a deleted experiment or one of another program has the name, the mirror uses another name.
        """
        if name not in self._experiments:
            experiment_id = self._experiments[name] = self._find_or_create(name)
            self._load_sent(experiment_id)
        return self._experiments[name]

    def _find_or_create(self, name: str) -> str:
        """Return the MLflow id of the active experiment that mirrors a name; create it under the first free name if there is none."""
        for number in range(1, 1000):
            candidate = name if number == 1 else f"{name}-mlops_assets-{number}"
            existing = self._client.get_experiment_by_name(candidate)
            if existing is None:
                return str(self._client.create_experiment(candidate, tags={MIRROR: name}))
            if existing.lifecycle_stage == "active" and existing.tags.get(MIRROR) == name:
                return str(existing.experiment_id)
        raise AssertionError(name)

    def _load_sent(self, experiment: str) -> None:
        """Load the MLflow ids of mirrored runs, including deleted runs, which are not sent again."""
        where = {"experiment_ids": [experiment], "filter_string": f"tags.`{RUN}` != ''", "run_view_type": 3, "max_results": PAGE_SIZE}
        for run in iterate_pages(lambda token: self._client.search_runs(**where, page_token=token)):
            self._ids[run.data.tags[RUN]] = run.info.run_id
            if DONE in run.data.tags or run.info.lifecycle_stage == "deleted":
                self._done.add(run.data.tags[RUN])

    def _send(self, run: Run, experiment: str) -> None:
        """Create the run on the server if needed, send its content and its end, then tag it as complete."""
        run_id = self._ids.get(run.id)
        if run_id is None:
            name = run.name or f"{run.kind} {run.id[:8]}"
            created = self._client.create_run(
                experiment, start_time=_to_milliseconds(run.started_at), tags=self._build_tags(run), run_name=name
            )
            run_id = self._ids[run.id] = created.info.run_id
        self._send_values(run, run_id)
        self._send_files(run, run_id)
        self._client.set_terminated(
            run_id, status=_STATUS.get(run.status, "KILLED"), end_time=_to_milliseconds(run.ended_at or run.started_at)
        )
        self._client.set_tag(run_id, DONE, "1")

    def _build_tags(self, run: Run) -> dict[str, str]:
        """Return the tags of a run; send its parent first, because a tag holds the parent's MLflow id."""
        own = {RUN: run.id, "mlops_assets.kind": run.kind, "mlops_assets.status": run.status, "mlops_assets.environment": run.environment}
        own |= {"mlops_assets.error": run.error} if run.error else {}
        own |= {"mlops_assets.dagster_run": run.dagster_run_id} if run.dagster_run_id else {}
        if run.parent_id is not None:
            own["mlflow.parentRunId"] = self.send_run(self._stores.tracker.get(run.parent_id))
        tags = {to_mlflow_key(name): value for name, value in run.tags.items() if not name.startswith(("mlflow.", "mlops_assets."))}
        return {name: to_mlflow_text(value, MAX_TAG) for name, value in {**tags, **own}.items()}

    def _send_values(self, run: Run, run_id: str) -> None:
        """Send the parameters, and the metric values that the server does not have yet."""
        from mlflow.entities import Metric, Param

        params = [Param(to_mlflow_key(name), to_mlflow_text(_to_text(value), MAX_PARAM)) for name, value in run.params.items()]
        for param_batch in split_batches(params, 100, lambda param: 6 * (len(param.key) + len(param.value)) + 40):
            self._client.log_batch(run_id, params=param_batch)
        sent_points = {name: self._load_sent_points(run_id, name) for name in self._client.get_run(run_id).data.metrics}
        new = [point for point in dict.fromkeys(self._list_points(run)) if _to_comparable(point) not in sent_points.get(point[0], ())]
        for batch in split_batches([Metric(*point) for point in new], PAGE_SIZE, lambda metric: len(metric.key) + 120):
            self._client.log_batch(run_id, metrics=batch)

    def _load_sent_points(self, run_id: str, name: str) -> set[tuple[Any, ...]]:
        return {_to_comparable((name, point.value, point.timestamp, point.step)) for point in self._client.get_metric_history(run_id, name)}

    def _list_points(self, run: Run) -> Iterator[tuple[str, float, int, int]]:
        """Yield name, value, time in milliseconds and step of each logged value.

        A value without steps gets step 0 and the end time of the run.
        """
        curves = self._stores.tracker.curves(run.id)
        for name, curve in curves.items():
            for step, value, at in zip(curve.steps.tolist(), curve.values.tolist(), curve.times.tolist(), strict=True):
                yield to_mlflow_key(name), value, at // 1000, step
        for name, value in run.metrics.items():
            if name not in curves:
                yield to_mlflow_key(name), value, _to_milliseconds(run.ended_at or run.started_at), 0

    def _send_files(self, run: Run, run_id: str) -> None:
        """Send the files of a run, and its fields as the file ``mlops_assets/run.json``."""
        fields = {
            name: getattr(run, name) for name in ("id", "model", "name", "kind", "status", "error", "params", "metrics", "tags", "record")
        }
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for file in self._stores.tracker.artifacts(run.id):
                path = root / file.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self._stores.artifacts.get(file.sha256))
            (root / "mlops_assets").mkdir(exist_ok=True)
            (root / "mlops_assets" / "run.json").write_text(json.dumps(fields, indent=1, default=str), encoding="utf-8")
            self._client.log_artifacts(run_id, folder)


def _to_comparable(point: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a point in a form that equals the point read back from MLflow: the value as text, infinities clipped."""
    name, value, at, step = point
    return name, repr(max(-1.7976931348623157e308, min(1.7976931348623157e308, value)) if value == value else value), at, step  # noqa: PLR0124


def _to_milliseconds(at: Any) -> int:  # noqa: ANN401  (a time)
    return int(at.timestamp() * 1000)


def _to_text(value: Any) -> str:  # noqa: ANN401  (a parameter)
    return value if isinstance(value, str) else json.dumps(value)
