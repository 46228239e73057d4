"""Dagster with its default executor: a process for each step."""

import dagster as dg
from five_assets import FIVE

defs = dg.Definitions(FIVE)
