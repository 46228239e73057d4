"""Topics that a service refuses, found by regular expressions."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class DeniedTopics:
    """The denied topics of a service, which are found in texts by regular expressions.

    Parameters
    ----------
    patterns
        Name and regular expression of each topic.

    Examples
    --------
    >>> from mlops_assets.compute.prompts.denied_topics import DeniedTopics
    >>> topics = DeniedTopics([("wages", r"salar(y|ies)")])
    >>> topics.find(["What is the Salary of the pilot?"]), topics.find(["Is it late?"])
    ('wages', '')
    """

    def __init__(self, patterns: Iterable[tuple[str, str]]) -> None:
        self._patterns = [(topic, re.compile(pattern, re.IGNORECASE)) for topic, pattern in patterns]

    def find(self, texts: Iterable[str]) -> str:
        """Return the first denied topic that occurs in the texts; empty if none occurs.

        The texts are normalised (NFKC) and format characters are removed, so that wide or invisible characters cannot hide a word.

        Parameters
        ----------
        texts
            The texts.
        """
        if not self._patterns:
            return ""
        plain = [_normalise(text) for text in texts]
        return next((topic for topic, pattern in self._patterns if any(map(pattern.search, plain))), "")


def list_texts(value: Any) -> Iterator[str]:  # noqa: ANN401  (JSON)
    """Yield every text of a JSON value, including the names of fields.

    Parameters
    ----------
    value
        The value, as a JSON decoder returns it.
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from list_texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from list_texts(item)


def _normalise(text: str) -> str:
    if text.isascii():
        return text
    return "".join(letter for letter in unicodedata.normalize("NFKC", text) if unicodedata.category(letter) != "Cf")
