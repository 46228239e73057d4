"""Declared tests of the score are refused unless they say which test, how and where."""

import pytest

import mlops_assets as ml
from mlops_assets.errors import DefinitionError
from tests.projects import shop


def test_an_unknown_test_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(DefinitionError, match="has no test 'feature_shema'") as caught:
        ml.monitoring.DeclaredTest("feature_shema", how="by hand", where="a.md")
    assert "did you mean 'feature_schema'?" in caught.value.hint


@pytest.mark.parametrize(("how", "where", "message"), [("manually", "a.md", "how='manually'"), ("by hand", " ", "does not say where")])
def test_how_and_where_are_required(how, where, message) -> None:
    with pytest.raises(DefinitionError, match=message):
        ml.monitoring.DeclaredTest("rollback", how=how, where=where)


def test_a_test_is_declared_once() -> None:
    declared = ml.monitoring.DeclaredTest("rollback", how="by hand", where="a.md")
    assert ml.monitoring.MLTestScore(shop.buyer, declared=declared).declared == (declared,)
    with pytest.raises(DefinitionError, match="declares 'rollback' twice"):
        ml.monitoring.MLTestScore(shop.buyer, declared=[declared, declared])


def test_a_score_is_that_of_a_model() -> None:
    with pytest.raises(DefinitionError):
        ml.monitoring.MLTestScore(shop.shop_api)
