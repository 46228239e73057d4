"""The current tables of the database: tracker, registry, monitoring, attempts, view versions and erasures.

``migrations`` upgrades older databases to these tables.

Times are ISO 8601 texts in UTC, which sort by time. NaN and infinities are null; where they must be kept, a second column holds them as
text.
"""

from __future__ import annotations

import sqlalchemy as sa

META = sa.MetaData()

schema_version = sa.Table("mlops_schema", META, sa.Column("version", sa.Integer, primary_key=True))
runs = sa.Table(
    "mlops_runs",
    META,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(64), unique=True, nullable=False),
    sa.Column("model", sa.String(64), nullable=False, index=True),
    sa.Column("fingerprint", sa.String(64), nullable=False, index=True),
    sa.Column("dagster_run_id", sa.String(64), nullable=False),
    sa.Column("started_at", sa.String(40), nullable=False),
    sa.Column("ended_at", sa.String(40), nullable=True),  # null while it runs
    sa.Column("snapshot", sa.Integer, nullable=True),  # null when it read no lake
    sa.Column("params", sa.JSON, nullable=False),
    sa.Column("record", sa.JSON, nullable=False),
    sa.Column("environment", sa.String(64), nullable=False, server_default="dev"),
    sa.Column("kind", sa.String(20), nullable=False, server_default="training"),  # training, trial, run (of a notebook or script)
    sa.Column("name", sa.String(200), nullable=False, server_default=""),
    sa.Column("parent_id", sa.String(64), nullable=True, index=True),
    sa.Column("status", sa.String(20), nullable=False, server_default="finished"),  # running, finished, failed, pruned
    sa.Column("error", sa.Text, nullable=False, server_default=""),
    sa.Column("tags", sa.JSON, nullable=False, server_default="{}"),
    sa.Index("ix_mlops_runs_status", "status"),  # each search looks for the few that are running
)
metrics = sa.Table(
    "mlops_metrics",
    META,
    sa.Column("run_id", sa.String(64), sa.ForeignKey("mlops_runs.id"), primary_key=True),
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("value", sa.Float, nullable=True),  # the last value at the highest step
    sa.Column("text", sa.String(20), nullable=False, default=""),
    sa.Column("step", sa.BigInteger, nullable=True),  # the highest step; null when the metric has no steps
    sa.Column("low", sa.Float, nullable=True),  # the minimum and maximum finite value of all steps
    sa.Column("high", sa.Float, nullable=True),
    sa.Column("count", sa.Integer, nullable=False, server_default="1"),
    sa.Index("ix_mlops_metrics_name_value", "name", "value"),
)
curves = sa.Table(
    "mlops_curves",
    META,
    # One row per flush of a metric: a long run is not rewritten, and does not need a row per point.
    sa.Column("run_id", sa.String(64), sa.ForeignKey("mlops_runs.id"), primary_key=True),
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("part", sa.Integer, primary_key=True),
    sa.Column("steps", sa.LargeBinary, nullable=False),  # int64, little-endian
    sa.Column("values", sa.LargeBinary, nullable=False),  # float64, little-endian, NaN and infinities included
    sa.Column("times", sa.LargeBinary, nullable=False),  # int64 microseconds since 1970
)
run_artifacts = sa.Table(
    "mlops_run_artifacts",
    META,
    sa.Column("run_id", sa.String(64), sa.ForeignKey("mlops_runs.id"), primary_key=True),
    sa.Column("name", sa.String(250), primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("media", sa.String(100), nullable=False),  # its media type
)
candidates = sa.Table(
    "mlops_candidates",
    META,
    sa.Column("model", sa.String(64), primary_key=True),
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("artifact", sa.String(64), nullable=False),
    sa.Column("snapshot", sa.Integer, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
)
waiting = sa.Table(
    "mlops_waiting",
    META,
    sa.Column("environment", sa.String(64), primary_key=True),
    sa.Column("model", sa.String(64), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),
)
evidence = sa.Table(
    "mlops_evidence",
    META,
    sa.Column("environment", sa.String(64), primary_key=True),
    sa.Column("model", sa.String(64), primary_key=True),
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("gate", sa.String(200), primary_key=True),
    sa.Column("definition", sa.String(64), nullable=False),
    sa.Column("relative", sa.Boolean, nullable=False),
    sa.Column("champion", sa.String(64), nullable=False),
    sa.Column("passed", sa.Boolean, nullable=False),
    sa.Column("value", sa.Float, nullable=True),
    sa.Column("threshold", sa.Float, nullable=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("low", sa.Float, nullable=True),  # the confidence interval of the difference, for a relative gate
    sa.Column("high", sa.Float, nullable=True),
)
versions = sa.Table(
    "mlops_versions",
    META,
    sa.Column("model", sa.String(64), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("artifact", sa.String(64), nullable=False),
    sa.Column("snapshot", sa.Integer, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.UniqueConstraint("model", "digest"),
)
version_files = sa.Table(
    "mlops_version_files",
    META,
    # Files of a version other than its manifest: its model card, its model in another format.
    sa.Column("model", sa.String(64), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(250), primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
)
version_marks = sa.Table(
    "mlops_version_marks",
    META,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("model", sa.String(64), nullable=False, index=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("mark", sa.String(20), nullable=False),  # damaged, restored
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
)
reproductions = sa.Table(
    "mlops_reproductions",
    META,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("model", sa.String(64), nullable=False, index=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("mode", sa.String(20), nullable=False),  # current, locked: the libraries that the reproduction ran with
    sa.Column("verdict", sa.String(20), nullable=False),  # IDENTICAL, EQUIVALENT, DIFFERENT, FAILED
    sa.Column("field", sa.String(250), nullable=False),  # the first field that differs; error for FAILED
    sa.Column("was", sa.Text, nullable=False),
    sa.Column("now", sa.Text, nullable=False),
    sa.Column("facts", sa.JSON, nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
)
aliases = sa.Table(
    "mlops_aliases",
    META,
    sa.Column("environment", sa.String(64), primary_key=True),
    sa.Column("model", sa.String(64), primary_key=True),
    sa.Column("alias", sa.String(64), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
)
alias_log = sa.Table(
    "mlops_alias_log",
    META,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("environment", sa.String(64), nullable=False),
    sa.Column("model", sa.String(64), nullable=False),
    sa.Column("alias", sa.String(64), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("previous", sa.Integer, nullable=True),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("evidence", sa.JSON, nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
)
approvals = sa.Table(
    "mlops_approvals",
    META,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("environment", sa.String(64), nullable=False),
    sa.Column("model", sa.String(64), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("approved", sa.Boolean, nullable=False),
    sa.Column("approver", sa.String(200), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
)
reports = sa.Table(
    "mlops_reports",
    META,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("environment", sa.String(64), nullable=False),
    sa.Column("monitor", sa.String(64), nullable=False, index=True),
    sa.Column("model", sa.String(64), nullable=False),
    sa.Column("partition", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("state", sa.String(40), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("end", sa.String(40), nullable=False),
)
decisions = sa.Table(
    "mlops_decisions",
    META,
    sa.Column("environment", sa.String(64), primary_key=True),
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("monitor", sa.String(64), nullable=False),
    sa.Column("model", sa.String(64), nullable=False, index=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("partition", sa.String(64), nullable=False),
    sa.Column("opened", sa.String(40), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("evidence", sa.JSON, nullable=False),
    sa.Column("closed", sa.Text, nullable=False),
    sa.Column("recorded_at", sa.String(40), nullable=False),
)
trainings = sa.Table(
    "mlops_trainings",
    META,
    sa.Column("environment", sa.String(64), primary_key=True),
    sa.Column("model", sa.String(64), primary_key=True),
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("decision", sa.String(64), nullable=True),
    sa.Column("as_of", sa.String(40), nullable=False),
    sa.Column("version", sa.Integer, nullable=True),
    sa.Column("outcome", sa.String(20), nullable=False),
    sa.Column("started_at", sa.String(40), nullable=False),
)
attempts = sa.Table(
    "mlops_attempts",
    META,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("table_name", sa.String(130), nullable=False, index=True),
    sa.Column("partition", sa.String(64), nullable=False),
    sa.Column("inputs", sa.String(64), nullable=False),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("started_at", sa.String(40), nullable=False),
    sa.Column("error", sa.Text, nullable=True),
)
view_versions = sa.Table(
    "mlops_view_versions",
    META,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("view", sa.String(64), nullable=False, index=True),
    sa.Column("version", sa.String(16), nullable=False),
    sa.Column("definition", sa.JSON, nullable=False),
    sa.Column("snapshot", sa.Integer, nullable=False),
    sa.Column("recorded_at", sa.String(40), nullable=False),
    sa.Column("removed_at", sa.String(40), nullable=True),
)
erasures = sa.Table(
    "mlops_erasures",
    META,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("entity", sa.Text, nullable=False),
    sa.Column("facts", sa.JSON, nullable=False),
)
alerts = sa.Table(
    "mlops_alerts",
    META,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("environment", sa.String(64), nullable=False),
    sa.Column("subject", sa.String(400), nullable=False, index=True),
    sa.Column("severity", sa.String(10), nullable=False),
    sa.Column("opened", sa.Float, nullable=False),
    sa.Column("failing", sa.JSON, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("latest", sa.JSON, nullable=False),
    sa.Column("announced", sa.Float, nullable=True),
    sa.Column("resolved", sa.Float, nullable=True),
    sa.Column("closed", sa.Boolean, nullable=False, index=True),
    sa.Column("events", sa.Integer, nullable=False),
)
alert_deliveries = sa.Table(
    "mlops_alert_deliveries",
    META,
    sa.Column("environment", sa.String(64), primary_key=True),
    sa.Column("episode", sa.Integer, primary_key=True),
    sa.Column("event", sa.Integer, primary_key=True),
    sa.Column("channel", sa.String(200), primary_key=True),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("state", sa.String(20), nullable=False, index=True),
    sa.Column("decided", sa.Float, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("claimed", sa.Float, nullable=True),
    sa.Column("tried", sa.Float, nullable=True),
    sa.Column("error", sa.Text, nullable=False),
)
alert_cursors = sa.Table(
    "mlops_alert_cursors",
    META,
    sa.Column("environment", sa.String(64), primary_key=True),
    sa.Column("instance", sa.String(64), primary_key=True),
    sa.Column("source", sa.String(400), primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("pending", sa.JSON, nullable=False),
)
silences = sa.Table(
    "mlops_silences",
    META,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("environment", sa.String(64), nullable=False),
    sa.Column("pattern", sa.String(400), nullable=False),
    sa.Column("until", sa.String(40), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
)

APPEND_ONLY = ("mlops_versions", "mlops_alias_log", "mlops_approvals", "mlops_erasures", "mlops_version_marks", "mlops_reproductions")


def forbid_changes(connection: sa.Connection, tables: tuple[str, ...] = APPEND_ONLY) -> None:
    """Create triggers that make the database refuse updates and deletes in append-only tables."""
    for table in tables:
        for statement in _trigger_statements(connection.dialect.name, table):
            connection.exec_driver_sql(statement)


def _trigger_statements(dialect: str, table: str) -> tuple[str, ...]:
    message = f"{table} is append-only"
    if dialect == "sqlite":
        trigger = "CREATE TRIGGER IF NOT EXISTS {0}_no_{1} BEFORE {2} ON {0} BEGIN SELECT RAISE(ABORT, '{3}'); END"
        return tuple(trigger.format(table, action.lower(), action, message) for action in ("UPDATE", "DELETE"))
    return (
        f"CREATE OR REPLACE FUNCTION {table}_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '{message}'; END $$",
        f"CREATE OR REPLACE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_refuse()",
    )
