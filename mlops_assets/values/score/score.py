"""The declared ML Test Score of a model: tests that are run outside of the platform, and where their results are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import DefinitionError, suggest_name
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.model import Model
from mlops_assets.values.options import AssetArguments, AssetOptions
from mlops_assets.values.score.rubric import FULL, HALF, TESTS

if TYPE_CHECKING:
    from collections.abc import Sequence

BY_HAND, AUTOMATED = "by hand", "automated"
_POINTS = {BY_HAND: HALF, AUTOMATED: FULL}


@check_constructor
@dataclass(frozen=True)
class DeclaredTest:
    """A test of the ML Test Score that is run outside of the platform.

    Parameters
    ----------
    test
        The name of the test, as ``mlops doctor --score`` prints it.
    how
        ``"by hand"`` for half a point, or ``"automated"`` for a full point.
    where
        The address or the file with the results or the code of the test. A relative path is looked for in the folder of the model's file,
        then in the working directory. The score gives no point for a missing file.

    Raises
    ------
    DefinitionError
        There is no such test, ``how`` is another text, or ``where`` is empty.

    See Also
    --------
    MLTestScore : Takes ``declared=``.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> tested = ml.monitoring.DeclaredTest("feature_tests", how="automated", where="https://ci.example.com/feature_tests")
    >>> tested.points
    1.0
    """

    test: str
    how: str
    where: str

    def __post_init__(self) -> None:
        """Refuse an unknown test, an unknown ``how`` and an empty ``where``."""
        if self.test not in TESTS:
            raise DefinitionError(
                f"the ML Test Score has no test '{self.test}'", hint=suggest_name(self.test, TESTS) + f"there are {', '.join(TESTS)}"
            )
        if self.how not in _POINTS:
            raise DefinitionError(
                f"DeclaredTest('{self.test}'): how={self.how!r} is invalid",
                hint=suggest_name(self.how, _POINTS) + "give 'by hand' or 'automated'",
            )
        if not self.where.strip():
            raise DefinitionError(
                f"DeclaredTest('{self.test}') does not say where the test is", hint="give where=, an address or a file with its results"
            )

    @property
    def points(self) -> float:
        """Half a point for a test by hand, a full point for an automated one; whether a file exists is not checked here."""
        return _POINTS[self.how]

    @property
    def is_address(self) -> bool:
        """Whether ``where`` is an address and not a file."""
        return "://" in self.where


@check_constructor
@dataclass(frozen=True, init=False)
class MLTestScore:
    """The ML Test Score of a model as an asset, ``score/<model>_score``, with tests that are run outside of the platform.

    Parameters
    ----------
    model
        The model.
    declared
        Tests that the platform cannot compute, or that are also run elsewhere.
    **options
        Passed to Dagster, as in :func:`mlops_assets.dataset`.

    Raises
    ------
    DefinitionError
        A test is declared twice.

    See Also
    --------
    DeclaredTest : A test that is run outside of the platform.

    Examples
    --------
    >>> import polars as pl
    >>> from sklearn.linear_model import LogisticRegression
    >>> import mlops_assets as ml
    >>> @ml.training_set(label="bought", columns=["minutes"], features=[], split=ml.GroupSplit("shop"))
    ... def examples(visits: pl.LazyFrame) -> pl.LazyFrame: ...
    >>> @ml.model(training_set=examples, metrics=["roc_auc"])
    ... def buyer(train: ml.Split) -> LogisticRegression: ...
    >>> reviewed = ml.monitoring.DeclaredTest("data_privacy", how="by hand", where="https://wiki.example.com/privacy")
    >>> ml.monitoring.MLTestScore(buyer, declared=[reviewed]).key
    'score/buyer'
    """

    model: Model[..., Any]
    declared: tuple[DeclaredTest, ...]
    options: AssetOptions = field(default=AssetOptions(), compare=False)

    def __init__(self, model: Model[..., Any], *, declared: DeclaredTest | Sequence[DeclaredTest] = (), **options: object) -> None:
        if not isinstance(model, Model):
            raise DefinitionError(f"MLTestScore is declared for a {type(model).__name__}", hint="pass a function with @ml.model")
        values = {
            "model": model,
            "declared": (declared,) if isinstance(declared, DeclaredTest) else tuple(declared),
            "options": AssetOptions.from_arguments(AssetArguments(**options)),  # type: ignore[typeddict-item]
        }
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)
        self._check()

    def _check(self) -> None:
        if unexpected := [each for each in self.declared if not isinstance(each, DeclaredTest)]:
            raise DefinitionError(f"MLTestScore of '{self.model.name}' declares {unexpected[0]!r}", hint="give monitoring.DeclaredTest(…)")
        tests = [each.test for each in self.declared]
        if repeated := [test for test in tests if tests.count(test) > 1]:
            raise DefinitionError(f"MLTestScore of '{self.model.name}' declares '{repeated[0]}' twice", hint="declare each test once")

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.model.name

    @property
    def key(self) -> str:
        """``score/<model>``: the declared key; the asset's name ends in ``_score``."""
        return f"score/{self.name}"
