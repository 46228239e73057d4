"""On-demand features: refused when the project is built, or on the first real rows, where batch and request would differ."""

from typing import Annotated

import dagster as dg
import pandera.polars as pa
import polars as pl
import pytest

import mlops_assets as ml
from tests.projects import unfair_features

Utc = Annotated[pl.Datetime, "us", "UTC"]


class Payment(pa.DataFrameModel):
    """What a payment declares."""

    id: int
    at: Utc
    name: str = pa.Field(nullable=True)
    amount: float = pa.Field(nullable=True)
    bought: bool


def project(function, platform, *, schema: type | None) -> dg.Definitions:
    @ml.dataset(schema=schema, key="id")
    def payments() -> pl.DataFrame:
        times = pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 3), "1h", eager=True, time_unit="us", time_zone="UTC")[:40]
        return pl.DataFrame(
            {
                "id": range(40),
                "at": times,
                "name": ["x", None, "éa", "0007"] * 10,
                "amount": [None if i % 7 == 3 else float(i * i % 11) for i in range(40)],
                "bought": [i % 3 == 0 for i in range(40)],
            }
        )

    @ml.training_set(features=[function], columns=["amount"], label="bought", split=ml.GroupSplit("id"))
    def examples(payments: pl.DataFrame) -> pl.DataFrame:
        return payments

    return ml.build_definitions([payments, function, examples], platform=platform)


UNFAIR = {
    "centred": r"'centred' of row 0 is .* among 32 rows, and 0.0 alone",
    "ranked": r"'rank' of row \d+ is \d+ among 32 rows, and 0 alone",
    "drawn": r"'drawn' of row 0 is .* among 32 rows, and .* alone",
    "lonely": r"computes 32 rows together, but fails for one row alone \(IndexError",
}


@pytest.mark.parametrize("name", UNFAIR)
def test_refused_when_the_project_is_built(name, platform) -> None:
    with pytest.raises(
        ml.DefinitionError, match=f"'{name}' of 'training_set/examples' are not the same in training and in serving"
    ) as error:
        project(getattr(unfair_features, name), platform, schema=Payment)
    import re

    assert re.search(UNFAIR[name], error.value.message)


@pytest.mark.parametrize("name", UNFAIR)
def test_without_declared_types_refused_on_the_first_real_rows(name, platform, run) -> None:
    runner = run(project(getattr(unfair_features, name), platform, schema=None))
    runner("dataset/payments")
    assert f"'{name}' of 'training_set/examples' are not the same in training and in serving" in runner.error("training_set/examples")


@pytest.mark.parametrize("schema", [Payment, None])
def test_what_is_fair_passes_both_ways(platform, run, schema) -> None:
    runner = run(project(unfair_features.fair, platform, schema=schema))
    runner("dataset/payments", "training_set/examples")
