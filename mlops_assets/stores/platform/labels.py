"""Labels of traces: cases that people add to an evaluation set, in a table of the lake that only grows."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import DataError, DefinitionError
from mlops_assets.values.arguments import check_arguments
from mlops_assets.values.names import validate_name
from mlops_assets.values.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import polars as pl

    from mlops_assets.stores.lake.protocol import Lake

LABELS = "labels/"  # starts the names of the tables
CASE, TRACE_ID, LABELLED_BY, LABELLED_AT = "case", "trace_id", "labelled_by", "labelled_at"
LABEL_COLUMNS = (CASE, TRACE_ID, LABELLED_BY, LABELLED_AT)  # of every label


@dataclass(frozen=True)
class LabelScope:
    """The labels that a user's function may read while a step calls it.

    Parameters
    ----------
    owner
        The node of the step.
    table
        The table of labels that is an input of the step; empty if there is none.
    platform
        The platform of the step.
    find_snapshot
        A function that returns the snapshot that the step reads.
    """

    owner: str
    table: str
    platform: Platform
    find_snapshot: Callable[[], int]


_SCOPE: ContextVar[LabelScope | None] = ContextVar("label_scope", default=None)


@contextmanager
def limit_labels(scope: LabelScope) -> Iterator[None]:
    """Let :func:`read_labels` read the labels of a step, at the step's snapshot, until the context ends."""
    token = _SCOPE.set(scope)
    try:
        yield
    finally:
        _SCOPE.reset(token)


@check_arguments
def read_labels(name: str, platform: Platform | None = None) -> pl.DataFrame:
    """Read the labelled cases that ``mlops traces label`` added to a dataset.

    Call it in the function of the dataset, and concatenate the rows with the dataset's own. The dataset is stale after each label, so that
    the next evaluation includes the case. With ``keep="last"``, a label replaces a row of the dataset with the same case.

    Parameters
    ----------
    name
        The name of the dataset; within the function of a dataset, its own name.
    platform
        The platform to read; when None, that of the running step, else ``Platform.from_env()``.

    Returns
    -------
    polars.DataFrame
        The last label of each case, in the order of the labels. The columns are ``case``, the variables of the prompt and the labelled
        columns; then ``trace_id``, ``labelled_by`` and ``labelled_at``. Without labels, it has these four columns and no row.

    Raises
    ------
    DefinitionError
        The function of a step reads labels that are not an input of the step, or the name is invalid.
    ArtifactError
        The labels are damaged in the lake.

    See Also
    --------
    PromptEvaluation : Evaluates a prompt on the cases of a dataset.
    mlops_assets.read_table : Reads the history of the labels, the table ``labels/<name>``.

    Examples
    --------
    >>> import tempfile
    >>> import mlops_assets as ml
    >>> import polars as pl
    >>> @ml.dataset(key="case", keep="last")
    ... def questions() -> pl.DataFrame:
    ...     own = pl.DataFrame({"case": ["1"], "question": ["Is JFK late?"], "expected": ["yes"]})
    ...     return pl.concat([own, ml.llm.read_labels("questions")], how="diagonal")
    >>> ml.llm.read_labels("questions", platform=ml.Platform.at(tempfile.mkdtemp())).columns
    ['case', 'trace_id', 'labelled_by', 'labelled_at']
    """
    import polars as pl

    from mlops_assets.stores.platform.stores import open_stores

    table, scope = LABELS + validate_name(name, "a dataset"), _SCOPE.get()
    if scope is not None and table != scope.table:
        raise _build_foreign_labels_error(name, scope)
    lake = open_stores(platform or (scope.platform if scope else Platform.from_env())).lake
    labels = _read_history(lake, table, scope.find_snapshot() if scope and platform is None else None)
    last = labels.sort(LABELLED_AT).unique(CASE, keep="last", maintain_order=True)
    return last.select(CASE, pl.exclude(LABEL_COLUMNS), *LABEL_COLUMNS[1:])


def _build_foreign_labels_error(name: str, scope: LabelScope) -> DefinitionError:
    own = scope.table.removeprefix(LABELS)
    if own:
        return DefinitionError(
            f"'{scope.owner}' reads the labels of '{name}', which are not an input of the step",
            hint=f"read its own: ml.llm.read_labels('{own}'), or take the dataset '{name}' as a parameter",
        )
    return DefinitionError(
        f"'{scope.owner}' reads the labels of '{name}', and new labels would not make it stale",
        hint=f"call ml.llm.read_labels('{name}') by this name in the function of the dataset '{name}'",
    )


def _read_history(lake: Lake, table: str, snapshot: int | None = None) -> pl.DataFrame:
    """Return all labels of a table, verified, including those that were replaced."""
    import polars as pl

    from mlops_assets.stores.lake.protocol import Partition
    from mlops_assets.stores.lake.verified_reads import read_verified

    state = lake.snapshot() if snapshot is None else snapshot
    if not lake.records(table, snapshot=state):
        texts: dict[str, Any] = dict.fromkeys(LABEL_COLUMNS[:-1], pl.String)
        return pl.DataFrame(schema=texts | {LABELLED_AT: pl.Datetime("us", "UTC")})
    return read_verified(lake, table, [Partition("")], window=None, event_timestamp=None, snapshot=state)


def add_label(  # noqa: PLR0913  (a label)
    lake: Lake, table: str, values: pl.DataFrame, *, case: str, trace_id: str, labelled_by: str
) -> pl.DataFrame:
    """Append a label to a table of labels; other processes wait meanwhile, so that no label is lost.

    Parameters
    ----------
    lake, table
        The lake, and the table ``labels/<dataset>``.
    values
        One row: the variables and the labelled columns.
    case
        The case that is labelled.
    trace_id
        The trace from which the label comes.
    labelled_by
        The person.

    Returns
    -------
    polars.DataFrame
        The earlier labels of the same case, oldest first.

    Raises
    ------
    DataError
        A value has another type than in the earlier labels.
    """
    import polars as pl

    from mlops_assets.stores.lake.protocol import Partition

    with lake.lock():
        history = _read_history(lake, table)
        now = datetime.now(UTC)
        last: Any = history[LABELLED_AT].max()
        at = now if last is None else max(now, last + timedelta(microseconds=1))  # a clock may be set back
        facts = {CASE: case, TRACE_ID: trace_id, LABELLED_BY: labelled_by}
        label = values.with_columns(
            **{name: pl.lit(text) for name, text in facts.items()}, **{LABELLED_AT: pl.lit(at, pl.Datetime("us", "UTC"))}
        )
        _refuse_other_types(table, history, label)
        rows = pl.concat([history, label], how="diagonal_relaxed")
        lake.write(table, rows, [Partition("")], key=(CASE, LABELLED_AT))
    return history.filter(pl.col(CASE) == case).sort(LABELLED_AT)


def _refuse_other_types(table: str, history: pl.DataFrame, label: pl.DataFrame) -> None:
    import polars as pl

    for name, dtype in label.schema.items():
        stored = history.schema.get(name, dtype)
        if stored != dtype and pl.Null not in (stored, dtype) and not (stored.is_numeric() and dtype.is_numeric()):
            raise DataError(
                f"column '{name}' is {stored} in the labels of '{table.removeprefix(LABELS)}', and {dtype} in this one",
                hint="give a value of the earlier type",
            )
