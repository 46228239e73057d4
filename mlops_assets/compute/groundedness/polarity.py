"""Whether an answer says the opposite of its context: by a negation or by an antonym."""

from __future__ import annotations

import re
from functools import lru_cache

from mlops_assets.compute.groundedness.antonyms import NEGATORS, OPPOSITES, list_antonym_keys, share_meaning
from mlops_assets.compute.groundedness.words import MAX_CACHED, STOP_WORDS, list_words, match_stems, split_clauses, split_sentences

# "no more than" sets a limit: it is no negation.
_BOUNDS = re.compile(r"\b(?:no|not)\s+(?:\w+\s+){0,2}?(?:more|less|later|fewer|longer|earlier|only|just)\s+(?:than\b)?", re.IGNORECASE)
MIN_OVERLAP = 0.5  # the share of common words from which two clauses have one topic


@lru_cache(maxsize=MAX_CACHED)
def _read_clause(clause: str) -> tuple[bool, tuple[str, ...]]:
    """Return whether a clause is negated (has an odd number of negators), and its words as keys of ``OPPOSITES``."""
    words = list_words(_BOUNDS.sub(" ", clause))
    negations = sum(word in NEGATORS or word.endswith("n't") for word in words)
    return negations % 2 == 1, tuple(list_antonym_keys(words))


def _list_content_keys(keys: tuple[str, ...]) -> list[str]:
    return [key for key in keys if key not in STOP_WORDS and key not in NEGATORS and (key[0].isalpha() or key[0].isdigit())]


def compare_clauses(answer: str, context: str) -> tuple[float, bool]:
    """Return the share of the answer's content words that the context has, and whether the polarity is opposite.

    The result is ``(0.0, False)`` if the clauses share fewer than half of the words that have no opposite in the other clause.

    Parameters
    ----------
    answer, context
        One clause each. Words of opposite meaning count as shared, and each one flips the polarity.

    Examples
    --------
    >>> compare_clauses("Pets are forbidden", "pets are not allowed")
    (1.0, False)
    >>> compare_clauses("Prices rose in May", "prices fell in May")
    (1.0, True)
    """
    negated, keys = _read_clause(answer)
    other_negated, other_keys = _read_clause(context)
    common = {key for key in keys if any(match_stems(key, other) or share_meaning(key, other) for other in other_keys)}
    opposites = {key: OPPOSITES.get(key, frozenset()) & set(other_keys) for key in keys if key not in common}
    flips = sum(bool(words - NEGATORS) for key, words in opposites.items() if key not in NEGATORS)  # negators are counted already
    content_keys = _list_content_keys(keys)
    plain = [key for key in content_keys if not opposites.get(key)]
    if plain and sum(key in common for key in plain) < MIN_OVERLAP * len(plain):
        return 0.0, False
    shared = sum(key in common or bool(opposites.get(key)) for key in content_keys)
    return (shared / len(content_keys) if content_keys else 0.0), (negated ^ other_negated) ^ (flips % 2 == 1)


def score_polarity(answer: str, context: str) -> float:
    """Return 1 if no clause of an answer contradicts a clause of the context on the same topic, less otherwise.

    Parameters
    ----------
    answer, context
        The texts.

    Returns
    -------
    float
        1 for a clause without a contradiction, else 1 − the share of its content words that the contradicting clause has. The minimum
        over the clauses of the answer.

    Examples
    --------
    >>> score_polarity("The lounge is open.", "The shop is open. The lounge is closed.")
    0.0
    >>> score_polarity("The lounge is not open.", "The shop is open. The lounge is closed.")
    1.0
    """
    clauses = [clause for sentence in split_sentences(context) for clause in split_clauses(sentence)]
    scores = [1.0]
    for clause in (clause for sentence in split_sentences(answer) for clause in split_clauses(sentence)):
        compared = [compare_clauses(clause, other) for other in clauses]
        best = max((share for share, _ in compared), default=0.0)
        agreeing = any(share == best and not opposite for share, opposite in compared)
        scores.append(1.0 if agreeing or best < MIN_OVERLAP else 1.0 - best)
    return min(scores)
