"""Redaction of personal data in texts: e-mail addresses, IBANs and phone numbers, found by their form."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

EMAIL, IBAN, PHONE = "[e-mail address]", "[IBAN]", "[phone number]"
_EMAIL = re.compile(
    r"(?<![\w.%+'-])[\w.%+'-]{1,64}@"
    r"(?!\d(?:\.\d)?x\.(?:avif|gif|jpe?g|png|svg|webp)\b)"  # an image for a screen of high resolution, e.g. icon@2x.png
    r"(?:[\w-]{1,63}\.){1,8}[^\W\d_][\w-]{1,62}"
)
_SPACES = " \u00a0\u2009\u202f"  # between groups of digits
_SEPARATORS = f"{_SPACES}-\t\r\n"  # within an IBAN
_GAP = rf"(?:[{_SPACES}-]|[ \t]{{0,8}}\r?\n[ \t]{{0,8}})"
_IBAN = re.compile(rf"(?<![A-Za-z0-9])[A-Za-z]{{2}}[0-9]{{2}}(?:{_GAP}?[A-Za-z0-9]){{11,30}}(?![A-Za-z0-9])")
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
_BETWEEN = rf"[ ./{_DASHES}{_SPACES}]"
_SPACE = f"[{_SPACES}]"
_BEFORE = rf"(?<![\w.+{_DASHES}])"
_CLOCK = r"(?:[01]\d|2[0-3])[0-5]\d"
_PHONE = re.compile(
    rf"""(?=[\d+(])(?:(?P<other>  # what has the form of a phone number and is none
        \b\d[0-9a-fA-F]{{7}}(?:-[0-9a-fA-F]{{4}}){{3}}-[0-9a-fA-F]{{12}}\b  # a UUID
        |(?:(?<=ISBN[ :])|(?<=ISBN:[ ])|(?<=ISBN-1[03][ :])|(?<=ISBN-1[03]:[ ]))(?:\d[ -]?){{9,12}}[\dXx]\b
        |(?<![\w/.])(?:19|20)\d\d/0\d{{2,5}}{_BETWEEN}\d+  # a number in the series of a year
        |(?<!\w)(?!0[89]00){_CLOCK}[ ]?[{_DASHES}][ ]?{_CLOCK}[ ](?:19|20)\d\d(?!\d)  # two times before a year
    )
    |(?P<international>
        (?:(?<![\w+])\(?\+|(?<![\w+:.,])(?<!\d[{_DASHES}])00)[ ]?[1-9](?:[ ./(){_DASHES}{_SPACES}]{{0,2}}\d){{6,14}}(?!\w)
    )
    |{_BEFORE}\(?0[1-9]\d{{1,4}}\)?{_BETWEEN}{{1,3}}\d(?:{_BETWEEN}?\d){{4,9}}(?!\w)  # an area code that begins with 0
    |{_BEFORE}0[1-9](?:[ .{_DASHES}{_SPACES}]\d\d){{4}}(?!\w)  # in pairs, as in France
    |{_BEFORE}(?:01[5-7]\d{{8,9}}|07\d{{9}}|0[67]\d{{8}})(?!\w)  # a mobile number of Germany, Britain or France in one piece
    |{_BEFORE}(?:1[ .{_DASHES}]?)?(?:\([2-9]\d\d\)[ .{_DASHES}]?|[2-9]\d\d[.{_DASHES}])[2-9]\d\d[ .{_DASHES}]\d{{4}}(?!\w)  # North American
    |{_BEFORE}1[ ]8(\d)\3[ ][2-9]\d\d[ ]\d{{4}}(?!\w)  # North American and free of charge
    |{_BEFORE}(?<!\d{_SPACE})(?:1{_SPACE})?[2-9](?!00|11|9)\d\d{_SPACE}[2-9](?!00)\d\d{_SPACE}\d{{4}}(?!\w|{_SPACE}\d)  # with spaces only
    )""",
    re.VERBOSE,
)
_CODE = re.compile(  # calling codes of the ITU; ten digits follow that of North America, and that of Russia and Kazakhstan
    r"1[2-9]\d{9}$|7\d{10}$|(?:2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|2[1-689]\d|3[578]\d|42\d|5[09]\d|6[7-9]\d|8[0578]\d|9[679]\d)"
)
_THOUSANDS = re.compile(rf"\+?\d{{1,3}}([.'{_SPACES}])\d{{3}}(?:\1\d{{3}})*")
_UNIT = re.compile(rf"[{_SPACES}]?(?:[A-Z]{{3}}\b|[€$£¥%])")  # after an amount
_UNIT_LENGTH = 5
_GROUP = re.compile(r"\d(?!\d)")  # the last digit of a group
_MIN_DIGITS, _MAX_DIGITS, _MIN_UNSURE_DIGITS = 8, 15, 10  # with the calling code; the last one if the form alone is not conclusive
_ESCAPE = re.compile(r"(?<!\\)\\++(?:u([0-9a-fA-F]{4})|[bfnrt])")  # of JSON; backslashes are doubled in JSON within JSON
_LITERAL = re.compile(r'("[^"\\]*+(?:\\.[^"\\]*+)*+")(\s*:)?')  # a text in JSON; with a colon it is the name of a field


def redact_text(text: str) -> str:
    """Return a text in which e-mail addresses, IBANs and phone numbers are replaced.

    An IBAN is replaced only if its check digits are right. A phone number begins with ``+`` or ``00`` and a calling code, or with ``0`` and
    has separators, or has the form of numbers in North America, or of mobile numbers in Germany, Britain or France. So most dates, times,
    amounts and identifiers stay. JSON escapes, e.g. of a newline, are decoded first, so that texts within JSON are also redacted.

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
    for token, find in ((EMAIL, _find_emails), (IBAN, _find_ibans), (PHONE, _find_phones)):
        text = _replace(text, token, find)
    return text


def _replace(text: str, token: str, find: Callable[[str], Iterable[tuple[int, int]]]) -> str:
    """Replace each span that ``find`` yields; JSON escapes in the text are first decoded to their characters."""
    plain, offsets = _read_escapes(text) if "\\" in text else (text, range(len(text) + 1))
    parts, begin = [], 0
    for start, end in find(plain):
        parts += [text[begin : offsets[start]], token]
        begin = offsets[end]
    return "".join([*parts, text[begin:]]) if parts else text


def _read_escapes(text: str) -> tuple[str, Sequence[int]]:
    """Return a text with its escapes decoded, and the position in the original text of each character and of the end."""
    parts, offsets, begin = list[str](), list[int](), 0
    for match in _ESCAPE.finditer(text):
        parts += [text[begin : match.start()], chr(int(match[1], 16)) if match[1] else "\n"]
        offsets += range(begin, match.start() + 1)
        begin = match.end()
    return "".join([*parts, text[begin:]]), [*offsets, *range(begin, len(text) + 1)]


def redact_json(value: Any) -> Any:  # noqa: ANN401  (JSON)
    """Return a JSON value in which every text and every field name is redacted; no field is lost.

    Parameters
    ----------
    value
        The value, as a JSON decoder returns it.
    """
    if isinstance(value, str):
        return redact_json_text(value)
    if isinstance(value, list):
        return [redact_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    names = FieldNames()
    return {names.claim(redact_text(name)): redact_json(item) for name, item in value.items()}


def redact_json_text(text: str) -> str:
    r"""Return a JSON text with each of its strings redacted, also in JSON within JSON; any other text is redacted as a whole.

    Strings are decoded first, because a phone number in JSON may contain escapes, e.g. of slashes.

    Parameters
    ----------
    text
        Any text. Parts without personal data stay unchanged, byte for byte.

    Examples
    --------
    >>> from mlops_assets.compute.prompts.redaction import redact_json_text
    >>> redact_json_text(r'[{"content": "Call:\n+49 30 1234567"}]')
    '[{"content": "Call:\\n[phone number]"}]'
    """
    if not text.lstrip().startswith(("[", "{", '"')):
        return redact_text(text)
    try:
        json.loads(text)
    except RecursionError:
        pass  # its texts are found without recursion
    except ValueError:
        return redact_text(text)
    replaced, names = dict[str, str](), FieldNames()

    def redact_literal(match: re.Match[str]) -> str:
        try:
            value = json.loads(match[1])
        except ValueError:
            return redact_text(match[0])
        redacted = redact_json_text(value)
        if redacted == value:
            return match[0]
        if match[2] is not None and value not in replaced:
            replaced[value] = names.claim(redacted)
        return json.dumps(redacted if match[2] is None else replaced[value], ensure_ascii=False) + (match[2] or "")

    return _LITERAL.sub(redact_literal, text)


class FieldNames:
    """The redacted field names of a JSON value, made unique by numbers."""

    def __init__(self) -> None:
        self._taken, self._numbers = set[str](), dict[str, int]()

    def claim(self, name: str) -> str:
        """Return the name, with a number appended if another field already has this name.

        Parameters
        ----------
        name
            The redacted name of a field.
        """
        number, free = self._numbers.get(name, 1), name
        while free in self._taken:
            number += 1
            free = f"{name} {number}"
        self._taken.add(free)
        self._numbers[name] = number
        return free


def _find_emails(text: str) -> Iterator[tuple[int, int]]:
    return (match.span() for match in _EMAIL.finditer(text)) if "@" in text else iter(())


def _find_ibans(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each IBAN; the search continues directly after each IBAN."""
    begin = 0
    while match := _IBAN.search(text, begin):
        length = _measure_iban(match[0])
        begin = match.start() + (length or 4)
        if length:
            yield match.start(), begin


def _find_phones(text: str) -> Iterator[tuple[int, int]]:
    begin = 0
    while match := _PHONE.search(text, begin):
        start, begin = match.span()
        if match["international"]:
            length = _measure_international(match[0], text[begin : begin + _UNIT_LENGTH])
            begin = start + (length or 1)
            if not length:
                continue
        if not match["other"]:
            yield start, begin


def _measure_international(candidate: str, following: str) -> int:
    """Return the length of the longest prefix that is an international phone number and ends with a group of digits, or 0."""
    ends = [match.end() for match in _GROUP.finditer(candidate)]
    return next((end for end in reversed(ends) if _is_international(candidate[:end], candidate[end:] + following)), 0)


def _is_international(text: str, following: str) -> bool:
    digits, has_plus = "".join(filter(str.isdigit, text)), "+" in text
    digits = digits if has_plus else digits[2:]
    # An amount has groups of three digits and mostly a unit, and an identifier of digits may begin with 00.
    thousands = _THOUSANDS.fullmatch(text)
    is_amount = thousands is not None and (not has_plus or thousands[1] in ".'" or _UNIT.match(following) is not None)
    is_sure = not is_amount and (has_plus or not text.isdigit())
    return (_MIN_DIGITS if is_sure else _MIN_UNSURE_DIGITS) <= len(digits) <= _MAX_DIGITS and _CODE.match(digits) is not None


def _measure_iban(candidate: str) -> int:
    """Return the length of the prefix that is an IBAN and ends at a word boundary, or 0.

    An IBAN has the length of its country, and is 1 modulo 97 after its first four characters are moved to its end (ISO 13616).
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
    """Return whether a text in groups has more letters than an IBAN can have: one text in 97 has right check digits by chance."""
    return any(letter in _SEPARATORS for letter in text) and sum(letter.isalpha() for letter in text) > _MAX_LETTERS
