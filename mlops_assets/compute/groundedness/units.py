"""Units, number words and months, each with its value in a base unit."""

from __future__ import annotations

CLOCK, DATE, MONEY, PERCENT, TIME = "clock", "date", "money", "percent", "time"

_UNITS: dict[str, dict[str, float]] = {
    # dimension: {spellings: factor to the base unit}
    TIME: {
        "s sec secs second seconds": 1 / 60,
        "min mins minute minutes": 1,
        "h hr hrs hour hours": 60,
        "day days": 1440,
        "week weeks": 10_080,
        "month months": 43_800,
        "year years": 525_600,
        "semester semesters": 262_800,
        "decade decades": 5_256_000,
        "ms millisecond milliseconds": 1 / 60_000,
    },
    "length": {
        "mm millimetre millimetres millimeter millimeters": 0.001,
        "cm centimetre centimetres centimeter centimeters": 0.01,
        "m metre metres meter meters": 1,
        "km kilometre kilometres kilometer kilometers": 1000,
        "ft foot feet": 0.3048,
        "inch inches": 0.0254,
        "mile miles mi": 1609.344,
    },
    "area": {
        "m² sqm": 1,
        "km²": 1e6,
        "ha hectare hectares": 1e4,
        "acre acres": 4046.86,
    },
    "speed": {"km/h kmh kph": 1, "mph": 1.609344, "knot knots": 1.852, "m/s": 3.6},
    "mass": {
        "µg mcg microgram micrograms": 1e-6,
        "mg milligram milligrams": 1e-3,
        "g gram grams": 1,
        "kg kilo kilos kilogram kilograms": 1e3,
        "t tonne tonnes ton tons": 1e6,
        "lb lbs": 453.592,
        "oz ounce ounces": 28.3495,
    },
    "volume": {
        "ml millilitre millilitres milliliter milliliters": 1e-3,
        "cl centilitre centilitres": 1e-2,
        "l litre litres liter liters": 1,
        "gallon gallons": 3.78541,
    },
    "power": {"w watt watts": 1, "kw kilowatt kilowatts": 1e3, "mw megawatt megawatts": 1e6, "gw gigawatt gigawatts": 1e9},
    "energy": {"wh": 1, "kwh": 1e3, "mwh": 1e6, "gwh": 1e9},
    "data": {
        "kb kilobyte kilobytes": 1e3,
        "mb megabyte megabytes": 1e6,
        "gb gigabyte gigabytes": 1e9,
        "tb terabyte terabytes": 1e12,
    },
    "celsius": {"°c celsius": 1},
    "fahrenheit": {"°f fahrenheit": 1},
    PERCENT: {"% percent percentage pct": 1},
    MONEY: {"cent cents": 0.01},
    "money:usd": {"$ usd dollar dollars": 1},
    "money:eur": {"€ eur euro euros": 1},
    "money:gbp": {"£ gbp pound pounds": 1},
    "money:chf": {"chf franc francs": 1},
    "money:jpy": {"¥ jpy yen": 1},
}
UNITS = {
    spelling: (dimension, float(factor))
    for dimension, units in _UNITS.items()
    for spellings, factor in units.items()
    for spelling in spellings.split()
}
ROUGH_UNITS = {"month", "months", "year", "years", "semester", "semesters"}  # their length varies

_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
SMALL_NUMBERS = {word: float(value) for value, word in enumerate(_ONES.split())} | {
    word: 10.0 * (value + 2) for value, word in enumerate(_TENS.split())
}
MULTIPLIERS = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "millions": 1e6, "billion": 1e9, "trillion": 1e12, "dozen": 12.0}
COUNTS = {"once": 1.0, "twice": 2.0, "thrice": 3.0}
FRACTIONS = {
    word + ending: 1 / value
    for word, value in {"third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10}.items()
    for ending in ("", "s")
} | {"half": 0.5}

_MONTH_NAMES = ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"]
MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES, start=1)} | {
    name[:3]: number for number, name in enumerate(_MONTH_NAMES, start=1)
}
