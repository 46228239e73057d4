"""The filter language of runs. A filter is parsed into bound values and known columns; no text is pasted into SQL.

::

    metrics.roc_auc > 0.7 and params.max_iter >= 100 and tags.team = 'x' and status = 'finished'

A field is ``metrics.NAME`` (the last value), ``lowest.NAME``, ``highest.NAME``, ``params.NAME``, ``tags.NAME`` or a key of :data:`COLUMNS`.
A name with other characters than letters, digits, ``_ . / -`` stands in double quotes, ``metrics."a b"``. A text stands in single quotes;
a single quote within the text is doubled. ``like`` ignores case. A comparison with a field that a run lacks is not true for this run,
even after ``not`` or with ``!=``. A field that no run has raises an error (:mod:`mlops_assets.stores.tracker.queries`).
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mlops_assets.errors import RegistryError, suggest_name
from mlops_assets.stores.database.schema import metrics, runs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<field>(?:metrics|lowest|highest|params|tags)\.(?:"(?:[^"]|"")+"|[A-Za-z_0-9][\w./-]*))
  | (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
  | (?P<text>'(?:[^']|'')*')
  | (?P<word>[A-Za-z_]\w*)
  | (?P<sign><=|>=|!=|=|<|>|\(|\)|,)
    )""",
    re.VERBOSE | re.ASCII,
)
COLUMNS = {
    "id": runs.c.id,
    "experiment": runs.c.model,
    "model": runs.c.model,
    "name": runs.c.name,
    "kind": runs.c.kind,
    "status": runs.c.status,
    "environment": runs.c.environment,
    "parent": runs.c.parent_id,
    "fingerprint": runs.c.fingerprint,
    "dagster_run": runs.c.dagster_run_id,
    "started_at": runs.c.started_at,
    "ended_at": runs.c.ended_at,
    "snapshot": runs.c.snapshot,
    "error": runs.c.error,
}
_METRIC_COLUMNS = {"metrics": metrics.c.value, "lowest": metrics.c.low, "highest": metrics.c.high}
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_MAX_LENGTH, _MAX_DEPTH = 4000, 40
_EXAMPLES = {
    "filter": "write e.g. metrics.roc_auc > 0.7 and params.depth >= 3 and tags.team = 'x' and not (status = 'failed' or name like 'try%')",
    "order": "write e.g. metrics.roc_auc desc, started_at",
}


@dataclass(frozen=True)
class RunField:
    """A field to filter or order by.

    Parameters
    ----------
    number, text
        The SQL expressions for the value as a number and as a text; None when the field is never a number, or never a text.
    metric
        For a metric: the column of the metrics table, and the name of the metric. None for other fields.
    """

    number: sa.ColumnElement[Any] | None
    text: sa.ColumnElement[Any] | None
    metric: tuple[sa.ColumnElement[Any], str] | None = None


@dataclass(frozen=True)
class OrderTerm:
    """One field of an order such as ``metrics.roc_auc desc, started_at``, with its direction."""

    field: RunField
    descending: bool

    def terms(self) -> list[sa.ColumnElement[Any]]:
        """Return the expressions for ORDER BY; runs without the field come last."""
        columns = [column for column in (self.field.number, self.field.text if self.field.metric is None else None) if column is not None]
        return [term for column in columns for term in (column.is_(None), column.desc() if self.descending else column.asc())]


def parse_condition(text: str, dialect: str) -> sa.ColumnElement[bool]:
    """Parse a filter into a condition on runs.

    Parameters
    ----------
    text
        A filter in the language of this module; empty for every run.
    dialect
        ``sqlite`` or ``postgresql``.

    Raises
    ------
    RegistryError
        The filter cannot be parsed, or is too long. The message quotes the text at the error.
    """
    return _Parser(text, dialect).parse_condition() if text.strip() else sa.true()


def parse_order(text: str, dialect: str) -> list[OrderTerm]:
    """Parse an order such as ``metrics.roc_auc desc, started_at``; raise RegistryError when it is invalid. An empty text has no terms."""
    return _Parser(text, dialect, "order").parse_order() if text.strip() else []


def list_fields(text: str) -> list[tuple[str, str]]:
    """Return ``(prefix, name)`` of each metric, parameter and tag in a filter or an order, repetitions included.

    The prefix is ``metrics``, ``lowest``, ``highest``, ``params`` or ``tags``.
    """
    return _Parser(text, "sqlite").list_fields() if text.strip() else []


class _Parser:
    """A recursive-descent parser of one text. Each ``_parse_…`` method consumes the tokens that it parses."""

    def __init__(self, text: str, dialect: str, noun: str = "filter") -> None:
        if len(text) > _MAX_LENGTH or "\0" in text:
            raise RegistryError(
                f"the {noun} of {len(text)} characters cannot be read",
                hint=f"write at most {_MAX_LENGTH} characters, without NUL; {_EXAMPLES[noun]}",
            )
        self._text, self._dialect, self._noun, self._at, self._depth = text, dialect, noun, 0, 0
        self._tokens = list(self._tokenize())

    def parse_condition(self) -> sa.ColumnElement[bool]:
        condition = self._parse_or()
        if self._peek():
            raise self._build_syntax_error("'and', 'or' or the end")
        return condition

    def parse_order(self) -> list[OrderTerm]:
        terms = [self._parse_term()]
        while self._accept(","):
            terms.append(self._parse_term())
        if self._peek():
            raise self._build_syntax_error("',' or the end")
        return terms

    def list_fields(self) -> list[tuple[str, str]]:
        return [_split_field(token) for kind, token, _ in self._tokens if kind == "field"]

    def _parse_term(self) -> OrderTerm:
        field = self._parse_field()
        descending = bool(self._accept("desc"))
        if not descending:
            self._accept("asc")
        return OrderTerm(field, descending)

    def _parse_or(self) -> sa.ColumnElement[bool]:
        parts = [self._parse_and()]
        while self._accept("or"):
            parts.append(self._parse_and())
        return sa.or_(*parts)

    def _parse_and(self) -> sa.ColumnElement[bool]:
        parts = [self._parse_not()]
        while self._accept("and"):
            parts.append(self._parse_not())
        return sa.and_(*parts)

    def _parse_not(self) -> sa.ColumnElement[bool]:
        """Parse a comparison or a condition in brackets, with or without ``not``; each level counts towards the maximum depth."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._build_syntax_error(f"at most {_MAX_DEPTH} terms within each other")
        if self._accept("not"):
            condition: sa.ColumnElement[bool] = sa.not_(self._parse_not())
        elif self._accept("("):
            condition = self._parse_or()
            if not self._accept(")"):
                raise self._build_syntax_error("')'")
        else:
            condition = self._parse_comparison()
        self._depth -= 1
        return condition

    def _parse_comparison(self) -> sa.ColumnElement[bool]:
        field = self._parse_field()
        if self._accept("like"):
            return sa.func.lower(self._typed_column(field, "")).like(str(self._parse_value()).lower())
        if self._accept("in"):
            values = self._parse_values()
            return sa.or_(*(self._typed_column(field, value) == value for value in values))
        for sign, operator_ in _OPERATORS.items():
            if self._accept(sign):
                value = self._parse_value()
                condition: sa.ColumnElement[bool] = operator_(self._typed_column(field, value), value)
                return condition
        raise self._build_syntax_error("=, !=, <, <=, >, >=, like or in")

    def _parse_values(self) -> list[float | str]:
        if not self._accept("("):
            raise self._build_syntax_error("'('")
        values = [self._parse_value()]
        while self._accept(","):
            values.append(self._parse_value())
        if not self._accept(")"):
            raise self._build_syntax_error("')'")
        return values

    def _typed_column(self, field: RunField, value: float | str) -> sa.ColumnElement[Any]:
        """Return the field's expression of the value's type; raise RegistryError when the field never has this type."""
        column = field.text if isinstance(value, str) else field.number
        if column is None:
            raise self._build_syntax_error("a number" if isinstance(value, str) else "a text in single quotes", back=1)
        return column

    def _parse_field(self) -> RunField:
        kind, token = self._advance("a field")
        if kind == "field":
            return self._named_field(*_split_field(token))
        if kind != "word" or token.lower() not in COLUMNS:
            raise self._build_syntax_error(
                f"metrics.NAME, lowest.NAME, highest.NAME, params.NAME, tags.NAME, or one of {', '.join(COLUMNS)}",
                back=1,
                suggestion=suggest_name(token, COLUMNS) if kind == "word" else "",
            )
        column = COLUMNS[token.lower()]
        return RunField(column, None) if isinstance(column.type, sa.Integer) else RunField(None, column)

    def _named_field(self, prefix: str, name: str) -> RunField:
        if prefix in _METRIC_COLUMNS:
            number, text = (_metric_value(column, name) for column in (_METRIC_COLUMNS[prefix], metrics.c.text))
            return RunField(number, text if prefix == "metrics" else None, (_METRIC_COLUMNS[prefix], name))
        column = runs.c.params if prefix == "params" else runs.c.tags
        return _sqlite_json_field(column, name) if self._dialect == "sqlite" else _postgresql_json_field(column, name)

    def _parse_value(self) -> float | str:
        kind, token = self._advance("a value")
        if kind == "number":
            return float(token)
        if kind == "text":
            return token[1:-1].replace("''", "'")
        if token.lower() in ("true", "false"):
            return token.lower()
        raise self._build_syntax_error("a number, a text in single quotes, true or false", back=1)

    def _tokenize(self) -> Sequence[tuple[str, str, int]]:
        """Return kind, text and position of each token; the kinds are the groups of the regular expression."""
        tokens, position, end = [], 0, len(self._text.rstrip())
        while position < end:
            match = _TOKEN.match(self._text, position)
            if match is None or match.lastgroup is None:
                raise self._build_error(position, "a field, a value or a sign")
            tokens.append((match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)))
            position = match.end()
        return tokens

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _accept(self, word: str) -> str:
        """Consume the next token and return ``word`` if the token is this word or sign; else return an empty text."""
        if self._at < len(self._tokens) and self._tokens[self._at][0] in ("word", "sign") and self._peek().lower() == word:
            self._at += 1
            return word
        return ""

    def _advance(self, expected: str) -> tuple[str, str]:
        """Consume the next token and return its kind and text; raise RegistryError, which names what is ``expected``, at the end."""
        if self._at >= len(self._tokens):
            raise self._build_syntax_error(expected)
        kind, token, _ = self._tokens[self._at]
        self._at += 1
        return kind, token

    def _build_syntax_error(self, expected: str, *, back: int = 0, suggestion: str = "") -> RegistryError:
        index = self._at - back
        return self._build_error(self._tokens[index][2] if index < len(self._tokens) else len(self._text), expected, suggestion)

    def _build_error(self, position: int, expected: str, suggestion: str = "") -> RegistryError:
        where = f"at '{self._text[position : position + 40]}'" if self._text[position:].strip() else "at its end"
        return RegistryError(
            f"the {self._noun} {self._text[:200]!r} cannot be read {where}",
            hint=f"{suggestion}expected {expected}; {_EXAMPLES[self._noun]}",
        )


def _split_field(token: str) -> tuple[str, str]:
    prefix, _, name = token.partition(".")
    return prefix, name[1:-1].replace('""', '"') if name.startswith('"') else name


def _metric_value(column: sa.ColumnElement[Any], name: str) -> sa.ColumnElement[Any]:
    return sa.select(column).where(metrics.c.run_id == runs.c.id, metrics.c.name == name).correlate(runs).scalar_subquery()


def _sqlite_json_field(column: sa.ColumnElement[Any], name: str) -> RunField:
    """Return a key of a JSON column as a field: numbers as numbers, and every value as text, booleans as ``true`` or ``false``."""
    items = sa.func.json_each(column).table_valued("key", "value", "type")

    def extract(value: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        return sa.select(value).select_from(items).where(items.c.key == name).correlate(runs).scalar_subquery()

    word = sa.case((items.c.type.in_(("true", "false")), items.c.type), else_=sa.cast(items.c.value, sa.Text))
    return RunField(extract(sa.case((items.c.type.in_(("integer", "real")), items.c.value))), extract(word))


def _postgresql_json_field(column: sa.ColumnElement[Any], name: str) -> RunField:
    raw, key = sa.type_coerce(column, sa.Text), sa.literal(name, sa.Text)
    text = raw.op("->>", return_type=sa.Text())(key)
    kind = sa.func.json_typeof(raw.op("->", return_type=sa.Text())(key))
    return RunField(sa.case((kind == "number", sa.cast(text, sa.Double))), text)
