"""Columns that the package adds to users' rows, and their names in the lake.

In memory a column of the package starts with ``__``, which no column of a user may. In the lake it has a plain name, so that people can
read the table: ``__prediction`` is stored as ``prediction``. A user's column ``prediction`` is stored as ``__input_prediction``. The lake
does not distinguish names by case, so a user's ``Prediction`` becomes ``__input_Prediction``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mlops_assets.values.names import OWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

_INPUT = f"{OWN}input_"

SPLIT = "__split"
PREDICTION, PROBABILITY, INPUT_HASH = "__prediction", "__probability", "__input_hash"
PROBABILITY_OF, PROBABILITIES, PROBLEM = "__probability_of", "__probabilities", "__prediction_problem"
PREDICTION_ID, MODEL_VERSION, MISSING = "__prediction_id", "__model_version", "__missing"
LOGGED_AT, RUN_ID, PREDICTED_AT = "__logged_at", "__run_id", "__predicted_at"

TRAINING_SET_COLUMNS = (SPLIT,)
PREDICTION_COLUMNS = (
    *(PREDICTION, PROBABILITY, PROBABILITY_OF, PROBABILITIES, PROBLEM, INPUT_HASH),
    *(PREDICTION_ID, MODEL_VERSION, MISSING, LOGGED_AT, RUN_ID, PREDICTED_AT),
)


_NUMBERED_NAME = re.compile(r"(prediction|probabilities)_\d+")  # added when the column of that name already has another type


def is_prediction_column(name: str) -> bool:
    """Return True if a column of a prediction table in the lake holds predictions or probabilities, numbered columns included."""
    return name in ("prediction", "probabilities") or _NUMBERED_NAME.fullmatch(name) is not None


def lake_column(name: str, own: Sequence[str]) -> str:
    """Return the name of a column in the lake.

    Parameters
    ----------
    name
        The name of the column in memory.
    own
        The columns that the package adds to this kind of table: ``TRAINING_SET_COLUMNS`` or ``PREDICTION_COLUMNS``.
    """
    if _is_reserved(name, own):
        return name.removeprefix(OWN)
    return f"{_INPUT}{name}" if _is_reserved(f"{OWN}{name.lower()}", own) else name


def rename_to_table(frame: pl.DataFrame, own: Sequence[str]) -> pl.DataFrame:
    """Return rows with their column names in the lake; parameters as in :func:`lake_column`."""
    return frame.rename({name: lake_column(name, own) for name in frame.columns})


def rename_from_table(frame: pl.DataFrame, own: Sequence[str]) -> pl.DataFrame:
    """Return rows of the lake with their column names in memory; the inverse of :func:`rename_to_table`."""
    reserved = {name: f"{OWN}{name}" for name in frame.columns if _is_reserved(f"{OWN}{name}", own)}
    return frame.rename(reserved | {name: name.removeprefix(_INPUT) for name in frame.columns if name.startswith(_INPUT)})


def _is_reserved(name: str, own: Sequence[str]) -> bool:
    """Return True if the package adds a column of this name in memory: one of ``own``, or a numbered prediction column."""
    return name in own or (PREDICTION in own and name.startswith(OWN) and _NUMBERED_NAME.fullmatch(name.removeprefix(OWN)) is not None)
