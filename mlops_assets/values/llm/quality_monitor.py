"""The monitor of the quality of traced answers, its expectations, and what follows a breach."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mlops_assets.errors import DefinitionError, suggest_name
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.gates.rule import OneRule
from mlops_assets.values.llm.judge import Judge
from mlops_assets.values.llm.prompt_service import PromptService
from mlops_assets.values.names import validate_name
from mlops_assets.values.options import AssetArguments, AssetOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_assets.values.llm.prompt import Prompt
    from mlops_assets.values.llm.trace_source import TraceSource

ALERT, ROLLBACK = "alert", "rollback"
GROUNDEDNESS, HALLUCINATION_RATE, LANGUAGE_RATE, INPUT_DRIFT = "groundedness", "hallucination_rate", "language_rate", "input_drift"
REFUSAL_RATE, OUTPUT_WORDS, ERROR_RATE, FEEDBACK = "refusal_rate", "output_words", "error_rate", "feedback"
COST, LATENCY = "cost", "latency_p95"
QUALITY_MEASURES = {
    GROUNDEDNESS: "Mean support of the answers by their context, from 0 to 1.",
    HALLUCINATION_RATE: "Share of answers whose weakest sentence the context does not support.",
    REFUSAL_RATE: "Share of answers that say that the context does not hold the answer.",
    OUTPUT_WORDS: "Mean number of words of an answer.",
    LANGUAGE_RATE: "Share of answers in the declared language, of those whose language can be recognised.",
    ERROR_RATE: "Share of requests that the model failed to answer; those that the service refused do not count.",
    FEEDBACK: "Mean score that users gave, from 0 to 1.",
    COST: "Mean cost of an answer in US dollars, over the known costs; at most 5 % may be unknown.",
    LATENCY: "95th percentile of the seconds until the answer; a failed call counts as slower than all others.",
    INPUT_DRIFT: "How far the sentence vectors of the inputs are from those of the seven days before, from 0 to 1.",
}
BETTER_WHEN_HIGH, BETTER_WHEN_LOW = (GROUNDEDNESS, LANGUAGE_RATE, FEEDBACK), (HALLUCINATION_RATE, REFUSAL_RATE, ERROR_RATE, COST)
BEFORE = "no_worse_than_before_by"
LANGUAGES = ("de", "en", "es", "fr", "it", "nl", "pt")


@check_constructor
@dataclass(frozen=True)
class QualityExpectation(OneRule):
    """The expectation that one measure of a window's answers meets a bound, or is not worse than that of the previous version.

    A window is a breach only if the whole confidence interval of the measure lies beyond the bound, so that chance alone rarely raises
    an alarm. At the default confidence, if the true value equals the bound, at most 0.5 % of the windows raise an alarm, for a mean about
    0.5 %. If the true value is better than the bound, alarms are rarer. Choose a bound close to the score of the evaluation: a change that
    stays within the bound is not found.

    ``no_worse_than_before_by`` needs no bound: it compares with the answers of the previous production version, in the window and the seven
    days before it. It finds a release that makes only some answers worse. The result is ``not enough data`` for a first version, and for a
    version whose predecessor has too few answers in these days.

    Parameters
    ----------
    measure
        ``groundedness``, ``hallucination_rate``, ``refusal_rate``, ``output_words``, ``language_rate``, ``error_rate``, ``feedback``,
        ``cost``, ``latency_p95`` or ``input_drift``; or the name of a judge of the monitor, for its mean score.
    at_least, at_most
        The bound.
    no_worse_than_before_by
        How much worse than before the measure may be, in the unit of the measure. Exactly one of the three rules is given. This rule is
        available for ``groundedness``, ``feedback``, ``language_rate``, ``hallucination_rate``, ``refusal_rate``, ``error_rate`` and
        ``cost``. It is broken if the whole interval of the difference lies beyond it.
    min_answers
        The minimum number of measured answers, of each version; a window with fewer is not evaluated.
    confidence
        The confidence level of the interval.

    Raises
    ------
    DefinitionError
        Not exactly one rule is given, a number is out of range, or a measure cannot be compared with the previous version.

    See Also
    --------
    QualityMonitor : Takes expectations.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.llm.QualityExpectation("groundedness", at_least=0.6).name
    'groundedness_at_least'
    """

    RULES: ClassVar = ("at_least", "at_most", BEFORE)

    measure: str
    at_least: float | None = None
    at_most: float | None = None
    no_worse_than_before_by: float | None = None
    min_answers: int = 30
    confidence: float = 0.99

    def __post_init__(self) -> None:
        """Refuse bounds and limits out of range."""
        what = f"QualityExpectation('{self.measure}')"
        self._check_rule(what)
        if self.min_answers < 2 or not 0 < self.confidence < 1:
            raise DefinitionError(
                f"{what}: min_answers={self.min_answers} or confidence={self.confidence} is invalid",
                hint="give at least two answers, and a confidence between 0 and 1",
            )
        if self.rule == BEFORE and (self.measure not in (*BETTER_WHEN_HIGH, *BETTER_WHEN_LOW) or self.threshold < 0):
            raise DefinitionError(
                f"{what} cannot have {BEFORE}={self.threshold:g}",
                hint=f"give a margin from 0, and one of {', '.join((*BETTER_WHEN_HIGH, *BETTER_WHEN_LOW))}",
            )
        if self.measure == INPUT_DRIFT and self.at_most is None:
            raise DefinitionError(f"{what} takes no minimum", hint="give at_most=, e.g. 0.05")

    @property
    def name(self) -> str:
        """Measure and rule: the name of the asset check."""
        return f"{self.measure}_{self.rule}"


@check_constructor
@dataclass(frozen=True, init=False)
class QualityMonitor:
    """Reports on the quality of traced answers: for each day, and within it for each version of the prompt.

    Measures are computed from the table of the traces. Rows of two versions are never mixed. Calls that a service refused do not count:
    they show nothing about a version. A call of a service is one answer, with the cost of all its requests to models. Groundedness,
    refusals, words, language and input drift need traces with content; without it, such an expectation cannot be measured, and its check
    does not pass.

    Parameters
    ----------
    name
        Names the asset ``quality_report/<name>_quality`` and the lake table ``quality_report/<name>``.
    of
        The service, or the source of the traces.
    prompt
        The prompt whose answers are measured; that of the service by default. Without a prompt, the root of each trace is measured.
    expectations
        The expectations; each is an asset check, which only warns.
    context
        The variables of the prompt with the text that must support the answers; needed for groundedness and hallucinations.
    language
        The code of the language that answers should have: de, en, es, fr, it, nl or pt. Recognised by frequent words.
    on_breach
        ``alert`` records a decision about the version. ``rollback`` also promotes the previous production version again, if
        the version with the breach is in production. Each version is rolled back at most once for a day, and only for a day that ends after
        the version was promoted and within the last seven days; the decision on any other day says why nothing is rolled back. Input drift
        never causes a rollback.
    max_scored
        The maximum number of answers of a version and a day whose content is measured; the trace ids alone decide the sample.
    judges
        Judges of a sample of the answers; the mean score of each is a measure with its name, and ``<name>_failure_rate`` is the share
        without a verdict. They read variables of the prompt: an answer whose trace does not hold them is not judged. A judge without a
        :class:`Calibration` that passes reports scores, but its expectation cannot be measured. The same holds if more than 5 % of the
        answers have no verdict.
    judged_answers
        The maximum number of answers of a version and a day that each judge judges; the trace ids alone decide the sample.
        Verdicts are stored: a repeated report does not call the judge again.
    **options
        Passed to Dagster, as in :func:`mlops_assets.dataset`.

    Raises
    ------
    DefinitionError
        A measure is unknown, two expectations have one name, an expectation lacks ``context`` or ``language``, or a rollback has no prompt
        or no expectation; or a judge has the name of a measure, or reads a column that is not a variable of the prompt.

    See Also
    --------
    QualityExpectation : An expectation on one measure.
    PromptService : Writes traces.
    TraceSource : Traces of another application.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> @ml.llm.prompt(model=ml.llm.LLM("smollm2", base_url="http://127.0.0.1:8080/v1"))
    ... def delay_answer(question: str, facts: str) -> None:
    ...     '''Answer the question from the facts alone.'''
    >>> watch = ml.llm.QualityMonitor(
    ...     "delay_quality",
    ...     of=ml.llm.PromptService("delay_api", prompt=delay_answer, capture=True),
    ...     expectations=[ml.llm.QualityExpectation("groundedness", at_least=0.6)],
    ...     context="facts",
    ...     on_breach="rollback",
    ... )
    >>> watch.key
    'quality_report/delay_quality'
    """

    name: str
    of: PromptService | TraceSource
    prompt: Prompt[..., Any] | None
    expectations: tuple[QualityExpectation, ...]
    context: tuple[str, ...]
    language: str | None
    on_breach: Literal["alert", "rollback"]
    max_scored: int
    judges: tuple[Judge, ...]
    judged_answers: int
    options: AssetOptions = field(default=AssetOptions(), compare=False)

    def __init__(  # noqa: PLR0913  (a flat declaration reads best)
        self,
        name: str,
        *,
        of: PromptService | TraceSource,
        prompt: Prompt[..., Any] | None = None,
        expectations: QualityExpectation | Sequence[QualityExpectation] = (),
        context: str | Sequence[str] = (),
        language: str | None = None,
        on_breach: Literal["alert", "rollback"] = "alert",
        max_scored: int = 500,
        judges: Sequence[Judge] = (),
        judged_answers: int = 50,
        **options: object,
    ) -> None:
        values = {
            "name": validate_name(name, "a monitor"),
            "of": of,
            "prompt": of.prompt if prompt is None and isinstance(of, PromptService) else prompt,
            "expectations": (expectations,) if isinstance(expectations, QualityExpectation) else tuple(expectations),
            "context": (context,) if isinstance(context, str) else tuple(context),
            "language": language,
            "on_breach": on_breach,
            "max_scored": max_scored,
            "judges": tuple(judges),
            "judged_answers": judged_answers,
            "options": AssetOptions.from_arguments(AssetArguments(**options)),  # type: ignore[typeddict-item]
        }
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)
        self._check()

    @property
    def key(self) -> str:
        """``quality_report/<name>``: the table of the measures."""
        return f"quality_report/{self.name}"

    @property
    def traces_key(self) -> str:
        """``traces/<name>`` of the service or source."""
        return f"traces/{self.of.name}"

    def _check(self) -> None:
        where, names = f"the monitor '{self.name}'", [expectation.name for expectation in self.expectations]
        if duplicated := [name for name in names if names.count(name) > 1]:
            raise DefinitionError(f"{where} expects '{duplicated[0]}' twice", hint="give each measure and rule once")
        measures = {expectation.measure for expectation in self.expectations}
        self._check_measures(where, measures)
        if measures & {GROUNDEDNESS, HALLUCINATION_RATE} and not self.context:
            raise DefinitionError(f"{where} expects groundedness, but context= is not set", hint="name the variables as context=")
        if LANGUAGE_RATE in measures and self.language is None:
            raise DefinitionError(f"{where} expects the language rate, but language= is not set", hint="give language=, e.g. 'en'")
        if self.language is not None and self.language not in LANGUAGES:
            raise DefinitionError(f"{where}: language='{self.language}' is invalid", hint=f"give one of {', '.join(LANGUAGES)}")
        if self.prompt is not None and (missing := set(self.context) - {variable.name for variable in self.prompt.variables}):
            raise DefinitionError(
                f"{where} has the context '{min(missing)}', which is not a variable of '{self.prompt.key}'",
                hint=f"its variables are {', '.join(variable.name for variable in self.prompt.variables)}",
            )
        if self.prompt is None and any(expectation.rule == BEFORE for expectation in self.expectations):
            raise DefinitionError(f"{where} compares versions, but prompt= is not set", hint="give prompt=")
        if self.on_breach == ROLLBACK and (self.prompt is None or not measures - {INPUT_DRIFT}):
            raise DefinitionError(
                f"{where} rolls back, but prompt= is not set or no expectation is about answers", hint="give prompt= and expectations="
            )
        for name, count in (("max_scored", self.max_scored), ("judged_answers", self.judged_answers)):
            if count < 1:
                raise DefinitionError(f"{where}: {name}={count} is invalid", hint="give 1 or more")

    def _check_measures(self, where: str, measures: set[str]) -> None:
        """Refuse an unknown measure, a judge with the name of another measure, and a judge that reads what the prompt lacks."""
        known = [*QUALITY_MEASURES]
        for judge in self.judges:
            if not isinstance(judge, Judge):
                raise DefinitionError(f"{where} was given {judge!r} as a judge", hint="give ml.llm.Judge")
            if judge.name in known:
                raise DefinitionError(f"{where} has two measures named '{judge.name}'", hint="give the judge another name")
            known.append(judge.name)
            variables = [] if self.prompt is None else [variable.name for variable in self.prompt.variables]
            if self.prompt is not None and (missing := set(judge.columns) - set(variables)):
                raise DefinitionError(
                    f"{where} has the judge '{judge.name}', which reads '{min(missing)}': not a variable of '{self.prompt.key}'",
                    hint=f"its variables are {', '.join(variables)}",
                )
        if unknown := sorted(measures - set(known)):
            raise DefinitionError(
                f"{where} expects '{unknown[0]}', an unknown measure",
                hint=suggest_name(unknown[0], known) + f"measures are {', '.join(known)}",
            )
