"""The same plain Dagster assets, handed to our command."""

from five_assets import FIVE

import mlops_assets as ml

defs = ml.build_definitions(FIVE)
