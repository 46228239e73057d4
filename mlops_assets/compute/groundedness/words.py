"""Sentences, clauses and content words of a text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=\S)")
_ABBREVIATIONS = ("a.m.", "p.m.", "approx.", "dr.", "e.g.", "i.e.", "mr.", "mrs.", "ms.", "no.", "prof.", "st.", "u.s.", "vs.")
_CLAUSE_END = re.compile(
    r"\s*;\s*|,?\s+(?:while|whereas|but|although|though|however|because)\s+|,\s+(?:and|or|then|which|who|where)\s+"
    r"|\s+and\s+(?=(?:has|have|had|is|are|was|were|does|do|did|can|cannot|must|will|may|should|it|its|they)\b)",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]+\d[\w-]*|\d+-?(?:bit|[^\W\d_]{3,})|[^\W\d_]+(?:[’'][^\W\d_]+)?|\d[\w.,:/'’]*\w|\d|[%€$£¥°]", re.UNICODE)
_SUFFIXES = (
    "ations",
    "ation",
    "ments",
    "ment",
    "ness",
    "ions",
    "ion",
    "ings",
    "ing",
    "edly",
    "ed",
    "ers",
    "er",
    "es",
    "ly",
    "al",
    "s",
    "e",
)


def split_to_set(words: str) -> frozenset[str]:
    """Return the words of a text, separated by white space, as a set."""
    return frozenset(words.split())


MAX_CACHED = 512  # texts whose parts are cached, so that a context is parsed once for all components
STOP_WORDS = split_to_set(
    "a about after again all also am an and any are as at be because been before being both but by can could did do does doing down "
    "during each either etc for from further get gets got had has have having he her here hers him his how i if in into is it its "
    "itself just may me might more must my of off on once one only or other our out over own per quite rather s same shall she should "
    "so some such than that the their them then there these they this those through to too under until up upon us very was we were "
    "what when where which while who whom why will with within would you your according therefore thus however whereas although "
    "though"
)


@dataclass(frozen=True)
class Word:
    """A content word of a text.

    Parameters
    ----------
    text
        The word in lower case.
    stem
        The word without its ending.
    clause
        The number of its clause, counted through the text.
    start
        The position of its first character in the text of its sentence.
    """

    text: str
    stem: str
    clause: int
    start: int


@lru_cache(maxsize=MAX_CACHED)
def split_sentences(text: str) -> tuple[str, ...]:
    """Return the sentences of a text, with white space collapsed to single spaces."""
    sentences: list[str] = []
    for part in (part for line in re.split(r"\n\s*\n|\n(?=[-*•])", text) for part in _SENTENCE_END.split(line)):
        cleaned = " ".join(part.split())
        if sentences and sentences[-1].lower().endswith(_ABBREVIATIONS):
            sentences[-1] += f" {cleaned}"
        elif cleaned:
            sentences.append(cleaned)
    return tuple(sentences)


@lru_cache(maxsize=MAX_CACHED)
def split_clauses(sentence: str) -> tuple[str, ...]:
    """Return the clauses of a sentence: the parts around ``;``, ``while``, ``but``, ``, and`` and the like."""
    return tuple(clause for clause in _CLAUSE_END.split(sentence) if clause.strip()) or (sentence,)


@lru_cache(maxsize=10_000)
def stem_word(word: str) -> str:
    """Return a word in lower case without its ending.

    Examples
    --------
    >>> stem_word("Departures"), stem_word("departed")
    ('departur', 'depart')
    """
    word = re.sub(r"[’']\w*$", "", word.lower())
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3 and not word.endswith("ss"):
            return word[: -len(suffix)]
    return word


@lru_cache(maxsize=50_000)
def match_stems(first: str, second: str) -> bool:
    """Return True if two stems belong to one word family: they are equal or have a long common prefix."""
    if first == second:
        return True
    if first[:1].isdigit() or second[:1].isdigit():
        return False
    shared = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))
    return shared >= 4 and shared >= 0.65 * max(len(first), len(second))


def list_words(sentence: str) -> list[str]:
    """Return every word, number and sign such as ``%`` of a sentence in lower case, stop words included."""
    return [match[0].lower().replace("’", "'") for match in _WORD.finditer(sentence)]


def list_content_words(sentence: str, first_clause: int = 0) -> list[Word]:
    """Return the words of a sentence that carry content: no stop words, numbers or signs.

    ``first_clause`` is the number of its first clause in the text.
    """
    words, start = [], 0
    for number, clause in enumerate(split_clauses(sentence)):
        offset = sentence.index(clause, start)
        start = offset + len(clause)
        for match in _WORD.finditer(clause):
            text = match[0].lower().replace("’", "'").removesuffix("'s")
            if any(map(str.isalpha, text)) and text not in STOP_WORDS and len(text) > 1:
                words.append(Word(text, stem_word(text), first_clause + number, offset + match.start()))
    return words
