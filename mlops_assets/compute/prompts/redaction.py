"""Redaction of personal data in texts: e-mail addresses, IBANs and phone numbers, found by their form."""

from __future__ import annotations

import re
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

EMAIL, IBAN, PHONE = "[e-mail address]", "[IBAN]", "[phone number]"
_EMAIL = re.compile(r"(?<![\w.%+'-])[\w.%+'-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_][\w-]{1,62}")
_SEPARATORS = " \u00a0-"
_IBAN = re.compile(rf"(?<![A-Za-z0-9])[A-Za-z]{{2}}[0-9]{{2}}(?:[{_SEPARATORS}]?[A-Za-z0-9]){{11,30}}(?![A-Za-z0-9])")
_MAX_LETTERS = 8  # of an IBAN in groups after its first four characters
# Country → number of characters of its IBANs (ISO 13616).
_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28, "CH": 21, "CR": 22,
    "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22,
    "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30,
    "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31,
    "MU": 30, "NL": 18, "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24,
    "SI": 19, "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
}  # fmt: skip
_DASHES = "\\-\u2010-\u2015\u2212"  # within brackets of a pattern
_BEFORE = rf"(?<![\w.+{_DASHES}])"
_PHONE = re.compile(
    rf"""(?:(?<![\w+])\(?\+|(?<![\w+:.,])00)[ ]?[1-9](?:[ ./(){_DASHES}\u00a0]{{0,2}}\d){{6,13}}(?!\w)  # international
    |{_BEFORE}\(?0[1-9]\d{{1,4}}\)?[ ./{_DASHES}\u00a0]{{1,3}}\d(?:[ ./{_DASHES}\u00a0]?\d){{4,9}}(?!\w)  # an area code that begins with 0
    |{_BEFORE}0[1-9](?:[ .{_DASHES}\u00a0]\d\d){{4}}(?!\w)  # in pairs, as in France
    |{_BEFORE}(?:01[5-7]\d{{8,9}}|07\d{{9}}|0[67]\d{{8}})(?!\w)  # a mobile number of Germany, Britain or France in one piece
    |{_BEFORE}(?:1[ .{_DASHES}]?)?(?:\([2-9]\d\d\)[ .{_DASHES}]?|[2-9]\d\d[.{_DASHES}])[2-9]\d\d[ .{_DASHES}]\d{{4}}(?!\w)  # North American
    |{_BEFORE}1[ ]8(\d)\1[ ][2-9]\d\d[ ]\d{{4}}(?!\w)  # North American and free of charge
    """,
    re.VERBOSE,
)


def redact_text(text: str) -> str:
    """Return a text in which e-mail addresses, IBANs and phone numbers are replaced.

    An IBAN is replaced only if its check digits are right. A phone number begins with ``+``, ``00`` or ``0`` and has separators, or has the
    form of North America, or that of mobile numbers in Germany, Britain or France; so most dates, times, amounts and long numbers stay.

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
    """Return a JSON value in which every text, also the name of a field in an object, is redacted; no field is lost.

    Parameters
    ----------
    value
        The value, as a JSON decoder returns it.
    """
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, list):
        return [redact_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    redacted: dict[str, Any] = {}
    for name, item in value.items():
        redacted[_find_free_name(redact_text(name), redacted)] = redact_json(item)
    return redacted


def _find_free_name(name: str, taken: Mapping[str, Any]) -> str:
    """Return the name, with a number if another field has it already."""
    return next(free for number in count(1) if (free := name if number == 1 else f"{name} {number}") not in taken)


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
    """Return the length of the beginning that is an IBAN of its country and ends with a word; 0 without one.

    The check digits are right if the number is 1 modulo 97 after its first four characters are moved to its end (ISO 13616).
    """
    wanted = _IBAN_LENGTHS.get(candidate[:2].upper())
    if wanted is None:
        return 0
    head = int("".join(str(int(letter, 36)) for letter in candidate[:4]))
    rest, length = 0, 4
    for place, letter in enumerate(candidate[4:], 5):
        if letter in _SEPARATORS:
            continue
        value = int(letter, 36)
        rest, length = (rest * (10 if value < 10 else 100) + value) % 97, length + 1
        ends_word = place == len(candidate) or candidate[place] in _SEPARATORS
        if length == wanted:
            fits = ends_word and (rest * 10**6 + head) % 97 == 1
            return place if fits and not _is_prose(candidate[4:place]) else 0
    return 0


def _is_prose(text: str) -> bool:
    """Return whether a text in words has more letters than an IBAN in groups has: one check of 97 fits by chance."""
    return any(letter in _SEPARATORS for letter in text) and sum(letter.isalpha() for letter in text) > _MAX_LETTERS
