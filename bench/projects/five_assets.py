"""Five plain Dagster assets: what ``mlops run`` and ``dagster asset materialize`` both take."""

import dagster as dg


@dg.asset
def first() -> int:
    """One."""
    return 1


@dg.asset
def second(first: int) -> int:
    """One more."""
    return first + 1


@dg.asset
def third(second: int) -> int:
    """One more."""
    return second + 1


@dg.asset
def fourth(third: int) -> int:
    """One more."""
    return third + 1


@dg.asset
def fifth(fourth: int) -> int:
    """One more."""
    return fourth + 1


FIVE = [first, second, third, fourth, fifth]
