"""Costs are exact, can be computed again, and are null with a reason where anything is unknown."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, localcontext
from fractions import Fraction

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.compute.llm_evaluation import prices
from mlops_assets.compute.llm_evaluation.costs import price_calls, sum_costs
from mlops_assets.compute.llm_evaluation.prices import MAX_PRICE, MAX_TOKENS, Price, PriceTable
from mlops_assets.errors import DataError, DefinitionError

START = datetime(2026, 1, 1, tzinfo=UTC)
COUNTS = ("input_tokens", "output_tokens", "cached_tokens")
TYPES = {"model": pl.String, "at": pl.Datetime("us", "UTC"), **dict.fromkeys(COUNTS, pl.Int64)}

AMOUNTS = st.one_of(st.decimals(0, 100, places=6), st.sampled_from([Decimal(0), Decimal("0.01875"), Decimal("0.15"), MAX_PRICE]))
DAYS = st.integers(0, 6).map(lambda days: START + timedelta(days=days))
PRICES = st.builds(Price, st.sampled_from("ab"), DAYS, AMOUNTS, AMOUNTS, st.none() | AMOUNTS)
TABLES = st.lists(PRICES, max_size=6, unique_by=lambda price: (price.model, price.valid_from)).map(lambda some: PriceTable(tuple(some)))
TOKENS = st.none() | st.integers(0, 5000) | st.sampled_from([-1, MAX_TOKENS, MAX_TOKENS + 1, 2**63 - 1, -(2**63)])
TIMES = st.none() | st.datetimes(datetime(2025, 12, 30), datetime(2026, 1, 9), timezones=st.just(UTC)) | DAYS
CALLS = st.lists(st.tuples(st.none() | st.sampled_from("abc"), TIMES, TOKENS, TOKENS, TOKENS), max_size=12)


def frame(rows: list[tuple]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=TYPES, orient="row")


@settings(max_examples=200, deadline=None)
@given(TABLES, CALLS)
def test_many_calls_cost_what_each_costs_alone(table: PriceTable, rows: list[tuple]) -> None:
    found = price_calls(frame(rows), table)
    alone = [table.price_call(*row) for row in rows]
    assert found.select(TYPES.keys()).rows() == rows
    assert found["cost_pico"].to_list() == [cost.pico for cost in alone]
    assert found["cost_missing"].to_list() == [cost.missing or None for cost in alone]
    assert found["price_from"].to_list() == [
        price.valid_from if model and at and (price := table.find_price(model, at)) else None for model, at, *_ in rows
    ]


@settings(deadline=None)
@given(TABLES, CALLS)
def test_a_cost_is_the_exact_fraction_or_null_with_a_reason(table: PriceTable, rows: list[tuple]) -> None:
    for model, at, tokens, output, cached in rows:
        cost = table.price_call(model, at, tokens, output, cached)
        assert (cost.pico is None) == (cost.amount is None) == bool(cost.missing)
        valid = [price for price in table.prices if price.model == model and at is not None and price.valid_from <= at]
        price = max(valid, key=lambda price: price.valid_from, default=None)
        if cost.pico is None:
            continue
        rate = price.input_price if price.cached_price is None else price.cached_price
        exact = (
            Fraction(price.input_price) * (tokens - (cached or 0)) + Fraction(rate) * (cached or 0) + Fraction(price.output_price) * output
        )
        assert Fraction(cost.amount) == exact / 10**6


@settings(deadline=None)
@given(TABLES, CALLS, st.randoms())
def test_the_order_of_prices_and_calls_does_not_matter(table: PriceTable, rows: list[tuple], random) -> None:
    shuffled = list(table.prices)
    random.shuffle(shuffled)
    order = random.sample(range(len(rows)), len(rows))
    other = PriceTable(tuple(shuffled))
    assert other.version == table.version
    costs = price_calls(frame(rows), table)["cost_pico"].to_list()
    assert price_calls(frame([rows[place] for place in order]), other)["cost_pico"].to_list() == [costs[place] for place in order]


@settings(deadline=None)
@given(st.lists(st.none() | st.integers(0, 2**63 - 1), max_size=20))
def test_a_sum_is_exact_and_counts_what_is_unknown(costs: list[int | None]) -> None:
    found = sum_costs(pl.Series(costs, dtype=pl.Int64))
    known = [cost for cost in costs if cost is not None]
    assert Fraction(found.amount) == Fraction(sum(known), 10**12)
    assert (found.calls, found.unknown, found.complete) == (len(costs), len(costs) - len(known), len(known) == len(costs))


TABLE = PriceTable(
    (
        Price("small", START, Decimal("0.15"), Decimal("0.60"), Decimal("0.075")),
        Price("small", START + timedelta(days=30), Decimal("0.10"), Decimal("0.40")),
        Price("free", START, Decimal(0), Decimal(0)),
    )
)
LATER = START + timedelta(days=30)


@pytest.mark.parametrize(
    ("call", "amount"),
    [
        (("small", START, 1_000_000, 1_000_000, 0), "0.75"),
        (("small", START, 1_000_000, 0, 1_000_000), "0.075"),
        (("small", LATER - timedelta(microseconds=1), 1, 0, 0), "0.00000015"),
        (("small", LATER, 1, 0, 0), "0.0000001"),
        (("small", LATER, 1_000_000, 0, 400_000), "0.1"),
        (("small", LATER, 1_000_000, 0, None), "0.1"),
        (("small", LATER.astimezone(timezone(timedelta(hours=9))), 1_000_000, 0, None), "0.1"),
        (("free", START, 10, 10, None), "0"),
        (("small", START, 0, 0, 0), "0"),
    ],
)
def test_costs_by_hand(call: tuple, amount: str) -> None:
    assert TABLE.price_call(*call).amount == Decimal(amount)


@pytest.mark.parametrize(
    ("call", "missing"),
    [
        (("large", START, 1, 1, 0), prices.UNKNOWN_MODEL),
        (("Small", START, 1, 1, 0), prices.UNKNOWN_MODEL),
        ((None, START, 1, 1, 0), prices.UNKNOWN_MODEL),
        (("small", None, 1, 1, 0), prices.NO_TIME),
        (("small", START - timedelta(microseconds=1), 1, 1, 0), prices.TOO_EARLY),
        (("free", START, None, 1, 0), prices.NO_TOKENS),
        (("free", START, 1, None, 0), prices.NO_TOKENS),
        (("small", START, 1, 1, None), prices.NO_CACHED_TOKENS),
        (("small", START, 1, 1, 2), prices.INVALID_TOKENS),
        (("small", START, 1, -1, 0), prices.INVALID_TOKENS),
        (("small", START, 1, 1, -1), prices.INVALID_TOKENS),
        (("small", START, MAX_TOKENS + 1, 1, 0), prices.INVALID_TOKENS),
        (("small", START, 1, MAX_TOKENS + 1, 0), prices.INVALID_TOKENS),
    ],
)
def test_what_is_unknown_is_null_with_its_reason_and_never_zero(call: tuple, missing: str) -> None:
    assert TABLE.price_call(*call) == prices.CallCost(None, missing)
    found = price_calls(frame([call]), TABLE)
    assert found.select("cost_pico", "cost_missing").row(0) == (None, missing)
    total = sum_costs(found["cost_pico"])
    assert (total.unknown, total.complete) == (1, False)


def test_the_largest_possible_cost_fits_64_bits() -> None:
    table = PriceTable((Price("a", START, MAX_PRICE, MAX_PRICE, MAX_PRICE - 1),))
    found = price_calls(frame([("a", START, MAX_TOKENS, MAX_TOKENS, 0)] * 1000), table)
    assert found["cost_pico"][0] == 2 * MAX_TOKENS * int(MAX_PRICE) * 10**6
    assert sum_costs(found["cost_pico"]).amount == 2000 * MAX_TOKENS * MAX_PRICE / 10**6


def test_costs_are_exact_in_any_decimal_context() -> None:
    with localcontext(prec=2):
        table = PriceTable((Price("a", START, Decimal("1234.567891"), Decimal("0.123456")),))
        cost = table.price_call("a", START, 1_000_001, 1, None)
        total = sum_costs(pl.Series([cost.pico, cost.pico]))
    assert cost.amount == Decimal("1234.569125691347")
    assert total.amount == 2 * cost.amount


def test_further_columns_stay_and_columns_of_nulls_are_unknown() -> None:
    calls = pl.DataFrame(
        {"trace": ["t"], "model": ["small"], "at": [LATER], "input_tokens": [None], "output_tokens": [None], "cached_tokens": [None]}
    )
    found = price_calls(calls, TABLE)
    assert found.columns == [*calls.columns, "cost_pico", "price_from", "cost_missing"]
    assert found.row(0, named=True)["cost_missing"] == prices.NO_TOKENS
    assert found.schema["cost_pico"] == pl.Int64
    assert price_calls(calls.clear(), TABLE).is_empty()
    assert price_calls(calls.with_columns(pl.lit(None).alias("model")), TABLE)["cost_missing"].item() == prices.UNKNOWN_MODEL


def test_counts_that_no_64_bits_hold_are_not_possible() -> None:
    calls = frame([("free", START, 1, 1, 0)]).with_columns(pl.lit(2**64 - 1, dtype=pl.UInt64).alias("input_tokens"))
    assert price_calls(calls, TABLE)["cost_missing"].item() == prices.INVALID_TOKENS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda calls: calls.drop("cached_tokens"), "no column 'cached_tokens'"),
        (lambda calls: calls.with_columns(pl.col("at").dt.replace_time_zone(None)), "'at' of the calls is of type"),
        (lambda calls: calls.with_columns(pl.col("input_tokens").cast(pl.Float64)), "'input_tokens' of the calls is of type Float64"),
        (lambda calls: calls.with_columns(pl.lit(1).alias("model")), "'model' of the calls"),
        (lambda calls: price_calls(calls, TABLE), "already have the column 'cost_pico'"),
    ],
)
def test_calls_that_cannot_be_priced_are_refused(change, message: str) -> None:
    with pytest.raises(DataError, match=message):
        price_calls(change(frame([("free", START, 1, 1, 0)])), TABLE)


@pytest.mark.parametrize("price", [Decimal(-1), Decimal("NaN"), Decimal("Infinity"), Decimal("0.0000001"), MAX_PRICE + 1, 0.15, 1])
@pytest.mark.parametrize("name", ["input_price", "output_price", "cached_price"])
def test_a_price_that_is_not_exact_is_refused(price: object, name: str) -> None:
    with pytest.raises(DefinitionError, match="'a' is n"):
        Price("a", START, **{"input_price": Decimal(1), "output_price": Decimal(1), name: price})


def test_a_table_is_unambiguous() -> None:
    price = Price("a", START, Decimal(1), Decimal(1))
    with pytest.raises(DefinitionError, match="has no time zone"):
        Price("a", datetime(2026, 1, 1), Decimal(1), Decimal(1))
    same = Price("a", START.astimezone(timezone(timedelta(hours=1))), Decimal(2), Decimal(2))
    with pytest.raises(DefinitionError, match="2 prices of 'a' are valid from the same time"):
        PriceTable((price, same))
    assert PriceTable((price,)).version != PriceTable((price,), currency="EUR").version
    assert PriceTable((price,)).version == PriceTable((Price("a", START, Decimal("1.0"), Decimal("1.00")),)).version
    with pytest.raises(DataError, match="Float64"):
        sum_costs(pl.Series([0.1]))
