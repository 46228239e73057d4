"""Monitoring reports, decisions and trainings: the recorded facts that determine when a model is retrained."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mlops_assets.stores.database import schema, sql
from mlops_assets.values.decisions import Decision, WindowReport

if TYPE_CHECKING:
    from collections.abc import Sequence

STARTED, REJECTED, PASSED, PROMOTED = "started", "rejected", "passed", "promoted"
_ORDER = (STARTED, REJECTED, PASSED, PROMOTED)


@dataclass(frozen=True)
class TrainingRecord:
    """A training and its progress.

    Parameters
    ----------
    run_id
        The Dagster run.
    decision
        The id of the decision that requested the training; None when a schedule or a person started it.
    as_of
        The time up to which the training could read data.
    version
        The registered version of the candidate; None before registration.
    outcome
        ``started``, ``rejected`` by a gate, ``passed`` (every gate), or ``promoted``.
    """

    model: str
    run_id: str
    decision: str | None
    as_of: datetime
    version: int | None
    outcome: str


class Decisions:
    """Reports, decisions and trainings of one environment.

    Parameters
    ----------
    database
        The database of the registry.
    environment
        The environment whose facts are read and written.
    """

    def __init__(self, database: sql.Database, environment: str) -> None:
        self._database = database
        self._environment = environment

    def record_reports(self, monitor: str, model: str, reports: Sequence[WindowReport]) -> None:
        """Append reports of a monitor. Earlier reports stay; for each time window, version and kind of report, the latest counts."""
        rows = [self._build_report_row(monitor, model, report) for report in reports]
        if rows:
            with self._database.write_transaction() as connection:
                connection.execute(schema.reports.insert(), rows)

    def reports(self, monitor: str) -> tuple[WindowReport, ...]:
        """Return all reports of a monitor in the order of recording."""
        query = sa.select(schema.reports).filter_by(environment=self._environment, monitor=monitor).order_by(schema.reports.c.sequence)
        return tuple(map(_build_report, self._read_rows(query)))

    def recent_reports(self, monitor: str, limit: int, *, before: datetime | None = None) -> tuple[WindowReport, ...]:
        """Return the reports on the newest windows of a monitor, newest window first; repeated reports of a window are included.

        Parameters
        ----------
        monitor
            The name of the monitor.
        limit
            The maximum number of reports.
        before
            Only windows that end before this time; all when None.
        """
        reports = schema.reports
        query = sa.select(reports).filter_by(environment=self._environment, monitor=monitor)
        if before is not None:
            query = query.where(reports.c.end < before.isoformat())
        return tuple(map(_build_report, self._read_rows(query.order_by(reports.c.end.desc(), reports.c.sequence.desc()).limit(limit))))

    def open(self, monitor: str, decision: Decision) -> bool:
        """Record a decision and return True; return False and change nothing when its id was recorded before."""
        row = {"environment": self._environment, "id": decision.id}
        with self._database.write_transaction() as connection:
            if connection.execute(sa.select(schema.decisions.c.id).filter_by(**row)).first():
                return False
            values = {"model": decision.model, "version": decision.version, "partition": decision.partition, "reason": decision.reason}
            values |= {"monitor": monitor, "opened": decision.opened.isoformat(), "evidence": list(decision.evidence), "closed": ""}
            connection.execute(schema.decisions.insert().values(**row, **values, recorded_at=sql.timestamp()))
        return True

    def close(self, decision: str, why: str) -> None:
        """Close a decision with a reason; a closed decision keeps its first reason."""
        matching = sa.and_(
            schema.decisions.c.environment == self._environment, schema.decisions.c.id == decision, schema.decisions.c.closed == ""
        )
        with self._database.write_transaction() as connection:
            connection.execute(schema.decisions.update().where(matching).values(closed=why))

    def decisions(self, model: str) -> tuple[Decision, ...]:
        """Return the decisions about a model in the order of recording."""
        query = sa.select(schema.decisions).filter_by(environment=self._environment, model=model).order_by(schema.decisions.c.recorded_at)
        return tuple(
            Decision(r["id"], model, r["version"], r["partition"], _parse_time(r["opened"]), r["reason"], tuple(r["evidence"]), r["closed"])
            for r in self._read_rows(query)
        )

    def record_training(self, record: TrainingRecord) -> None:
        """Record the progress of a training. An outcome never goes back in the order started, rejected, passed, promoted."""
        key = {"environment": self._environment, "model": record.model, "run_id": record.run_id}
        with self._database.write_transaction() as connection:
            old = connection.execute(sa.select(schema.trainings.c.outcome, schema.trainings.c.version).filter_by(**key)).first()
            if old is None:
                values = {"decision": record.decision, "as_of": record.as_of.isoformat(), "started_at": sql.timestamp()}
                connection.execute(schema.trainings.insert().values(**key, **values, version=record.version, outcome=record.outcome))
            elif _ORDER.index(record.outcome) >= _ORDER.index(old.outcome):
                change = schema.trainings.update().filter_by(**key)
                connection.execute(change.values(outcome=record.outcome, version=record.version or old.version))

    def trainings(self, model: str) -> tuple[TrainingRecord, ...]:
        """Return the trainings of a model in the order of their start."""
        query = sa.select(schema.trainings).filter_by(environment=self._environment, model=model).order_by(schema.trainings.c.started_at)
        return tuple(
            TrainingRecord(model, r["run_id"], r["decision"], _parse_time(r["as_of"]), r["version"], r["outcome"])
            for r in self._read_rows(query)
        )

    def _build_report_row(self, monitor: str, model: str, report: WindowReport) -> dict[str, Any]:
        row = {name: getattr(report, name) for name in ("partition", "kind", "version", "state", "reason")}
        return row | {"environment": self._environment, "monitor": monitor, "model": model, "end": report.end.isoformat()}

    def _read_rows(self, query: sa.Select[Any]) -> Sequence[sa.RowMapping]:
        with self._database.read_transaction() as connection:
            return connection.execute(query).mappings().all()


def _build_report(row: sa.RowMapping) -> WindowReport:
    end = _parse_time(row["end"])
    return WindowReport(row["partition"], end, row["version"], row["state"], row["kind"], row["reason"], row["sequence"])


def _parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def open_decisions(url: str, environment: str = "dev") -> Decisions:
    """Open the decisions of an environment at a SQLAlchemy URL."""
    return Decisions(sql.open_database(url), environment)
