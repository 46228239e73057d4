"""The prose of README, guides, decisions and contributing: plain words, short sentences, short paragraphs."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MAX_WORDS = 26  # in a sentence
MAX_LINES = 5  # in a paragraph, of 150 signs each

# Words that need a second reading, and what to write instead.
BANNED = {
    r"told|tells?|telling": "report, say, print",
    r"beside|besides": "alongside, next to",
    r"whoever|whomever": "the passive, or the role",
    r"nobody": "no one, or the passive",
    r"anew": "again, rebuild",
    r"strange(?:r|ly)?": "unexpected",
    r"of now": "current",
    r"go on|goes on|going on|went on": "continue",
    r"(?:held|holds?|holding) against": "compare with",
    r"when left out": "default",
    r"the least|least and greatest": "minimum, maximum",
    r"what it has learned from": "training rows",
    r"bury|buries|buried": "reap",
    r"walk(?:ed)? around": "bypass",
    r"how it reads": "a heading that names the content",
}


def prose(path: Path) -> str:
    """Return the text of a page without blocks of code, inline code and targets of links."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "x", re.sub(r"\]\([^)]*\)", "]", text))


def paragraphs(text: str) -> list[str]:
    """Return paragraphs and items of lists, each as one line; headings and tables are neither."""
    parts = re.split(r"\n\s*\n|\n(?= *- | *\d+\. )", text)
    return [" ".join(part.split()) for part in parts if not part.lstrip().startswith(("#", "|"))]


def banned_words(text: str) -> list[str]:
    flat = " ".join(text.split())
    return [f"{found[0]} → {instead}" for word, instead in BANNED.items() for found in re.finditer(rf"\b(?:{word})\b", flat, re.IGNORECASE)]


def long_sentences(text: str) -> list[str]:
    sentences = [sentence for part in paragraphs(text) for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z`*x])|: ", part)]
    return [sentence for sentence in sentences if len(re.findall(r"[\w%'’-]+", sentence)) > MAX_WORDS]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_uses_plain_words_and_short_sentences(page) -> None:
    text = prose(page)
    assert banned_words(text) == []
    assert long_sentences(text) == []
    assert [part for part in paragraphs(text) if len(part) > MAX_LINES * 150] == []


def test_the_check_finds_what_it_looks_for() -> None:
    assert banned_words("Whoever is told\nof now goes on.") == [
        "told → report, say, print",
        "Whoever → the passive, or the role",
        "of now → current",
        "goes on → continue",
    ]
    assert banned_words("a bestiary, a toldo") == []
    assert len(long_sentences("One " + "word " * 26 + "here. Short one.")) == 1
    assert long_sentences("a " * 20 + ". B " + "b " * 20) == []
