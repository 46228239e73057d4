"""Refusals: statements of an answer that its context does not contain the requested fact. A refusal makes no claim."""

from __future__ import annotations

import re

from mlops_assets.compute.groundedness.words import split_clauses

_SOURCE = r"(?:context|text|passage|document|excerpt|source|article|rows?|table|data|information|answer|question)"
_SAYING = r"(?:say|state|mention|contain|include|specify|provide|name|give|indicate|te(?:ll)|reveal|disclose|cover|address|describe|list)(?:s|ed|n)?"
_UNABLE = r"(?:do(?:\s+not|n[’']t)|cannot|can[’']t|could\s+not|couldn[’']t|am\s+(?:unable|not\s+able)\s+to|are\s+unable\s+to)"
_REFUSALS = (
    rf"\b{_SOURCE}s?\b[^.]*?\b(?:do|does|did)(?:\s+not|n[’']t)\s+{_SAYING}\b",
    rf"\b{_SOURCE}s?\b[^.]*?\b(?:contain|include|provide|give|have|has|offer)s?\s+no\s+(?:data|information|details?|mention|answer|figures?)\b",
    r"\bno\s+(?:data|information|details?|mention|indication|figures?|answer)\b[^.]*?\b(?:in|about|on|of|for|whether)\b",
    rf"\b(?:is|are|was|were)(?:\s+not|n[’']t)\s+{_SAYING}\b",
    r"\bnot\s+(?:mentioned|stated|specified|provided|given|available|included)\b[^.]*?\b(?:context|text|passage|document|data|rows?)\b",
    rf"\b(?:i|we)\s+{_UNABLE}\s+(?:know|say|te(?:ll)|find|answer|determine|see|confirm)\b",
    r"\b(?:it\s+is\s+)?(?:impossible|not\s+possible)\s+to\s+(?:say|te(?:ll)|answer|determine)\b",
    r"\b(?:cannot|can[’']t|could\s+not)\s+be\s+(?:answered|determined|found)\b",
)
_REFUSAL = re.compile("|".join(_REFUSALS), re.IGNORECASE)
_LINK = re.compile(r"(?:of|whether|so|therefore)\b", re.IGNORECASE)  # "because of this" completes the refusal


def is_refusal(clause: str) -> bool:
    """Return True if a clause says that the context does not contain the requested fact.

    Parameters
    ----------
    clause
        A clause or a sentence of an answer.

    Returns
    -------
    bool
        False for a negated claim about the world.

    Examples
    --------
    >>> is_refusal("The text does not say why."), is_refusal("The lounge does not open on Sundays.")
    (True, False)
    """
    return _REFUSAL.search(clause) is not None


def drop_refusals(sentence: str) -> str:
    """Return a sentence without its refusals and the clauses that complete them; empty if no claim is left.

    Parameters
    ----------
    sentence
        A sentence of an answer.

    Examples
    --------
    >>> drop_refusals("The text does not mention pets, but dogs pay $25.")
    'dogs pay $25.'
    """
    clauses = split_clauses(sentence)
    if not any(map(is_refusal, clauses)):
        return sentence
    return "; ".join(clause.rstrip(" ,") for clause in clauses if not is_refusal(clause) and not _LINK.match(clause))
