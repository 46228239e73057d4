"""Dagster with the executor that its documentation names for light steps: all in one process."""

import dagster as dg
from five_assets import FIVE

defs = dg.Definitions(FIVE, executor=dg.in_process_executor)
