"""Numbers with their units, as people write them."""

import pytest

from mlops_assets.compute.groundedness.quantities import find_quantities


@pytest.mark.parametrize(
    ("text", "value", "dimension"),
    [
        ("1,200,000 rows", 1.2e6, ""),
        ("1.2 million rows", 1.2e6, ""),
        ("1'200'000 rows", 1.2e6, ""),
        ("1\u202f200\u202f000 rows", 1.2e6, ""),
        ("twenty-five rows", 25, ""),
        ("two hundred and five rows", 205, ""),
        ("four thousand rows", 4000, ""),
        ("a dozen rows", 12, ""),
        ("two dozen rows", 24, ""),
        ("twice", 2, ""),
        ("20 %", 20, "percent"),
        ("20 percent", 20, "percent"),
        ("20 per cent", 20, "percent"),
        ("one fifth of it", 20, "percent"),
        ("a fifth less", 20, "percent"),
        ("half of it", 50, "percent"),
        ("three quarters of it", 75, "percent"),
        ("one in five flights", 20, "percent"),
        ("3 out of 10 flights", 30, "percent"),
        ("half a percentage point", 0.5, "percent"),
        ("half an hour", 30, "time"),
        ("a quarter of an hour", 15, "time"),
        ("within a week", 10_080, "time"),
        ("90 min", 90, "time"),
        ("1.5 hours", 90, "time"),
        ("half a litre", 0.5, "volume"),
        ("500 ml", 0.5, "volume"),
        ("a quarter of a kilogram", 250, "mass"),
        ("1.35 tonnes", 1.35e6, "mass"),
        ("330 square kilometres", 3.3e8, "area"),
        ("330 km²", 3.3e8, "area"),
        ("160 km/h", 160, "speed"),
        ("2.3 kW", 2300, "power"),
        ("58 kWh", 58_000, "energy"),
        ("25 °C", 25, "celsius"),
        ("$412 million", 4.12e8, "money:usd"),
        ("$412m", 4.12e8, "money:usd"),
        ("€1,150", 1150, "money:eur"),
        ("14 euros", 14, "money:eur"),
        ("20 cents", 0.2, "money"),
        ("7 am", 420, "clock"),
        ("12 am", 0, "clock"),
        ("3:20 pm", 920, "clock"),
        ("3.20", 3.2, ""),
        ("15:20", 920, "clock"),
        ("noon", 720, "clock"),
        ("9 February 2021", 20_210_209, "date"),
        ("February 9, 2021", 20_210_209, "date"),
        ("9 Feb 2021", 20_210_209, "date"),
        ("2021-02-09", 20_210_209, "date"),
        ("the 9 of February", 209, "date"),
        ("May 2013", 20_130_500, "date"),
        ("2013-05", 20_130_500, "date"),
    ],
)
def test_a_number_is_read_with_its_unit(text: str, value: float, dimension: str) -> None:
    (found,) = find_quantities(text)
    assert found.value == pytest.approx(value)
    assert found.dimension == dimension
    (shouted,) = find_quantities(text.upper()) if "°" not in text and "KW" not in text.upper() else (found,)
    assert (shouted.value, shouted.dimension) == (found.value, found.dimension)


@pytest.mark.parametrize(
    "text",
    ["flight B6", "the 32-bit build", "release 1.2.3", "the one in Ghent", "no one", "the first half", "a fourth runway", "half-used", ""],
)
def test_codes_ordinals_and_pronouns_are_no_numbers(text: str) -> None:
    assert find_quantities(text) == ()


def test_both_ends_of_a_range_are_read() -> None:
    assert [(q.value, q.dimension) for q in find_quantities("from 10 to 80 %")] == [(10, "percent"), (80, "percent")]
    assert [q.value for q in find_quantities("They won 3–1.")] == [3, 1]


def test_a_hedge_widens_the_tolerance() -> None:
    (exact,), (hedged,) = find_quantities("5,000 rows"), find_quantities("almost 5,000 rows")
    assert exact.tolerance < 0.01 < hedged.tolerance
