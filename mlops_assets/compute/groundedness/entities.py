"""Names and codes of an answer, and whether its context mentions them."""

from __future__ import annotations

import re
from functools import lru_cache

from mlops_assets.compute.groundedness.quantities import find_quantities
from mlops_assets.compute.groundedness.units import DATE
from mlops_assets.compute.groundedness.words import MAX_CACHED, STOP_WORDS, match_stems, split_sentences, stem_word

_NAME = re.compile(r"[^\W\d_][\w.&-]*\w(?:[’']s)?|[A-Z]\b")
_INITIALS_OF = re.compile(r"(?:\b[A-Z][\w&]*(?:\s+(?:of|and|the|for)\b)*[\s-]*){2,6}")
_NO_NAMES = frozenset({"i", "am", "pm", "ok", "mr", "mrs", "ms", "dr"})


def _is_code(word: str) -> bool:
    """Return True if a word is written as a code: ``JFK``, ``B6``, ``KiB``."""
    return len(word) > 1 and (any(character.isdigit() for character in word) or any(character.isupper() for character in word[1:]))


@lru_cache(maxsize=MAX_CACHED)
def list_names(answer: str, context: str = "") -> tuple[str, ...]:
    """Return the names and codes of an answer: words that begin with a capital letter, or contain a capital letter or a digit.

    Parameters
    ----------
    answer
        The text. The first word of a sentence counts as a name only if it is a code, precedes a name, or is a name in the context.
    context
        A text whose names are also recognised at the beginning of a sentence of the answer.

    Returns
    -------
    tuple[str, ...]
        The names in their order, one entry for each word, without possessive endings. Stop words and months of dates are not names.

    Examples
    --------
    >>> list_names("Most flights of United Airlines left JFK's Terminal 4 late.")
    ('United', 'Airlines', 'JFK', 'Terminal')
    """
    known = {word.lower() for word in list_names(context)} if context else set()
    for quantity in find_quantities(answer):  # the month of a date is no name
        answer = answer.replace(quantity.text, quantity.text.lower()) if quantity.dimension == DATE else answer
    names: list[str] = []
    for sentence in split_sentences(answer):
        words = [re.sub(r"[’']s$", "", match[0]) for match in _NAME.finditer(sentence)]
        for position, word in enumerate(words):
            if not _is_code(word) and not word[0].isupper():
                continue
            starts = position == 0 and not _is_code(word) and word.lower() not in known
            followed = (
                position + 1 < len(words) and words[position + 1][0].isupper() and sentence.startswith(f"{word} {words[position + 1]}")
            )
            if word.lower() not in STOP_WORDS | _NO_NAMES and (not starts or followed):
                names.append(word)
    return tuple(names)


def _list_initials(text: str) -> set[str]:
    """Return the initials of names of several words and of parts of such names, such as ``jfk`` for John F Kennedy."""
    runs = [[word for word in re.findall(r"\w+", match[0]) if word[0].isupper()] for match in _INITIALS_OF.finditer(text)]
    return {"".join(word[0] for word in run[i:j]).lower() for run in runs for i in range(len(run)) for j in range(i + 2, len(run) + 1)}


def find_unknown_names(answer: str, context: str) -> list[str]:
    """Return the names and codes of an answer that its context does not mention.

    Parameters
    ----------
    answer, context
        The texts; initials match the names that they abbreviate.

    Examples
    --------
    >>> find_unknown_names("The flight left LGA for Boston.", "The flight from LaGuardia Airport (LGA) went to Denver.")
    ['Boston']
    """
    stems = {stem_word(word) for word in re.findall(r"[\w-]+", context)}
    context_text = context.lower()
    initials = _list_initials(context)
    spelled_out = {word for code in _list_initials(answer) if re.search(rf"\b{code}\b", context_text) for word in code}
    return [
        name
        for name in list_names(answer, context)
        if not _is_mentioned(name, context_text, stems, initials) and not (spelled_out and name[0].lower() in spelled_out)
    ]


def _is_mentioned(name: str, context_text: str, stems: set[str], initials: set[str]) -> bool:
    """Return True if the context contains a name: a code or short name literally or as initials, any other name in any word form."""
    if _is_code(name) or len(name) < 3:
        return re.search(rf"\b{re.escape(name.lower())}\b", context_text) is not None or name.lower() in initials
    return any(match_stems(stem_word(name), stem) for stem in stems)


def score_entities(answer: str, context: str) -> float:
    """Return 1 if the context mentions every name and code of an answer, and 0 otherwise.

    Parameters
    ----------
    answer, context
        The texts.

    Returns
    -------
    float
        1.0 for an answer without names.

    Examples
    --------
    >>> score_entities("The flight left JFK.", "The flight left EWR."), score_entities("It left.", "The flight left EWR.")
    (0.0, 1.0)
    """
    return 0.0 if find_unknown_names(answer, context) else 1.0
