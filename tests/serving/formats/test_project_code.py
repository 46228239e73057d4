"""A stored model whose transformer was changed since: the refusal says that the project's own code has changed, and where."""

import importlib
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from mlops_assets.errors import ArtifactError
from mlops_assets.serving.formats.packaging import pack, read_manifest, unpack
from mlops_assets.serving.formats.project_code import SOURCES
from mlops_assets.stores.artifacts.store import open_artifacts

RATIOS = '''
from numbers_of_ours import FACTOR, shift
from sklearn.base import BaseEstimator, TransformerMixin


class Ratio(BaseEstimator, TransformerMixin):
    """A ratio."""

    def fit(self, X, y=None):
        self.scale_ = 2.0
        return self

    def transform(self, X):
        return shift(X.to_numpy() * FACTOR / self.scale_)


def double(X):
    return X.to_numpy() * 2
'''
NUMBERS = '''
FACTOR = 3.0


def shift(values):
    """Move."""
    return values + 1
'''
X = pl.DataFrame({"x": np.arange(40.0), "z": np.arange(40.0) % 7})
TRUSTED = ("ratios.Ratio", "ratios.double")


class Code:
    """The project's two modules, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write(RATIOS, NUMBERS)

    def write(self, ratios: str, numbers: str) -> None:
        for name, text in (("ratios", ratios), ("numbers_of_ours", numbers)):
            (self.folder / f"{name}.py").write_text(text)
            sys.modules.pop(name, None)
            (Path(importlib.util.cache_from_source(str(self.folder / f"{name}.py")))).unlink(missing_ok=True)
        importlib.invalidate_caches()

    def store(self, transformer) -> tuple:
        artifacts = open_artifacts(str(self.folder / "artifacts"))
        fitted = make_pipeline(transformer, LinearRegression()).fit(X, X["x"].to_numpy() ** 2)
        return artifacts, pack(artifacts, fitted, X=X, modules=(), trusted_types=TRUSTED, facts={})


@pytest.fixture
def code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Code(tmp_path)
    for name in ("ratios", "numbers_of_ours"):
        sys.modules.pop(name, None)


CHANGES = {
    "a method": (RATIOS.replace("/ self.scale_", "* X.to_numpy() / self.scale_"), NUMBERS),
    "a function that it uses": (RATIOS, NUMBERS.replace("values + 1", "values ** 2")),
    "a constant that it uses": (RATIOS.replace("* FACTOR", "** FACTOR"), NUMBERS),
    "an attribute": (RATIOS.replace("scale_", "size_"), NUMBERS),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_transformer_is_named_with_its_line(code, change) -> None:
    artifacts, stored = code.store(importlib.import_module("ratios").Ratio())
    assert unpack(artifacts, stored, TRUSTED).estimator is not None
    code.write(*CHANGES[change])
    with pytest.raises(ArtifactError) as refused:
        unpack(artifacts, stored, TRUSTED)
    assert "the code of ratios.Ratio, or code that it uses, has changed" in refused.value.message
    assert f"{code.folder / 'ratios.py'}:6)" in refused.value.message
    assert refused.value.hint == "the project's own code has changed since the training: restore it, or train the model again"


def test_a_class_that_is_gone_is_named(code) -> None:
    artifacts, stored = code.store(importlib.import_module("ratios").Ratio())
    code.write(RATIOS.replace("class Ratio", "class Share"), NUMBERS)
    with pytest.raises(ArtifactError, match=r"ratios\.Ratio no longer exists") as refused:
        unpack(artifacts, stored, TRUSTED)
    assert "the project's own code has changed" in refused.value.hint


def test_a_changed_function_of_a_transformer_is_named(code) -> None:
    artifacts, stored = code.store(FunctionTransformer(importlib.import_module("ratios").double))
    code.write(RATIOS.replace("X.to_numpy() * 2", "X.to_numpy() ** 2"), NUMBERS)
    with pytest.raises(ArtifactError, match=r"the code of ratios\.double, .* has changed"):
        unpack(artifacts, stored, TRUSTED)


def test_a_changed_decorator_is_named_with_the_line_of_the_decorated_function(code) -> None:
    ratios = RATIOS.replace("FACTOR, shift", "FACTOR, scaled, shift").replace("def double", "@scaled\ndef double")
    numbers = f"""
from functools import wraps
{NUMBERS}

def scaled(function):
    @wraps(function)
    def call(X):
        return 5 * function(X)
    return call
"""
    code.write(ratios, numbers)
    artifacts, stored = code.store(FunctionTransformer(importlib.import_module("ratios").double))
    code.write(ratios, numbers.replace("5 *", "6 *"))
    with pytest.raises(ArtifactError, match=r"the code of ratios\.double, or code that it uses, has changed") as refused:
        unpack(artifacts, stored, TRUSTED)
    line = ratios.splitlines().index("@scaled") + 1
    assert f"{code.folder / 'ratios.py'}:{line})" in refused.value.message


def test_a_change_that_predicts_the_same_is_no_reason_to_refuse(code) -> None:
    artifacts, stored = code.store(importlib.import_module("ratios").Ratio())
    code.write(RATIOS.replace('"""A ratio."""', '"""Another text."""'), NUMBERS)
    assert unpack(artifacts, stored, TRUSTED).estimator is not None


def test_only_the_projects_own_code_is_recorded(code) -> None:
    artifacts, stored = code.store(importlib.import_module("ratios").Ratio())
    assert list(read_manifest(artifacts, stored)[SOURCES]) == list(TRUSTED)
    artifacts, plain = code.store(FunctionTransformer())
    assert list(read_manifest(artifacts, plain)[SOURCES]) == list(TRUSTED), "trusted types count, whether they are met or not"
