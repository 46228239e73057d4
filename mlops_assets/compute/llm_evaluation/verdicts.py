"""Read the verdict of an LLM judge from its reply: one verdict of an enumerated list, or a failure.

A reply that names no verdict, or names several, has failed. A failure is a verdict of its own: it has no score and no default, and
every count of verdicts includes it. The parser never searches free text for a verdict, because a judge that reasons
aloud mentions verdicts that it rejects.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_assets.errors import DataError
from mlops_assets.values.llm.judge import ERROR, FAILURES, TIMEOUT, UNPARSABLE, check_verdicts, fold_verdict
from mlops_assets.values.llm.pairwise_judge import FIRST, INCONSISTENT, SECOND, TIE

if TYPE_CHECKING:
    from collections.abc import Sequence

_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*)\n[ \t]*```", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class JudgeVerdict:
    """The verdict of a judge's reply, or the failure to give one.

    Parameters
    ----------
    value : str
        An allowed verdict as it is declared, or one of ``FAILURES``.
    reason : str
        Why there is no verdict; empty when there is one.

    See Also
    --------
    parse_verdict : Reads a verdict from a reply.
    classify_error : Converts an exception to a failure.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.verdicts import JudgeVerdict
    >>> JudgeVerdict("supported").failed
    False
    """

    value: str
    reason: str = ""

    @property
    def failed(self) -> bool:
        """Whether the judge gave no verdict."""
        return self.value in FAILURES


def parse_verdict(reply: str | None, allowed: Sequence[str], *, field: str = "verdict") -> JudgeVerdict:
    r"""Return the only verdict of a reply, or a failure.

    A reply is a JSON object with the field, alone or in one Markdown fence, or text with one line ``verdict: X``. The name of the field
    and of the verdict may differ in case. A reply that mentions the field twice is ambiguous, even with equal values: a judge that
    repeats its instructions has not judged.

    Parameters
    ----------
    reply : str or None
        The judge's reply.
    allowed : Sequence[str]
        The verdicts that a judge may give.
    field : str
        The name of the JSON field or the start of the line.

    Returns
    -------
    JudgeVerdict
        An allowed verdict, or ``unparsable`` with the reason.

    Raises
    ------
    DefinitionError
        The allowed verdicts are ambiguous themselves; see :func:`check_verdicts`.

    See Also
    --------
    classify_error : For a call without a reply.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.verdicts import parse_verdict
    >>> allowed = ("supported", "unsupported")
    >>> parse_verdict('{"reason": "the context says 20 %", "verdict": "Supported"}', allowed).value
    'supported'
    >>> parse_verdict("The numbers agree.\nVerdict: supported", allowed).value
    'supported'
    >>> parse_verdict("It is not unsupported, so it is supported.", allowed)
    JudgeVerdict(value='unparsable', reason="the reply has no line 'verdict: …'")
    """
    verdicts = {fold_verdict(verdict): verdict for verdict in check_verdicts(allowed)}
    text = (reply or "").strip()
    if not text:
        return JudgeVerdict(UNPARSABLE, "the reply is empty")
    fenced = _FENCE.fullmatch(text)
    text = fenced[1].strip() if fenced else text
    answer = _read_json(text, field) if text.startswith(("{", "[")) else _read_line(text, field)
    if isinstance(answer, JudgeVerdict):
        return answer
    if (known := verdicts.get(fold_verdict(answer))) is None:
        return JudgeVerdict(UNPARSABLE, f"the verdict is none of {', '.join(verdicts.values())}")
    return JudgeVerdict(known)


def classify_error(error: BaseException) -> JudgeVerdict:
    """Return the failure verdict of a call that raised an exception.

    Parameters
    ----------
    error : BaseException
        The exception. The verdict is ``timeout`` when its class or a base class has ``Timeout`` in its name, as in Python and in httpx, or
        when it is a ProviderError of the kind ``timeout``.

    Returns
    -------
    JudgeVerdict
        ``timeout`` or ``error``, with the exception as its reason.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.verdicts import classify_error
    >>> classify_error(TimeoutError("no byte in 5 s"))
    JudgeVerdict(value='timeout', reason='TimeoutError: no byte in 5 s')
    """
    timed_out = getattr(error, "kind", "") == "timeout" or any("timeout" in cls.__name__.lower() for cls in type(error).__mro__)
    return JudgeVerdict(TIMEOUT if timed_out else ERROR, f"{type(error).__name__}: {error}")


def combine_verdicts(verdicts: Sequence[JudgeVerdict]) -> JudgeVerdict:
    """Return the verdict of a case with several repeats.

    Parameters
    ----------
    verdicts : Sequence[JudgeVerdict]
        The verdict of each repeat, at least one.

    Returns
    -------
    JudgeVerdict
        The first failure. Without a failure, the most frequent verdict; the earliest of equally frequent ones.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.verdicts import JudgeVerdict, combine_verdicts
    >>> yes, no, late = JudgeVerdict("yes"), JudgeVerdict("no"), JudgeVerdict("timeout", "no byte in 5 s")
    >>> combine_verdicts([no, yes, yes]).value, combine_verdicts([no, yes]).value, combine_verdicts([yes, yes, late]).value
    ('yes', 'no', 'timeout')
    """
    failed = next((verdict for verdict in verdicts if verdict.failed), None)
    return failed or Counter(verdicts).most_common(1)[0][0]


def combine_orders(original: JudgeVerdict, swapped: JudgeVerdict) -> JudgeVerdict:
    """Return the verdict on two answers that were shown in both orders, by their position in the original order.

    Parameters
    ----------
    original, swapped : JudgeVerdict
        The verdict in each order: ``first``, ``second``, ``tie`` or a failure.

    Returns
    -------
    JudgeVerdict
        The first failure. Without a failure, ``first``, ``second`` or ``tie`` when both orders agree, and ``inconsistent`` otherwise.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.verdicts import JudgeVerdict, combine_orders
    >>> first, second = JudgeVerdict("first"), JudgeVerdict("second")
    >>> combine_orders(first, second).value, combine_orders(first, first).value
    ('first', 'inconsistent')
    """
    if original.failed or swapped.failed:
        return original if original.failed else swapped
    return original if match_orders(original.value, swapped.value) else JudgeVerdict(INCONSISTENT)


def match_orders(original: str, swapped: str) -> bool:
    """Return whether the same answer wins in both orders, or both are ties; False for a failure.

    Parameters
    ----------
    original, swapped : str
        The verdict in each order, by position.

    Returns
    -------
    bool
        Whether the order does not matter.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.verdicts import match_orders
    >>> match_orders("first", "second"), match_orders("first", "first")
    (True, False)
    """
    return (original, swapped) in {(FIRST, SECOND), (SECOND, FIRST), (TIE, TIE)}


def check_distinct_cases(names: Sequence[str]) -> None:
    """Raise DataError for a case that occurs twice.

    Parameters
    ----------
    names : Sequence[str]
        The identifiers of the cases.

    Raises
    ------
    DataError
        A case occurs more than once.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.verdicts import check_distinct_cases
    >>> check_distinct_cases(["delay-7", "delay-8"])
    """
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise DataError(f"the case '{repeated[0]}' occurs more than once", hint="give each case once, with all its verdicts")


def check_known(case: str, verdict: str, known: tuple[str, ...]) -> None:
    """Raise DataError for a verdict that is not among the known ones.

    Parameters
    ----------
    case : str
        The identifier of the case, for error messages.
    verdict : str
        The verdict.
    known : tuple of str
        The verdicts that are possible here.

    Raises
    ------
    DataError
        The verdict is none of ``known``.

    Examples
    --------
    >>> from mlops_assets.compute.llm_evaluation.verdicts import check_known
    >>> check_known("delay-7", "timeout", ("supported", "unsupported", "timeout"))
    """
    if verdict not in known:
        raise DataError(f"the case '{case}' has the verdict '{verdict}'", hint=f"it must be one of {', '.join(known)}")


def _read_json(text: str, field: str) -> str | JudgeVerdict:
    """Return the text of a JSON object's field; a failure if the field is missing or occurs twice at any depth."""
    mentions: list[object] = []

    def collect(pairs: list[tuple[str, object]]) -> list[object]:
        values = [value for name, value in pairs if fold_verdict(name) == fold_verdict(field)]
        mentions.extend(values)
        return values

    try:
        top = json.loads(text, object_pairs_hook=collect)
    except (ValueError, RecursionError):
        return JudgeVerdict(UNPARSABLE, "the reply starts like JSON and is not valid JSON")
    if text.startswith("[") or not top:
        return JudgeVerdict(UNPARSABLE, f"the reply is no JSON object with the field '{field}'")
    if len(mentions) > 1:
        return JudgeVerdict(UNPARSABLE, f"the reply has the field '{field}' {len(mentions)} times")
    if not isinstance(top[0], str):
        return JudgeVerdict(UNPARSABLE, f"the field '{field}' is not text")
    return top[0]


def _read_line(text: str, field: str) -> str | JudgeVerdict:
    """Return the text after ``field:`` in the only line that starts with it; a failure if there is no such line or another mention."""
    lines = re.findall(rf"^[ \t]*{re.escape(field)}[ \t]*:(.*)$", text, re.IGNORECASE | re.MULTILINE)
    if not lines:
        return JudgeVerdict(UNPARSABLE, f"the reply has no line '{field}: …'")
    mentions = len(re.findall(rf"(?<!\w){re.escape(field)}[\"'*\s]*:", text, re.IGNORECASE))
    if mentions > 1:
        return JudgeVerdict(UNPARSABLE, f"the reply has '{field}:' {mentions} times")
    return str(lines[0])
