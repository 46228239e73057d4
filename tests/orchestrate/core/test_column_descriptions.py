"""The UI describes columns in the words that users have written in schemas, docstrings and features."""

import pandera.polars as pa
import polars as pl

import mlops_assets as ml
from mlops_assets.orchestrate.core.column_descriptions import describe_columns, parse_attributes
from mlops_assets.orchestrate.core.project import Project
from tests.conftest import metadata


class Order(pa.DataFrameModel):
    """One order.

    Attributes
    ----------
    order : str
        Number on the invoice.
    price, prediction : float
        Euros,
        with tax.

    Notes
    -----
    at : not a column
        Not read.
    """

    order: str
    price: float = pa.Field(ge=0)
    prediction: float
    weight: float = pa.Field(description="Kilograms.")
    shop: str


@ml.dataset(schema=Order, key="order")
def orders() -> pl.DataFrame:
    """Every order.

    Attributes
    ----------
    shop
        Where it was sold.
    """
    return pl.DataFrame({"order": ["a"], "price": [1.0], "prediction": [2.0], "weight": [0.5], "shop": ["north"]})


@ml.feature_view(entity=ml.Entity("shop"), event_timestamp="at", features={"turnover": float})
def sales(orders: pl.DataFrame) -> pl.DataFrame:
    """Sales of a shop.

    Attributes
    ----------
    turnover
        Euros a day.
    """
    return orders


@ml.training_set(
    columns=["weight", "prediction"],
    features=[sales.renamed("shop_")],
    label="price",
    event_timestamp="at",
    split=ml.GroupSplit("order", holdout=0.5),
)
def examples(orders: pl.LazyFrame) -> pl.LazyFrame:
    """Every order."""
    return orders


def test_columns_are_described_by_fields_docstrings_and_features() -> None:
    project = Project.from_items([orders, sales, examples])
    of_orders = {"order": "Number on the invoice.", "price": "Euros, with tax.", "prediction": "Euros, with tax."}
    assert describe_columns(project, "dataset/orders") == of_orders | {"weight": "Kilograms.", "shop": "Where it was sold."}
    assert describe_columns(project, "features/sales") == {"turnover": "Euros a day."}
    described = describe_columns(project, "training_set/examples")
    assert described["shop_turnover"] == "Euros a day."
    assert described["prediction"] == "Euros, with tax."
    assert described["split"] == "The split that contains the row: train, validation or holdout; gap where its label became known too late."
    assert describe_columns(project, "dataset/unknown") == {}


def test_a_docstring_without_the_section_describes_nothing() -> None:
    assert parse_attributes("") == parse_attributes("Rows.\n\nParameters\n----------\nx\n    A number.") == {}


def test_a_materialisation_shows_the_descriptions(run, platform) -> None:
    found = metadata(run(ml.build_definitions([orders], platform=platform))("dataset/orders"), "dataset/orders")["dagster/column_schema"]
    assert [(column.name, column.description) for column in found.columns][3:] == [("weight", "Kilograms."), ("shop", "Where it was sold.")]
