"""Lexical overlap of an answer with its context, and binding: whether neighbouring words of the answer share a clause of the context."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from mlops_assets.compute.groundedness.antonyms import NEGATORS, share_meaning
from mlops_assets.compute.groundedness.entities import list_names
from mlops_assets.compute.groundedness.numbers import match_quantities
from mlops_assets.compute.groundedness.quantities import Quantity, find_quantities
from mlops_assets.compute.groundedness.words import (
    MAX_CACHED,
    Word,
    list_content_words,
    list_words,
    match_stems,
    split_clauses,
    split_sentences,
    stem_word,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_DIRECTIONS = re.compile(r"\b(from|to)\s+(?:[$€£]\s?)?([\w.]+)", re.IGNORECASE)
_CONJUNCTION = re.compile(r",\s+|\s+and\s+|;\s+|\s+but\s+", re.IGNORECASE)
_PASSIVE = re.compile(r"\bby\b|[’']s\b", re.IGNORECASE)
_PLACE = re.compile(r"\b(?:in|at|near|on|from|to)\s+(?:the\s+)?$", re.IGNORECASE)
MAX_PLACE = 20  # characters of a preposition and an article before a name
_NAME = re.compile(r"[^\W\d_](?:[\w.&-]*\w)?")
_CONTINUES = re.compile(
    r"(?:\w+\s+){0,2}(?:it|its|they|their|them|he|his|she|her|this|these)\b"
    r"|(?:has|have|had|is|are|was|were|does|do|did|can|cannot|must|will|may|should)\b",
    re.IGNORECASE,
)
# Scores of two words of one clause of the answer, by their places in the context.
SAME_CLAUSE, SAME_SENTENCE, APART, OTHER_SUBJECT, REVERSED = 1.0, 0.5, 0.0, 0.25, 0.15


@dataclass(frozen=True)
class Term:
    """A content word or a quantity of a text, and its place.

    Parameters
    ----------
    value
        The word or the quantity.
    sentence, clause, segment
        The numbers of its sentence, clause and segment, counted through the text. The segment is the number of the clause plus 0.01 for
        each comma before the term.
    """

    value: Word | Quantity
    sentence: int
    clause: int
    segment: float

    def matches(self, other: Term) -> bool:
        """Return True if a term of the context is an equal quantity, or a word of the same word family or meaning."""
        if isinstance(self.value, Quantity) or isinstance(other.value, Quantity):
            return isinstance(self.value, Quantity) and isinstance(other.value, Quantity) and match_quantities(self.value, other.value)
        return match_stems(self.value.stem, other.value.stem) or share_meaning(self.value.stem, other.value.stem)


def _extract_clause_terms(clause: str) -> list[Word | Quantity]:
    """Return the content words and quantities of a clause; a unit is part of its quantity; negators are dropped."""
    quantities = find_quantities(clause)
    spans = [(quantity.start, quantity.start + len(quantity.text)) for quantity in quantities]
    words = [word for word in list_content_words(clause) if word.text not in NEGATORS and not any(a <= word.start < b for a, b in spans)]
    return sorted((*quantities, *words), key=lambda value: value.start)


@lru_cache(maxsize=MAX_CACHED)
def list_terms(text: str) -> tuple[Term, ...]:
    """Return the content words and quantities of a text in their order, without negators.

    The first term of a sentence counts as its subject. A sentence that starts with a pronoun or without a subject gets the subject of the
    previous sentence as an additional term. Likewise, a later clause gets the first term of the previous clause.
    """
    terms: list[Term] = []
    subject: Word | Quantity | None = None
    clause = 0
    for number, sentence in enumerate(split_sentences(text)):
        parts = [(part, _extract_clause_terms(part)) for part in split_clauses(sentence)]
        topic = subject
        for part, values in parts:
            if _CONTINUES.match(part) is not None and topic is not None:
                terms.append(Term(topic, number, clause, clause))
            elif values:
                topic = values[0]
            terms += [Term(value, number, clause, clause + part.count(", ", 0, value.start) / 100) for value in values]
            clause += 1
        if parts[0][1] and _CONTINUES.match(parts[0][0]) is None:
            subject = parts[0][1][0]
    return tuple(terms)


def score_overlap(answer: str, context: str) -> float:
    """Return the share of the content words of an answer that the context has in any word form.

    Parameters
    ----------
    answer, context
        The texts.

    Returns
    -------
    float
        The mean of the share of the whole answer and the lowest share of a part between ``and``, ``but``, commas and semicolons.
        1.0 for an answer without content words.

    Examples
    --------
    >>> score_overlap("The delayed flights departed.", "A flight departs after a delay.")
    1.0
    >>> score_overlap("The flight departed and passengers received vouchers.", "The flight departed.")
    0.2
    """
    context_terms = list_terms(context)
    shares = [_measure_word_share(part, context_terms) for part in (answer, *_CONJUNCTION.split(answer))]
    whole, *parts = [share for share in shares if share is not None] or [1.0]
    return (whole + min(parts, default=whole)) / 2


def _measure_word_share(text: str, others: Sequence[Term]) -> float | None:
    """Return the share of the content words of a text that match terms of another text; None without content words."""
    words = [term for term in list_terms(text) if isinstance(term.value, Word)]
    return sum(any(word.matches(other) for other in others) for word in words) / len(words) if words else None


def score_binding(answer: str, context: str) -> float:
    """Return how far neighbouring words of an answer share clauses in its context.

    Parameters
    ----------
    answer, context
        The texts. Two neighbours within a clause score 1 if a clause of the context has both, 0.5 if only a sentence has both, else 0.
        Exchanged ``from`` and ``to`` make the whole score 0. Numbers and names with another subject in the context, and two names in
        reverse order, lower the score.

    Returns
    -------
    float
        The mean over the neighbours; 1.0 for an answer without neighbours in the context.

    Examples
    --------
    >>> score_binding("The sauna is free.", "The sauna is free, whereas parking costs $18.")
    1.0
    >>> score_binding("Parking is free.", "The sauna is free, whereas parking costs $18.")
    0.5
    """
    if _has_swapped_directions(answer, context):
        return APART
    context_terms = list_terms(context)
    matched = [
        (term, matches) for term in list_terms(answer) if (matches := [candidate for candidate in context_terms if term.matches(candidate)])
    ]
    neighbours = [
        _score_pair(matches, next_matches)
        for (term, matches), (following, next_matches) in pairwise(matched)
        if term.clause == following.clause
    ]
    subjects = [
        _score_subject(matches, next_matches) for (_, matches), (_, next_matches) in _pair_subjects(matched, _stem_names(answer, context))
    ]
    score = sum(neighbours) / len(neighbours) if neighbours else SAME_CLAUSE
    return score * min(subjects, default=SAME_CLAUSE) * (REVERSED if _has_reversed_roles(answer, context) else SAME_CLAUSE)


def _has_reversed_roles(answer: str, context: str) -> bool:
    """Return True if a clause of the context in the same voice has the names of a clause of the answer in another order.

    Comparisons with ``than`` do not count.
    """
    for clause in (part for sentence in split_sentences(answer) for part in split_clauses(sentence)):
        actors = _find_actors(clause, list_names(clause, context))
        for context_clause in (part for sentence in split_sentences(context) for part in split_clauses(sentence)):
            context_actors = _find_actors(context_clause, actors)
            shared = [name for name in actors if name in context_actors]
            same_voice = (_PASSIVE.search(clause) is None) == (_PASSIVE.search(context_clause) is None)
            if same_voice and "than" not in list_words(clause) and shared != [name for name in context_actors if name in shared]:
                return True
    return False


def _find_actors(clause: str, names: Sequence[str]) -> list[str]:
    """Return the given names that a clause contains, in the order of their first use, without names after a preposition of place."""
    names_by_word = {name.lower(): name for name in names}
    starts: dict[str, int] = {}
    for word in _NAME.finditer(clause):
        if (name := names_by_word.get(word[0].lower())) is not None:
            starts.setdefault(name, word.start())
    return [name for name, start in starts.items() if _PLACE.search(clause[max(0, start - MAX_PLACE) : start]) is None]


def _stem_names(answer: str, context: str) -> set[str]:
    return {stem_word(name) for name in list_names(answer, context)}


def _pair_subjects(
    matched: list[tuple[Term, list[Term]]], names: set[str]
) -> Iterator[tuple[tuple[Term, list[Term]], tuple[Term, list[Term]]]]:
    """Yield the subject (first matched term) of each clause with each other quantity or name of the clause; both with their matches."""
    for _, group in groupby(matched, key=lambda pair: pair[0].clause):
        first, *rest = group
        yield from ((first, pair) for pair in rest if isinstance(pair[0].value, Quantity) or pair[0].value.stem in names)


def _score_subject(subjects: list[Term], numbers: list[Term]) -> float:
    """Return the score of a subject and a quantity or name: in one clause and the subject not later, in one sentence, or apart."""
    if any(a.clause == b.clause and a.segment <= b.segment for a in subjects for b in numbers):
        return SAME_CLAUSE
    return SAME_SENTENCE if {term.sentence for term in subjects} & {term.sentence for term in numbers} else OTHER_SUBJECT


def _score_pair(first: list[Term], second: list[Term]) -> float:
    """Return the score of two words: in one clause of the context, in one sentence, or apart."""
    if {term.clause for term in first} & {term.clause for term in second}:
        return SAME_CLAUSE
    return SAME_SENTENCE if {term.sentence for term in first} & {term.sentence for term in second} else APART


def _has_swapped_directions(answer: str, context: str) -> bool:
    """Return True if a word follows ``from`` in the answer but only ``to`` in the context, or the reverse."""
    words_by_target: dict[str, set[str]] = {}
    for word, target in _DIRECTIONS.findall(context.lower()):
        words_by_target.setdefault(target.rstrip("."), set()).add(word)
    return any(word not in words_by_target.get(target.rstrip("."), {word}) for word, target in _DIRECTIONS.findall(answer.lower()))
