"""The tables as they were before revisions were kept: a database with ``mlops_schema`` and without ``mlops_revision``."""

from __future__ import annotations

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Do nothing, because such a database already has these tables."""
