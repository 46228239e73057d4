"""Recognise the language of a text by its most frequent words."""

from __future__ import annotations

import re

_WORDS = {
    "de": "der die das und ist nicht ein eine zu mit auf für von den im es sind wird auch dem des war hat aus bei nach",
    "en": "the of and to in is was for on that with are by at from it this an be not as were has have its",
    "es": "el la los las de que y en un una es no por con para del se su al lo fue son está",
    "fr": "le la les de des et en un une est dans que pour pas sur au du par ne avec il elle sont été",
    "it": "il lo gli di che e in un una è non per con del della sono si da al nel ha è stato",
    "nl": "de het een en van is in op te dat niet met voor zijn aan er was door bij ook wordt",
    "pt": "o a os as de que e em um uma é não por com para do da no na se foi são está",
}
_LANGUAGE_WORDS = {code: frozenset(words.split()) for code, words in _WORDS.items()}
MIN_WORDS = 3  # frequent words of a text, below which its language is unknown


def recognise_language(text: str) -> str | None:
    """Return the code of the language whose frequent words a text has most often; None if there are too few, or two languages tie.

    Parameters
    ----------
    text
        The text. German, English, Spanish, French, Italian, Dutch and Portuguese are known.

    Examples
    --------
    >>> recognise_language("The flight from Newark is late, and the lounge is closed."), recognise_language("EWR: 15")
    ('en', None)
    """
    words = re.findall(r"[^\W\d_]+", text.lower())
    ranked = sorted(((sum(word in known for word in words), code) for code, known in _LANGUAGE_WORDS.items()), reverse=True)
    (count, code), (second, _) = ranked[:2]
    return code if count >= MIN_WORDS and count > second else None
