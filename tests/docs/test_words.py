"""The prose of README, guides, decisions and contributing: plain words, short sentences, short paragraphs."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.house.words import find_phrases

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MAX_WORDS = 26  # in a sentence
MAX_LINES = 5  # in a paragraph, of 150 signs each


def prose(path: Path) -> str:
    """Return the text of a page without blocks of code, inline code and targets of links."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "x", re.sub(r"\]\([^)]*\)", "]", text))


def paragraphs(text: str) -> list[str]:
    """Return paragraphs and items of lists, each as one line; headings and tables are neither."""
    parts = re.split(r"\n\s*\n|\n(?= *- | *\d+\. )", text)
    return [" ".join(part.split()) for part in parts if not part.lstrip().startswith(("#", "|"))]


def long_sentences(text: str) -> list[str]:
    sentences = [sentence for part in paragraphs(text) for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z`*x])|: ", part)]
    return [sentence for sentence in sentences if len(re.findall(r"[\w%'’-]+", sentence)) > MAX_WORDS]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_uses_plain_words_and_short_sentences(page) -> None:
    text = prose(page)
    assert find_phrases(" ".join(text.split())) == []
    assert long_sentences(text) == []
    assert [part for part in paragraphs(text) if len(part) > MAX_LINES * 150] == []


def test_a_long_sentence_is_found() -> None:
    assert len(long_sentences("One " + "word " * 26 + "here. Short one.")) == 1
    assert long_sentences("a " * 20 + ". B " + "b " * 20) == []
