"""Add active runs, curves, artifacts of runs, files and marks of versions, and reproductions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add columns, with defaults for earlier rows, then the new tables."""
    with op.batch_alter_table("mlops_runs") as runs:
        runs.alter_column("ended_at", existing_type=sa.String(40), nullable=True)
        runs.alter_column("snapshot", existing_type=sa.Integer(), nullable=True)
        for name, kind, default in (
            ("environment", sa.String(64), "dev"),
            ("kind", sa.String(20), "training"),
            ("name", sa.String(200), ""),
            ("status", sa.String(20), "finished"),
            ("error", sa.Text(), ""),
            ("tags", sa.JSON(), "{}"),
        ):
            runs.add_column(sa.Column(name, kind, nullable=False, server_default=default))
        runs.add_column(sa.Column("parent_id", sa.String(64), nullable=True))
        runs.create_index("ix_mlops_runs_parent_id", ["parent_id"])
        runs.create_index("ix_mlops_runs_status", ["status"])
    with op.batch_alter_table("mlops_metrics") as metrics:
        metrics.add_column(sa.Column("step", sa.BigInteger(), nullable=True))
        metrics.add_column(sa.Column("low", sa.Float(), nullable=True))
        metrics.add_column(sa.Column("high", sa.Float(), nullable=True))
        metrics.add_column(sa.Column("count", sa.Integer(), nullable=False, server_default="1"))
        metrics.create_index("ix_mlops_metrics_name_value", ["name", "value"])
    with op.batch_alter_table("mlops_evidence") as evidence:
        evidence.add_column(sa.Column("low", sa.Float(), nullable=True))
        evidence.add_column(sa.Column("high", sa.Float(), nullable=True))
    op.execute("UPDATE mlops_metrics SET low = value, high = value")
    _create_run_tables()
    _create_version_tables()


def _create_run_tables() -> None:
    run = ("run_id", sa.String(64), sa.ForeignKey("mlops_runs.id"))
    op.create_table(
        "mlops_curves",
        sa.Column(*run, primary_key=True),
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("part", sa.Integer, primary_key=True),
        sa.Column("steps", sa.LargeBinary, nullable=False),
        sa.Column("values", sa.LargeBinary, nullable=False),
        sa.Column("times", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "mlops_run_artifacts",
        sa.Column(*run[:2], sa.ForeignKey("mlops_runs.id"), primary_key=True),
        sa.Column("name", sa.String(250), primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("media", sa.String(100), nullable=False),
    )


def _create_version_tables() -> None:
    op.create_table(
        "mlops_version_files",
        sa.Column("model", sa.String(64), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(250), primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("at", sa.String(40), nullable=False),
    )
    op.create_table(
        "mlops_version_marks",
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("model", sa.String(64), nullable=False, index=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("mark", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", sa.String(40), nullable=False),
    )
    op.create_table(
        "mlops_reproductions",
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("model", sa.String(64), nullable=False, index=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("mode", sa.String(20), nullable=False),
        sa.Column("verdict", sa.String(20), nullable=False),
        sa.Column("field", sa.String(250), nullable=False),
        sa.Column("was", sa.Text, nullable=False),
        sa.Column("now", sa.Text, nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
        sa.Column("at", sa.String(40), nullable=False),
    )
