"""Add alerts, their deliveries and cursors, and silences."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "mlops_alerts",
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
    op.create_table(
        "mlops_alert_deliveries",
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
    op.create_table(
        "mlops_alert_cursors",
        sa.Column("environment", sa.String(64), primary_key=True),
        sa.Column("instance", sa.String(64), primary_key=True),
        sa.Column("source", sa.String(400), primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("pending", sa.JSON, nullable=False),
    )
    op.create_table(
        "mlops_silences",
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("environment", sa.String(64), nullable=False),
        sa.Column("pattern", sa.String(400), nullable=False),
        sa.Column("until", sa.String(40), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("at", sa.String(40), nullable=False),
    )
