"""Redaction of personal data in texts: e-mail addresses, IBANs and phone numbers, found by their form."""

from __future__ import annotations

import re
from typing import Any

EMAIL, IBAN, PHONE = "[e-mail address]", "[IBAN]", "[phone number]"
_EMAIL = re.compile(r"(?<![\w.%+'-])[\w.%+'-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_][\w-]{1,62}")
_SEPARATORS = " \u00a0-"
_IBAN = re.compile(rf"(?<![A-Za-z0-9])[A-Za-z]{{2}}[0-9]{{2}}(?:[{_SEPARATORS}]?[A-Za-z0-9]){{11,30}}(?![A-Za-z0-9])")
_MIN_IBAN = 15  # characters of the shortest one, Norway's
_PHONE = re.compile(
    r"""(?<![\w+])(?:\+|00)[ ]?[1-9](?:[ .\-/()\u00a0]{0,2}\d){6,13}(?!\w)  # international
    |(?<![\w.+-])\(?0[1-9]\d{1,4}\)?[ ./-]{1,3}\d(?:[ ./-]?\d){4,9}(?!\w)  # an area code that begins with 0
    |(?<![\w.+-])0[1-9](?:[ .-]\d\d){4}(?!\w)  # in pairs, as in France
    |(?<![\w.+-])(?:\([2-9]\d\d\)[ .-]?|[2-9]\d\d[.-])[2-9]\d\d[ .-]\d{4}(?!\w)  # North American
    """,
    re.VERBOSE,
)


def redact_text(text: str) -> str:
    """Return a text in which e-mail addresses, IBANs and phone numbers are replaced.

    An IBAN is replaced only if its check digits are right. A phone number begins with ``+``, ``00`` or ``0`` and has separators, or has the
    North American form; so dates, amounts and long numbers stay.

    Parameters
    ----------
    text
        Any text.

    Examples
    --------
    >>> from mlops_assets.compute.prompts.redaction import redact_text
    >>> redact_text("Call +49 30 1234567 or write to ada@example.org; DE89 3704 0044 0532 0130 00, 15 minutes late.")
    'Call [phone number] or write to [e-mail address]; [IBAN], 15 minutes late.'
    """
    return _PHONE.sub(PHONE, _redact_ibans(_EMAIL.sub(EMAIL, text)))


def redact_json(value: Any) -> Any:  # noqa: ANN401  (JSON)
    """Return a JSON value in which every text, also the name of a field in an object, is redacted.

    Parameters
    ----------
    value
        The value, as a JSON decoder returns it.
    """
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, list):
        return [redact_json(item) for item in value]
    return {redact_text(name): redact_json(item) for name, item in value.items()} if isinstance(value, dict) else value


def _redact_ibans(text: str) -> str:
    """Replace each IBAN, and look for another one in the words that follow it."""
    parts, begin = [], 0
    while match := _IBAN.search(text, begin):
        length = _find_iban(match[0])
        end = match.start() + (length or 4)
        parts += [text[begin : match.start()], IBAN if length else text[match.start() : end]]
        begin = end
    return "".join([*parts, text[begin:]])


def _find_iban(candidate: str) -> int:
    """Return the length of the longest beginning that is an IBAN and ends with a word; 0 without one.

    The check digits are right if the number is 1 modulo 97 after its first four characters are moved to its end (ISO 13616).
    """
    head = int("".join(str(int(letter, 36)) for letter in candidate[:4]))
    rest, length, found = 0, 4, 0
    for place, letter in enumerate(candidate[4:], 5):
        if letter in _SEPARATORS:
            continue
        value = int(letter, 36)
        rest, length = (rest * (10 if value < 10 else 100) + value) % 97, length + 1
        ends_word = place == len(candidate) or candidate[place] in _SEPARATORS
        if ends_word and length >= _MIN_IBAN and (rest * 10**6 + head) % 97 == 1:
            found = place
    return found
