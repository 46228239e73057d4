"""Compare a candidate with production on the same cases, so that a gate passes only on complete evidence.

The interval comes from a paired bootstrap: cases are drawn with replacement, and percentiles of the mean difference give the interval.
Percentiles of n cases are too narrow if n is small. They are widened by the ratio of Student's quantile to the normal one and by
√(n / (n − 1)) (T. Hesterberg, *What Teachers Should Know About the Bootstrap*, 2015). For models of rows,
``compute/training/resampling.py`` uses Student's interval for a mean; the scores of LLM answers are too few and too skewed for it.

A bootstrap of equal differences has width zero, however few the cases are. Only the minimum number of cases protects from that.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from mlops_assets.compute.llm_evaluation.agreement import CONFIDENCE, Rate
from mlops_assets.compute.llm_evaluation.scorers import Score
from mlops_assets.compute.llm_evaluation.verdicts import check_distinct_cases
from mlops_assets.errors import DataError, DefinitionError
from mlops_assets.values.evaluation import GateResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MIN_PAIRS = 20
_DRAWS = 10_000
_CHUNK = 1 << 20  # drawn cases at a time
_MAX_NAMED = 3  # cases that a reason names


@dataclass(frozen=True)
class PairedComparison:
    """The difference between the scores of a candidate and of production on the same cases.

    Parameters
    ----------
    cases : int
        The number of cases of the evaluation set.
    pairs : int
        The number of cases with a valid score on both sides; means and difference are computed on these cases.
    candidate, production : float or None
        The mean scores; None without pairs.
    difference : float or None
        Candidate − production.
    low, high : float or None
        The interval of the difference; None with fewer than two pairs.
    missing : tuple of str
        The cases with neither a score nor an error on one side or on both.
    invalid : tuple of str
        The cases whose score on one side or on both is NaN, no number, or not between 0 and 1.
    candidate_errors, production_errors : Rate
        The share of cases on which scoring failed with a stated error.
    confidence : float
        The confidence of the interval.

    See Also
    --------
    compare_scores : Computes the comparison.
    """

    cases: int
    pairs: int
    candidate: float | None
    production: float | None
    difference: float | None
    low: float | None
    high: float | None
    missing: tuple[str, ...]
    invalid: tuple[str, ...]
    candidate_errors: Rate
    production_errors: Rate
    confidence: float = CONFIDENCE

    def may_replace(self, *, no_worse_by: float, max_error_rate: float = 0.0, min_pairs: int = MIN_PAIRS) -> GateResult:
        """Return whether the candidate is at most ``no_worse_by`` worse than production.

        The lower end of the interval decides. A candidate does not pass if the score of any case is missing or invalid, however good the
        other scores are: the cases without a score are often the hard ones. Errors up to ``max_error_rate`` are allowed; their cases are
        not among the pairs.

        Parameters
        ----------
        no_worse_by : float
            The non-inferiority margin: how far the lower end may be below 0.
        max_error_rate : float
            The maximum share of cases with an error, on each side.
        min_pairs : int
            The minimum number of pairs; at least two are needed in any case.

        Returns
        -------
        GateResult
            Passed when the lower end is not below −``no_worse_by``. Not passed otherwise, and when the evidence is incomplete; the
            reason says which.

        Raises
        ------
        DefinitionError
            ``no_worse_by`` is negative or not finite.

        Examples
        --------
        >>> from mlops_assets.compute.llm_evaluation.comparison import compare_scores
        >>> cases = [f"case {number}" for number in range(40)]
        >>> production = dict.fromkeys(cases, 0.7)
        >>> compare_scores(cases, production | {"case 7": 0.9}, production, seed="v2").may_replace(no_worse_by=0.02).passed
        True
        >>> compare_scores(cases, production | {"case 7": None}, production, seed="v2").may_replace(no_worse_by=0.02).reason
        '1 of 40 cases have no score: case 7'
        """
        if not 0 <= no_worse_by < math.inf:
            raise DefinitionError(f"a comparison allows no_worse_by {no_worse_by}", hint="give a number from 0, such as 0.02")
        reason = self.explain_refusal(max_error_rate, max(min_pairs, 2))
        passed = False
        if not reason and self.low is not None and self.high is not None and self.difference is not None:
            passed = self.low >= -no_worse_by
            interval = f"{self.difference:+.3f} ({100 * self.confidence:g} % CI {self.low:+.3f} to {self.high:+.3f})"
            bound = f"{'not ' if passed else ''}below −{no_worse_by:g}"
            reason = f"the difference from production is {interval} on {self.pairs} cases: its lower end is {bound}"
        return GateResult(passed=passed, reason=reason, value=self.difference, threshold=-no_worse_by, low=self.low, high=self.high)

    def explain_refusal(self, max_error_rate: float, min_pairs: int = 2) -> str:
        """Return why the evidence is not sufficient for a comparison; empty if it is.

        Parameters
        ----------
        max_error_rate, min_pairs
            As in :meth:`may_replace`.
        """
        if self.missing:
            return f"{len(self.missing)} of {self.cases} cases have no score: {_join_first(self.missing)}"
        if self.invalid:
            return f"{len(self.invalid)} of {self.cases} cases have an invalid score: {_join_first(self.invalid)}"
        for side, errors in (("candidate", self.candidate_errors), ("production", self.production_errors)):
            if errors.value is not None and not errors.value <= max_error_rate:
                return f"{errors.count} of {self.cases} cases of the {side} have an error; at most {100 * max_error_rate:g} % may have one"
        if self.pairs < min_pairs:
            return f"{self.pairs} cases have a score on both sides; {min_pairs} are needed"
        return ""


def compare_scores(
    cases: Sequence[str],
    candidate: Mapping[str, Score | float | None],
    production: Mapping[str, Score | float | None],
    *,
    seed: str,
    confidence: float = CONFIDENCE,
) -> PairedComparison:
    """Compare the scores of a candidate with those of production, case by case.

    Parameters
    ----------
    cases : Sequence[str]
        Every case of the evaluation set: a case without a score on either side counts as missing.
    candidate, production : Mapping
        The score of each case, from 0 to 1; a higher score is better. None counts as missing, a ``Score``
        without a value as an error, and any other value as invalid.
    seed : str
        The seed of the draws, such as the candidate's version: the same candidate always has the same interval.
    confidence : float
        The confidence of the interval.

    Returns
    -------
    PairedComparison
        The difference with its interval, and the missing and invalid cases.

    Raises
    ------
    DataError
        A case occurs twice, or a score belongs to no case.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.comparison import compare_scores
    >>> found = compare_scores(["a", "b", "c"], {"a": 1.0, "b": 0.5}, {"a": 0.5, "b": 0.5, "c": 1.0}, seed="v2")
    >>> found.pairs, found.difference, found.missing
    (2, 0.25, ('c',))
    """
    check_distinct_cases(cases)
    unknown = sorted({*candidate, *production} - set(cases))
    if unknown:
        raise DataError(f"there is a score of '{unknown[0]}', no case of the evaluation set", hint="score the cases of this set")
    states = {case: (_read_score(candidate.get(case)), _read_score(production.get(case))) for case in cases}
    pairs = [(one, other) for one, other in states.values() if isinstance(one, float) and isinstance(other, float)]
    scores = np.array(pairs, dtype=float).reshape(-1, 2)
    low, high = bootstrap_mean_interval(scores[:, 0] - scores[:, 1], seed, confidence) if len(pairs) > 1 else (None, None)
    errors = [Rate(sum(state[side] == _ERROR for state in states.values()), len(cases), confidence) for side in (0, 1)]
    return PairedComparison(
        cases=len(cases),
        pairs=len(pairs),
        candidate=float(scores[:, 0].mean()) if pairs else None,
        production=float(scores[:, 1].mean()) if pairs else None,
        difference=float((scores[:, 0] - scores[:, 1]).mean()) if pairs else None,
        low=low,
        high=high,
        missing=tuple(case for case, state in states.items() if _MISSING in state),
        invalid=tuple(case for case, state in states.items() if _INVALID in state),
        candidate_errors=errors[0],
        production_errors=errors[1],
        confidence=confidence,
    )


_MISSING, _ERROR, _INVALID = "missing", "error", "invalid"


def _read_score(score: object) -> float | str:
    """Return the value of a score from 0 to 1; otherwise ``missing``, ``error`` or ``invalid``."""
    if isinstance(score, Score):
        return _ERROR if score.value is None else float(score.value)
    if score is None:
        return _MISSING
    number = isinstance(score, int | float | np.integer | np.floating) and not isinstance(score, bool)
    return float(score) if number and 0 <= score <= 1 else _INVALID  # type: ignore[arg-type,operator]  # a number


def bootstrap_mean_interval(differences: np.ndarray, seed: str, confidence: float) -> tuple[float, float]:
    """Return the widened percentile interval of the mean; see the docstring of the module.

    Parameters
    ----------
    differences : numpy.ndarray
        At least two numbers: differences, or scores.
    seed : str
        The seed of the draws.
    confidence : float
        The confidence of the interval.

    Returns
    -------
    tuple of float
        The lower and the upper end.

    Examples
    --------
    >>> import numpy as np
    >>> from mlops_assets.compute.llm_evaluation.comparison import bootstrap_mean_interval
    >>> low, high = bootstrap_mean_interval(np.array([0.0, 1.0, 1.0, 1.0]), "answers", 0.95)
    >>> low < 0.75 < high
    True
    """
    from scipy import stats  # type: ignore[import-untyped]  # it has no stubs

    count, mean = len(differences), float(differences.mean())
    rng, step = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8])), max(1, _CHUNK // count)
    sizes = [min(step, _DRAWS - begin) for begin in range(0, _DRAWS, step)]
    means = np.concatenate([differences[rng.integers(0, count, size=(size, count))].mean(axis=1) for size in sizes])
    upper = (1 + confidence) / 2
    widening = float(stats.t.ppf(upper, count - 1)) / NormalDist().inv_cdf(upper) * math.sqrt(count / (count - 1))
    low, high = np.quantile(means, [1 - upper, upper]) - mean
    return mean + float(low) * widening, mean + float(high) * widening


def _join_first(cases: Sequence[str]) -> str:
    return ", ".join(cases[:_MAX_NAMED]) + (", …" if len(cases) > _MAX_NAMED else "")
