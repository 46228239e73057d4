"""The ML Test Score of a model: computed and declared tests, points by section, and their minimum."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mlops_assets.errors import MlopsError
from mlops_assets.orchestrate.score.data_tests import DATA_TESTS
from mlops_assets.orchestrate.score.infrastructure_tests import INFRASTRUCTURE_TESTS
from mlops_assets.orchestrate.score.model_tests import MODEL_TESTS
from mlops_assets.orchestrate.score.monitoring_tests import MONITORING_TESTS
from mlops_assets.orchestrate.score.score_facts import RubricResult, ScoreFacts
from mlops_assets.values.score.rubric import FULL, SECTIONS, TESTS, RubricTest
from mlops_assets.values.score.score import DeclaredTest, MLTestScore

COMPUTED = {**DATA_TESTS, **MODEL_TESTS, **INFRASTRUCTURE_TESTS, **MONITORING_TESTS}
_LEVELS = (
    (0, "a research project rather than a production system"),
    (1, "not untested, but serious gaps in reliability are possible"),
    (2, "a first step towards production"),
    (3, "reasonably tested; more of the tests can be automated"),
    (5, "strong automated testing and monitoring, fit for critical systems"),
    (7, "exceptional automated testing and monitoring"),
)  # maximum score → the interpretation of Breck et al.


@dataclass(frozen=True)
class ScoreReport:
    """The score of one model.

    Parameters
    ----------
    model
        The name of the model.
    results
        Each test of the rubric with its result, in the order of the rubric.
    """

    model: str
    results: tuple[tuple[RubricTest, RubricResult], ...]

    @property
    def sections(self) -> dict[str, float]:
        """Section → sum of its points, from 0 to 7."""
        return {section: sum(result.points for test, result in self.results if test.section == section) for section in SECTIONS}

    @property
    def score(self) -> float:
        """The minimum of the sections."""
        return min(self.sections.values())

    @property
    def level(self) -> str:
        """What the score means, by the authors of the rubric."""
        return next(text for limit, text in _LEVELS if self.score <= limit)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row for each test: section, test, what it verifies, points, evidence and what to do next."""
        return [
            {
                "section": test.section,
                "test": test.name,
                "verifies that": test.text,
                "points": result.points,
                "evidence": result.evidence,
                "next": result.advice,
            }
            for test, result in self.results
        ]


def score_model(facts: ScoreFacts) -> ScoreReport:
    """Return the score of a model: of a computed and a declared result of one test, the one with more points counts."""
    found = next((score for score in facts.project.select(MLTestScore) if score.model.key == facts.model.key), None)
    declared = {each.test: each for each in found.declared} if found else {}
    return ScoreReport(facts.model.name, tuple(_score_tests(facts, declared)))


def _score_tests(facts: ScoreFacts, declared: dict[str, DeclaredTest]) -> Iterator[tuple[RubricTest, RubricResult]]:
    for test in TESTS.values():
        computed = _compute(facts, test)
        stated = _examine_declaration(facts, declared[test.name]) if test.name in declared else None
        if stated is not None and (stated.points > computed.points or (stated.advice and test.name not in COMPUTED)):
            yield test, stated
        elif stated is not None and stated.points == 0:
            yield test, RubricResult(computed.points, f"{computed.evidence}; {stated.evidence}", computed.advice or stated.advice)
        else:
            yield test, computed


def _compute(facts: ScoreFacts, test: RubricTest) -> RubricResult:
    if test.name not in COMPUTED:
        advice = f"DeclaredTest('{test.name}', how='by hand', where=…) in ml.monitoring.MLTestScore({facts.model.name}, declared=[…])"
        return RubricResult(0, "not declared; the platform cannot compute it", advice)
    try:
        return COMPUTED[test.name](facts)
    except MlopsError as error:  # a damaged store costs the points of its tests, not the report
        return RubricResult(0, f"cannot be examined: {error.message}", error.hint or "mlops doctor")


def _examine_declaration(facts: ScoreFacts, declared: DeclaredTest) -> RubricResult:
    """Return the points of a declared test; none when its file is missing."""
    if not declared.is_address and not any((folder / declared.where).exists() for folder in facts.folders):
        return RubricResult(0, f"declared, but there is no file {declared.where}", f"correct where= of DeclaredTest('{declared.test}')")
    advice = "" if declared.points == FULL else f"automate it, then DeclaredTest('{declared.test}', how='automated', where=…)"
    return RubricResult(declared.points, f"declared: {declared.how}, {declared.where}", advice)
