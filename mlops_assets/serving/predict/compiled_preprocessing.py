"""Preprocessing without data frames: from columns of plain values to one matrix of numbers.

An encoder, with the imputers before it, encodes each category independently of other columns. So it is not implemented again here. When the
model is loaded, the fitted encoder encodes every known category, null and an unknown value once, into a table. Transformers of numbers are
called on the matrix. :mod:`mlops_assets.serving.predict.predictor` then verifies on rows that the result agrees with the estimator.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from itertools import chain, groupby, takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mlops_assets.errors import DataError
from mlops_assets.serving.predict.request_schema import integer_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_MAX_CELLS = 4_000_000  # of a table of encoded categories: 32 MB
_UNKNOWN_TEXT = "\x00a category that does not exist\x00"
_ENCODERS = ("OneHotEncoder", "OrdinalEncoder", "TargetEncoder")
_BY_COLUMN = (*_ENCODERS, "MinMaxScaler", "SimpleImputer", "StandardScaler")


class NotCompilable(Exception):  # noqa: N818  (not an error: the native estimator serves then)
    """The estimator has a part that cannot be compiled."""


@dataclass(frozen=True, eq=False)
class NumericColumn:
    """A column of numbers that goes into the matrix unchanged; ``column`` is its index in ``X``."""

    column: int

    width = 1

    def to_numbers(self, columns: Sequence[Sequence[Any]]) -> Sequence[Any]:
        """Return the values of all rows; null becomes NaN in the matrix."""
        return columns[self.column]


@dataclass(frozen=True, eq=False)
class EncodingTable:
    """A column of categories with a table of their encodings.

    Parameters
    ----------
    column, name
        Index of the column in ``X``, and its name for messages.
    codes
        Value → row of ``encoded``, or None when the encoder refuses the value; the key None stands for null and NaN.
    unknown
        The row of ``encoded`` for a value that is not in ``codes``; None when the encoder refuses such values.
    encoded
        The encodings, shape (values, width).
    """

    column: int
    name: str
    codes: dict[Any, int | None]
    unknown: int | None
    encoded: np.ndarray
    numbers: list[float] = field(init=False)

    def __post_init__(self) -> None:
        """Set ``numbers``: the encodings as plain numbers if each is one number, else empty."""
        object.__setattr__(self, "numbers", self.encoded[:, 0].tolist() if self.width == 1 else [])

    @property
    def width(self) -> int:
        """Number of columns of the matrix that the encoding fills."""
        return int(self.encoded.shape[1])

    def to_numbers(self, columns: Sequence[Sequence[Any]]) -> list[float]:
        """Return the encodings of all rows; only for a table of width 1."""
        return [self.numbers[code] for code in self.find_codes(columns)]

    def find_codes(self, columns: Sequence[Sequence[Any]]) -> list[int]:
        """Return for each row of ``X`` the index of its encoding in ``encoded``.

        Raises
        ------
        DataError
            The encoder refuses a category.
        """
        get, unknown = self.codes.get, self.unknown
        rows = [get(value if value == value else None, unknown) for value in columns[self.column]]  # noqa: PLR0124  (NaN)
        if None in rows:
            raise DataError(
                f"column '{self.name}' holds a category that the model does not know", hint="send one that the model was trained on"
            )
        return rows  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class ConstantColumns:
    """Columns of the matrix with constant values."""

    values: np.ndarray

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.values)


@dataclass(frozen=True, eq=False)
class MatrixBuilder:
    """Builds a matrix from parts side by side, then applies operations to it.

    Parameters
    ----------
    parts
        Columns and nested builders.
    order
        The position in the matrix of each column of the parts; None when the positions are in order.
    operations
        Functions from matrix to matrix, applied in order.
    """

    parts: tuple[Any, ...]
    order: np.ndarray | None = None
    operations: tuple[Callable[[np.ndarray], np.ndarray], ...] = ()

    def __call__(self, columns: Sequence[Sequence[Any]], count: int) -> np.ndarray:
        """Return the matrix of the rows, shape (rows, width), float64."""
        blocks = [
            _make_block(single_columns, list(group), columns, count) for single_columns, group in groupby(self.parts, _fills_one_column)
        ]
        matrix = blocks[0] if len(blocks) == 1 else np.hstack(blocks)
        if self.order is not None:
            ordered = np.empty_like(matrix)
            ordered[:, self.order] = matrix
            matrix = ordered
        for operation in self.operations:
            matrix = operation(matrix)
        return matrix

    def add_operations(self, operations: Iterable[Callable[[np.ndarray], np.ndarray]]) -> MatrixBuilder:
        """Return a copy of the builder with further operations at the end."""
        return MatrixBuilder(self.parts, self.order, (*self.operations, *operations))


def _fills_one_column(part: Any) -> bool:  # noqa: ANN401
    return isinstance(part, NumericColumn) or (isinstance(part, EncodingTable) and part.width == 1)


def _make_block(single_columns: bool, parts: list[Any], columns: Sequence[Sequence[Any]], count: int) -> np.ndarray:  # noqa: FBT001
    """Return the columns of the matrix that adjacent parts fill; with ``single_columns``, each part fills one column."""
    if single_columns:
        return np.array([part.to_numbers(columns) for part in parts], dtype=np.float64).reshape(len(parts), count).T
    blocks = []
    for part in parts:
        if isinstance(part, EncodingTable):
            blocks.append(part.encoded[part.find_codes(columns)])
        else:
            blocks.append(np.tile(part.values, (count, 1)) if isinstance(part, ConstantColumns) else part(columns, count))
    return blocks[0] if len(blocks) == 1 else np.hstack(blocks)


@dataclass(frozen=True)
class TransformerCompiler:
    """Compiles transformers that were fitted on ``X``; ``schema`` lists the (column, type) pairs of ``X`` in order."""

    schema: tuple[tuple[str, pl.DataType], ...]

    def compile_columns(self) -> MatrixBuilder:
        """Return a builder for all columns unchanged; raise NotCompilable unless all are numbers or booleans."""
        return MatrixBuilder(self._to_numeric_columns(range(len(self.schema)), "the estimator"))

    def compile_transformer(self, fitted: Any, columns: Sequence[int]) -> MatrixBuilder:  # noqa: ANN401
        """Compile a fitted transformer of some columns of ``X``.

        Parameters
        ----------
        fitted
            The fitted transformer.
        columns
            Indices of the transformer's input columns in ``X``.

        Raises
        ------
        NotCompilable
            The transformer has no compiled form.
        """
        kind = type(fitted).__name__
        if _is_passthrough(fitted):
            return MatrixBuilder(self._to_numeric_columns(columns, "passthrough"))
        if kind == "ColumnTransformer":
            return self._compile_column_transformer(fitted, columns)
        if kind == "Pipeline":
            return self._compile_pipeline(fitted, columns)
        if kind in _ENCODERS:
            return self._tabulate(fitted, fitted, columns)
        return MatrixBuilder(self._to_numeric_columns(columns, kind)).add_operations([compile_operation(fitted)])

    def _to_numeric_columns(self, columns: Iterable[int], what: str) -> tuple[NumericColumn, ...]:
        columns = list(columns)
        for column in columns:
            name, dtype = self.schema[column]
            if not (dtype.is_numeric() or dtype == pl.Boolean):
                raise NotCompilable(f"{what} takes the column '{name}', which is {dtype}")
        return tuple(NumericColumn(column) for column in columns)

    def _compile_column_transformer(self, fitted: Any, columns: Sequence[int]) -> MatrixBuilder:  # noqa: ANN401
        """Return one builder for all transformers of a ColumnTransformer; parts without operations are merged into it."""
        if fitted.transformer_weights:
            raise NotCompilable("transformer_weights")
        parts, starts = list[Any](), list[int]()
        for name, sub, _ in fitted.transformers_:
            chosen = fitted._transformer_to_input_indices[name]  # noqa: SLF001  (verified on rows afterwards)
            if not (isinstance(sub, str) and sub == "drop") and len(chosen):
                parts.append(self.compile_transformer(sub, [columns[i] for i in chosen]))
                starts.append(fitted.output_indices_[name].start)
        if starts != sorted(starts):
            raise NotCompilable("outputs in another order than its transformers")
        return MatrixBuilder(
            tuple(chain.from_iterable(part.parts if part.order is None and not part.operations else [part] for part in parts))
        )

    def _compile_pipeline(self, fitted: Any, columns: Sequence[int]) -> MatrixBuilder:  # noqa: ANN401
        """Compile a pipeline: imputers before an encoder are tabulated together with it, other steps become operations."""
        steps = [step for _, step in fitted.steps if not _is_passthrough(step)]
        if not steps:
            return MatrixBuilder(self._to_numeric_columns(columns, "passthrough"))
        imputers = list(takewhile(lambda step: type(step).__name__ == "SimpleImputer", steps))
        after = steps[len(imputers) :]
        if after and type(after[0]).__name__ in _ENCODERS:
            if unsupported := [step for step in after if type(step).__name__ not in _BY_COLUMN]:
                raise NotCompilable(f"{type(unsupported[0]).__name__} after an encoder in one pipeline")
            return self._tabulate(fitted, after[0], columns)
        return self.compile_transformer(steps[0], columns).add_operations(map(compile_operation, steps[1:]))

    def _tabulate(self, fitted: Any, encoder: Any, columns: Sequence[int]) -> MatrixBuilder:  # noqa: ANN401
        """Return a builder with a table of encodings for each column; raise NotCompilable if an output depends on several columns.

        Parameters
        ----------
        fitted
            The encoder, or the pipeline of imputers and the encoder.
        encoder
            The fitted encoder, which knows the categories.
        columns
            Indices of the encoder's input columns in ``X``.
        """
        if len(encoder.categories_) != len(columns):
            raise NotCompilable("an imputer that drops columns")
        if sum(map(len, encoder.categories_)) * _max_width(encoder) > _MAX_CELLS:
            raise NotCompilable("too many categories for a table")
        known = [_list_categories(categories, self.schema[c][1]) for categories, c in zip(encoder.categories_, columns, strict=True)]
        base_values = [values[0] for values in known]
        probe = _TransformerProbe(fitted, tuple(self.schema[c] for c in columns), base_values)
        base = probe(0, [base_values[0]])[0]
        tables, owners = list[EncodingTable](), np.full(len(base), -1)
        for position, column in enumerate(columns):
            table, slots = self._make_table(probe, position, column, known[position], base)
            if (owners[slots] >= 0).any():
                raise NotCompilable(f"{type(fitted).__name__} mixes columns")
            owners[slots] = position
            tables.append(table)
        fixed = np.flatnonzero(owners < 0)
        order = np.concatenate([*(np.flatnonzero(owners == i) for i in range(len(columns))), fixed]).astype(np.intp)
        parts = (*tables, *([ConstantColumns(base[fixed])] if len(fixed) else []))
        return MatrixBuilder(parts, None if (order == np.arange(len(order))).all() else order)

    def _make_table(
        self, probe: _TransformerProbe, position: int, column: int, known: list[Any], base: np.ndarray
    ) -> tuple[EncodingTable, np.ndarray]:
        """Return the table of one column, and the indices of the outputs that its values change.

        Parameters
        ----------
        probe
            Encodes values of the column.
        position, column
            Index of the column among the transformer's inputs, and in ``X``.
        known
            The column's known categories.
        base
            The encoding of a row with the first known category in every column.
        """
        values = [*(v for v in known if v is not None), None, _find_unknown_value(known, self.schema[column][1])]
        try:
            encodings: list[np.ndarray | None] = list(probe(position, values))
        except Exception:  # noqa: BLE001  (an encoder may refuse null or an unknown value: each is encoded alone)
            encodings = [*probe(position, values[:-2]), probe.encode_one(position, values[-2]), probe.encode_one(position, values[-1])]
        accepted = [encoding for encoding in encodings if encoding is not None]
        slots = np.flatnonzero([_has_difference(np.array([encoding[i] for encoding in accepted]), base[i]) for i in range(len(base))])
        rows = {i: row for row, i in enumerate(i for i, encoding in enumerate(encodings) if encoding is not None)}
        codes = {value: rows.get(i) for i, value in enumerate(values[:-1])}
        return EncodingTable(column, self.schema[column][0], codes, rows.get(len(values) - 1), np.array(accepted)[:, slots]), slots


@dataclass(frozen=True, eq=False)
class _TransformerProbe:
    """Encodes values of one column with a transformer; every other column has its value in ``base_values``."""

    fitted: Any
    schema: tuple[tuple[str, pl.DataType], ...]
    base_values: list[Any]

    def __call__(self, position: int, values: list[Any]) -> np.ndarray:
        """Return the encodings of values, shape (values, width)."""
        columns = [
            pl.Series(name, values if i == position else [self.base_values[i]] * len(values), dtype=dtype)
            for i, (name, dtype) in enumerate(self.schema)
        ]
        return to_dense(self.fitted.transform(pl.DataFrame(columns)))

    def encode_one(self, position: int, value: Any) -> np.ndarray | None:  # noqa: ANN401
        """Return the encoding of one value; None when the transformer refuses it."""
        try:
            return self(position, [value])[0]  # type: ignore[no-any-return]
        except Exception:  # noqa: BLE001  (any error is a refusal)
            return None


def _max_width(encoder: Any) -> int:  # noqa: ANN401
    return max(map(len, encoder.categories_)) if type(encoder).__name__ == "OneHotEncoder" else 1


def _list_categories(categories: np.ndarray, dtype: pl.DataType) -> list[Any]:
    """Return an encoder's categories as values of the column's type; NaN becomes None. A column with nulls was fitted as floats or objects."""
    plain: Callable[[Any], Any] | None = int if dtype.is_integer() else bool if dtype == pl.Boolean else None
    values = [None if value != value else value for value in categories.tolist()]  # noqa: PLR0124
    return values if plain is None else [None if value is None else plain(value) for value in values]


def _find_unknown_value(known: list[Any], dtype: pl.DataType) -> Any:  # noqa: ANN401
    """Return a value of the type outside the known categories; None when all are known. Raise NotCompilable for an unsupported type."""
    if dtype == pl.Boolean:
        return next((value for value in (False, True) if value not in known), None)
    if dtype.is_integer():
        low, high = integer_range(str(dtype))
        return next((value for value in range(max(low, 0), min(high, len(known) + 1) + 1) if value not in known), None)
    if dtype.is_float():
        return max((abs(value) for value in known if value is not None), default=0.0) * 2 + 1.5
    if dtype == pl.String:
        return _UNKNOWN_TEXT
    raise NotCompilable(f"categories of the type {dtype}")


def _has_difference(encodings: np.ndarray, base: float) -> bool:
    return not np.array_equal(encodings, np.full(len(encodings), base), equal_nan=True)


def _is_passthrough(fitted: Any) -> bool:  # noqa: ANN401
    """Return True if a transformer returns numbers unchanged."""
    if fitted is None or isinstance(fitted, str):
        return True  # "drop" was removed before
    if type(fitted).__name__ != "FunctionTransformer":
        return False
    # Histogram gradient boosting passes numbers through scikit-learn's check of an array, which changes none of them.
    return fitted.func is None or getattr(getattr(fitted.func, "func", None), "__name__", "") == "check_array"


def compile_operation(fitted: Any) -> Callable[[np.ndarray], np.ndarray]:  # noqa: ANN401
    """Return a transformer of numbers as a function of a matrix: scaling and imputation in NumPy, else its own ``transform``."""
    kind = type(fitted).__name__
    if kind == "StandardScaler":
        mean = fitted.mean_ if fitted.with_mean else np.zeros(fitted.n_features_in_)
        scale = fitted.scale_ if fitted.with_std else np.ones(fitted.n_features_in_)
        return lambda matrix: (matrix - mean) / scale
    if kind == "SimpleImputer" and fitted.indicator_ is None and fitted.missing_values != fitted.missing_values:
        fill = np.asarray(fitted.statistics_)
        if fill.dtype.kind == "f" and np.isfinite(fill).all():
            return lambda matrix: np.where(np.isnan(matrix), fill, matrix)
    unnamed = drop_feature_names(fitted)
    return lambda matrix: to_dense(unnamed.transform(matrix))


def drop_feature_names(fitted: Any) -> Any:  # noqa: ANN401
    """Return a shallow copy of an estimator and its nested estimators that accepts a matrix without a warning about feature names."""
    unnamed = copy.copy(fitted)
    vars(unnamed).pop("feature_names_in_", None)
    for name, value in list(vars(unnamed).items()):
        if name == "steps":
            unnamed.steps = [(step, drop_feature_names(part) if hasattr(part, "feature_names_in_") else part) for step, part in value]
        elif hasattr(value, "feature_names_in_"):
            setattr(unnamed, name, drop_feature_names(value))
        elif isinstance(value, list) and any(hasattr(part, "feature_names_in_") for part in value):
            setattr(unnamed, name, [drop_feature_names(part) if hasattr(part, "feature_names_in_") else part for part in value])
    return unnamed


def to_dense(matrix: Any) -> np.ndarray:  # noqa: ANN401
    """Return the output of a transformer as a dense matrix of float64."""
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, dtype=np.float64)
