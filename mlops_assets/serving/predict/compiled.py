"""Preprocessing without data frames: from columns of plain values to one matrix of numbers.

A transformer that treats every text or category by itself (encoders, and imputers before them) is not written anew here: it is asked
once, when the model is loaded, what it makes of every value it knows, of null and of a value it does not know, and the answers are
looked up from then on. What works on numbers is called on the matrix. Whether all of it agrees with the estimator is decided by
:mod:`mlops_assets.serving.predict.predictor`, on rows.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from itertools import chain, groupby, takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.errors import DataError
from mlops_assets.serving.predict.schema import integer_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_MOST_CELLS = 4_000_000  # of a table of encoded categories: 32 MB
_UNKNOWN_TEXT = "\x00a category that nobody has\x00"
_ENCODERS = ("OneHotEncoder", "OrdinalEncoder", "TargetEncoder")
_BY_COLUMN = (*_ENCODERS, "MinMaxScaler", "SimpleImputer", "StandardScaler")


class Unrecognised(Exception):  # noqa: N818  (not an error: the native estimator serves then)
    """The estimator has a part that is not compiled."""


@dataclass(frozen=True, eq=False)
class Raw:
    """A number that goes into the matrix as it is."""

    column: int

    width = 1

    def listed(self, columns: Sequence[Sequence[Any]]) -> Sequence[Any]:
        """Return the values of all rows; a null is NaN in a matrix."""
        return columns[self.column]


@dataclass(frozen=True, eq=False)
class Table:
    """A column of categories whose encodings were tabulated.

    Parameters
    ----------
    column
        Of ``X``.
    codes
        Value → row of ``encoded``; NaN is None.
    unknown
        The row for every other value; None when the encoder refuses them.
    encoded
        Shape (values, width).
    """

    column: int
    codes: dict[Any, int | None]
    unknown: int | None
    encoded: np.ndarray
    numbers: list[float] = field(init=False)

    def __post_init__(self) -> None:
        """Keep encodings that are one number as plain numbers."""
        object.__setattr__(self, "numbers", self.encoded[:, 0].tolist() if self.width == 1 else [])

    @property
    def width(self) -> int:
        """The columns of the matrix that it fills."""
        return int(self.encoded.shape[1])

    def listed(self, columns: Sequence[Sequence[Any]]) -> list[float]:
        """Return the encodings of all rows, where each is one number."""
        return [self.numbers[code] for code in self.rows(columns)]

    def rows(self, columns: Sequence[Sequence[Any]]) -> list[int]:
        """Return for each row of ``X`` the row of ``encoded``.

        Raises
        ------
        DataError
            The encoder refuses a category.
        """
        get, unknown = self.codes.get, self.unknown
        found = [get(value if value == value else None, unknown) for value in columns[self.column]]  # noqa: PLR0124  (NaN)
        if None in found:
            raise DataError(
                f"column {self.column} of X holds a category that the model does not know", hint="send one that the model was trained on"
            )
        return found  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class Fixed:
    """Columns of the matrix that are the same whatever is sent."""

    values: np.ndarray

    @property
    def width(self) -> int:
        """How many."""
        return len(self.values)


@dataclass(frozen=True, eq=False)
class Node:
    """Parts side by side, then operations on what they make together.

    Parameters
    ----------
    parts
        Leaves and nodes.
    order
        Where each column of the parts, side by side, belongs; None when they are in order.
    operations
        On the matrix, in order.
    """

    parts: tuple[Any, ...]
    order: np.ndarray | None = None
    operations: tuple[Callable[[np.ndarray], np.ndarray], ...] = ()

    def __call__(self, columns: Sequence[Sequence[Any]], count: int) -> np.ndarray:
        """Return the matrix of the rows, shape (rows, width), float64."""
        blocks = [_block(plain, list(group), columns, count) for plain, group in groupby(self.parts, _is_plain)]
        matrix = blocks[0] if len(blocks) == 1 else np.hstack(blocks)
        if self.order is not None:
            ordered = np.empty_like(matrix)
            ordered[:, self.order] = matrix
            matrix = ordered
        for operation in self.operations:
            matrix = operation(matrix)
        return matrix

    def then(self, operations: Iterable[Callable[[np.ndarray], np.ndarray]]) -> Node:
        """Return this with more operations."""
        return Node(self.parts, self.order, (*self.operations, *operations))


def _is_plain(part: Any) -> bool:  # noqa: ANN401
    return isinstance(part, Raw) or (isinstance(part, Table) and part.width == 1)


def _block(plain: bool, parts: list[Any], columns: Sequence[Sequence[Any]], count: int) -> np.ndarray:  # noqa: FBT001
    if plain:
        return np.array([part.listed(columns) for part in parts], dtype=np.float64).reshape(len(parts), count).T
    blocks = []
    for part in parts:
        if isinstance(part, Table):
            blocks.append(part.encoded[part.rows(columns)])
        else:
            blocks.append(np.tile(part.values, (count, 1)) if isinstance(part, Fixed) else part(columns, count))
    return blocks[0] if len(blocks) == 1 else np.hstack(blocks)


@dataclass(frozen=True)
class Compiler:
    """Compiles transformers that were fitted on frames of this schema."""

    schema: tuple[tuple[str, pl.DataType], ...]

    def everything(self) -> Node:
        """Return the columns as they are, all numbers."""
        return Node(self._raw(range(len(self.schema)), "the estimator"))

    def transformer(self, fitted: Any, columns: Sequence[int]) -> Node:  # noqa: ANN401
        """Return what a fitted transformer makes of these columns of ``X``.

        Raises
        ------
        Unrecognised
            It is not one of those that are compiled.
        """
        kind = type(fitted).__name__
        if _passes(fitted):
            return Node(self._raw(columns, "passthrough"))
        if kind == "ColumnTransformer":
            return self._column_transformer(fitted, columns)
        if kind == "Pipeline":
            return self._pipeline(fitted, columns)
        if kind in _ENCODERS:
            return self._tabulated(fitted, fitted, columns)
        return Node(self._raw(columns, kind)).then([operation(fitted)])

    def _raw(self, columns: Iterable[int], what: str) -> tuple[Raw, ...]:
        columns = list(columns)
        for column in columns:
            name, dtype = self.schema[column]
            if not (dtype.is_numeric() or dtype == pl.Boolean):
                raise Unrecognised(f"{what} takes the column '{name}', which is {dtype}")
        return tuple(Raw(column) for column in columns)

    def _column_transformer(self, fitted: Any, columns: Sequence[int]) -> Node:  # noqa: ANN401
        if fitted.transformer_weights:
            raise Unrecognised("transformer_weights")
        parts, stores = list[Any](), list[int]()
        for name, sub, _ in fitted.transformers_:
            chosen = fitted._transformer_to_input_indices[name]  # noqa: SLF001  (proved on rows afterwards)
            if not (isinstance(sub, str) and sub == "drop") and len(chosen):
                parts.append(self.transformer(sub, [columns[i] for i in chosen]))
                stores.append(fitted.output_indices_[name].start)
        if stores != sorted(stores):
            raise Unrecognised("an order of outputs that is not the transformers'")
        return Node(tuple(chain.from_iterable(part.parts if part.order is None and not part.operations else [part] for part in parts)))

    def _pipeline(self, fitted: Any, columns: Sequence[int]) -> Node:  # noqa: ANN401
        steps = [step for _, step in fitted.steps if not _passes(step)]
        if not steps:
            return Node(self._raw(columns, "passthrough"))
        imputers = list(takewhile(lambda step: type(step).__name__ == "SimpleImputer", steps))
        after = steps[len(imputers) :]
        if after and type(after[0]).__name__ in _ENCODERS:
            if other := [step for step in after if type(step).__name__ not in _BY_COLUMN]:
                raise Unrecognised(f"{type(other[0]).__name__} after an encoder in one pipeline")
            return self._tabulated(fitted, after[0], columns)
        return self.transformer(steps[0], columns).then(map(operation, steps[1:]))

    def _tabulated(self, fitted: Any, encoder: Any, columns: Sequence[int]) -> Node:  # noqa: ANN401
        """Ask a transformer what it makes of every value of every column."""
        if len(encoder.categories_) != len(columns):
            raise Unrecognised("an imputer that drops columns")
        if sum(map(len, encoder.categories_)) * _width(encoder) > _MOST_CELLS:
            raise Unrecognised("more categories than are worth a table")
        known = [_values(categories, self.schema[c][1]) for categories, c in zip(encoder.categories_, columns, strict=True)]
        usual = [values[0] for values in known]
        ask = _Question(fitted, tuple(self.schema[c] for c in columns), usual)
        base = ask(0, [usual[0]])[0]
        tables, owners = list[Table](), np.full(len(base), -1)
        for position, column in enumerate(columns):
            table, slots = self._table(ask, position, column, known[position], base)
            if (owners[slots] >= 0).any():
                raise Unrecognised(f"{type(fitted).__name__} mixes columns")
            owners[slots] = position
            tables.append(table)
        fixed = np.flatnonzero(owners < 0)
        order = np.concatenate([*(np.flatnonzero(owners == i) for i in range(len(columns))), fixed]).astype(np.intp)
        parts = (*tables, *([Fixed(base[fixed])] if len(fixed) else []))
        return Node(parts, None if (order == np.arange(len(order))).all() else order)

    def _table(self, ask: _Question, position: int, column: int, known: list[Any], base: np.ndarray) -> tuple[Table, np.ndarray]:
        values = [*(v for v in known if v is not None), None, _unknown(known, self.schema[column][1])]
        try:
            answers: list[np.ndarray | None] = list(ask(position, values))
        except Exception:  # noqa: BLE001  (an encoder may refuse null, or what it does not know: which of them is asked one by one)
            answers = [*ask(position, values[:-2]), ask.one(position, values[-2]), ask.one(position, values[-1])]
        given = [answer for answer in answers if answer is not None]
        slots = np.flatnonzero([_differ(np.array([answer[i] for answer in given]), base[i]) for i in range(len(base))])
        rows = {i: row for row, i in enumerate(i for i, answer in enumerate(answers) if answer is not None)}
        codes = {value: rows.get(i) for i, value in enumerate(values[:-1])}
        return Table(column, codes, rows.get(len(values) - 1), np.array(given)[:, slots]), slots


@dataclass(frozen=True, eq=False)
class _Question:
    """Asks a transformer about one column, with usual values in the others."""

    fitted: Any
    schema: tuple[tuple[str, pl.DataType], ...]
    usual: list[Any]

    def __call__(self, position: int, values: list[Any]) -> np.ndarray:
        """Return what it makes of each value, shape (values, width)."""
        columns = [
            pl.Series(name, values if i == position else [self.usual[i]] * len(values), dtype=dtype)
            for i, (name, dtype) in enumerate(self.schema)
        ]
        return dense(self.fitted.transform(pl.DataFrame(columns)))

    def one(self, position: int, value: Any) -> np.ndarray | None:  # noqa: ANN401
        """Return what it makes of one value; None when it refuses."""
        try:
            return self(position, [value])[0]  # type: ignore[no-any-return]
        except Exception:  # noqa: BLE001  (whatever it raises, it refuses)
            return None


def _width(encoder: Any) -> int:  # noqa: ANN401
    return max(map(len, encoder.categories_)) if type(encoder).__name__ == "OneHotEncoder" else 1


def _values(categories: np.ndarray, dtype: pl.DataType) -> list[Any]:
    """Return an encoder's categories as values of the column's type; NaN is null. A column with nulls was fitted as floats or objects."""
    plain: Callable[[Any], Any] | None = int if dtype.is_integer() else bool if dtype == pl.Boolean else None
    values = [None if value != value else value for value in categories.tolist()]  # noqa: PLR0124
    return values if plain is None else [None if value is None else plain(value) for value in values]


def _unknown(known: list[Any], dtype: pl.DataType) -> Any:  # noqa: ANN401
    """Return a value that is not known; None, which is asked anyway, where there is none."""
    if dtype == pl.Boolean:
        return next((value for value in (False, True) if value not in known), None)
    if dtype.is_integer():
        low, high = integer_range(str(dtype))
        return next((value for value in range(max(low, 0), min(high, len(known) + 1) + 1) if value not in known), None)
    if dtype.is_float():
        return max((abs(value) for value in known if value is not None), default=0.0) * 2 + 1.5
    if dtype == pl.String:
        return _UNKNOWN_TEXT
    raise Unrecognised(f"categories of the type {dtype}")


def _differ(answers: np.ndarray, base: float) -> bool:
    return not np.array_equal(answers, np.full(len(answers), base), equal_nan=True)


def _passes(fitted: Any) -> bool:  # noqa: ANN401
    if fitted is None or isinstance(fitted, str):
        return True  # "drop" was left out before
    if type(fitted).__name__ != "FunctionTransformer":
        return False
    # Histogram gradient boosting passes numbers through scikit-learn's check of an array, which changes none of them.
    return fitted.func is None or getattr(getattr(fitted.func, "func", None), "__name__", "") == "check_array"


def operation(fitted: Any) -> Callable[[np.ndarray], np.ndarray]:  # noqa: ANN401
    """Return what a fitted transformer does to a matrix: written out where that is one line, else its own ``transform``."""
    kind = type(fitted).__name__
    if kind == "StandardScaler":
        mean = fitted.mean_ if fitted.with_mean else np.zeros(fitted.n_features_in_)
        scale = fitted.scale_ if fitted.with_std else np.ones(fitted.n_features_in_)
        return lambda matrix: (matrix - mean) / scale
    if kind == "SimpleImputer" and fitted.indicator_ is None and fitted.missing_values != fitted.missing_values:
        fill = np.asarray(fitted.statistics_)
        if fill.dtype.kind == "f" and np.isfinite(fill).all():
            return lambda matrix: np.where(np.isnan(matrix), fill, matrix)
    mine = nameless(fitted)
    return lambda matrix: dense(mine.transform(matrix))


def nameless(fitted: Any) -> Any:  # noqa: ANN401
    """Return a shallow copy that takes a matrix without a word about column names, neither its own nor of what it holds."""
    mine = copy.copy(fitted)
    vars(mine).pop("feature_names_in_", None)
    for name, value in list(vars(mine).items()):
        if name == "steps":
            mine.steps = [(step, nameless(part) if hasattr(part, "feature_names_in_") else part) for step, part in value]
        elif hasattr(value, "feature_names_in_"):
            setattr(mine, name, nameless(value))
        elif isinstance(value, list) and any(hasattr(part, "feature_names_in_") for part in value):
            setattr(mine, name, [nameless(part) if hasattr(part, "feature_names_in_") else part for part in value])
    return mine


def dense(made: Any) -> np.ndarray:  # noqa: ANN401
    """Return what a transformer made as a matrix of float64."""
    return np.asarray(made.toarray() if hasattr(made, "toarray") else made, dtype=np.float64)
