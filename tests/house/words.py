"""Find names and prose in the package that a reader stumbles over."""

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2] / "mlops_assets"

# Words and phrases in docstrings, comments, messages and pages; each with the word to write instead.
PHRASES = {
    r"told|tells?|telling": "report, say, print",
    r"beside": "alongside, next to",
    r"whoever|whomever|whichever|whatever": "the role, any, the passive",
    r"nobody|somebody|everybody": "no one, the passive",
    r"anew|afresh": "again, rebuild",
    r"strange(?:r|ly)?": "unexpected",
    r"of now": "current",
    r"go on|goes on|going on|went on|gone on": "continue, run, active",
    r"(?<!at )least|greatest(?!\()": "minimum, maximum, lowest, highest",
    r"(?:held|holds?|holding) against": "compare with",
    r"(?:when|if) left out": "default",
    r"mend|mends|mended": "fix, repair",
    r"bury|buries|buried": "reap, remove",
    r"looked after|given up|gives up": "maintain, expire",
    r"of which|what it is given": "a sentence",
    r"what it has learned from": "training rows",
    r"walk(?:ed)? around": "bypass",
    r"how it reads": "a heading that names the content",
}
_PROSE = re.compile(rf"\b(?:{'|'.join(PHRASES)})\b", re.IGNORECASE)

# In names.
_NAME_WORDS = {
    "told",
    "beside",
    "whoever",
    "nobody",
    "anew",
    "strange",
    "said",
    "ours",
    "theirs",
    "least",
    "greatest",
    "longest",
    "most",
    "crew",
    "places",
}


def _split(words: str) -> frozenset[str]:
    return frozenset(words.split())


_IRREGULAR = _split(
    "begun bound brought built chosen done drawn driven fallen fed felt forgotten found given gone grown held hidden kept known laid "
    "learnt left lost made meant met overlaid paid said seen sent shown sold spent stood taken told torn understood undone won worn "
    "written "
)
_NOT_PARTICIPLES = {"need", "feed", "seed", "embed", "speed", "proceed", "exceed", "shed", "bed", "unneeded"}
_VAGUE = _split(
    "about above across after against all along among any around aside away back before behind below beneath beside between beyond by "
    "each every few for half here how in inside into it its less like many more much near of off on one onto other others ours out "
    "outside over own per same since so some such than that their theirs them there these they this those through to together toward "
    "two under until up upon via what when where which while who whole whose why with within without "
)
_IDIOMS = {"as", "at", "from", "on", "to", "with"}  # from_env, to_dict, as_polars, with_columns, on_event

_PARTICLES = _split("again apart as at by for from in into of off on out right together up with within without wrong ")
_VERBS = {"checked", "kept", "made", "parsed", "said", "told", "tried"}  # as adjectives they say nothing

# Names that are written into stores, each with where.
STORED = {
    "anew": "a key of the log of erasures",
    "at_least": "the name of a gate, in evidence and decisions",
    "at_most": "the name of a gate, in evidence and decisions",
}

# Functions that stay, each with its reason.
ALLOWED = {
    "at": "`Platform.at(folder)` and `FeatureView.at(version)` read as the value that they return",
    "hosted": "written into Bentos, see `entry_points`",
    "renamed": "`FeatureView.renamed(...)` returns another view and changes nothing, like `sorted`",
}


def rooms() -> dict[str, list[Path]]:
    """Return the files of each room: a folder of a layer, or a flat layer."""
    found: dict[str, list[Path]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        folders = path.relative_to(ROOT).parent.parts
        found.setdefault("/".join(folders[:2]) or "top", []).append(path)
    return found


def is_past_participle(word: str) -> bool:
    """Return whether a word has the form of a past participle."""
    return word in _IRREGULAR or (len(word) > 3 and word.endswith("ed") and word not in _NOT_PARTICIPLES)


def is_no_verb(name: str) -> bool:
    """Return whether a function is named by a past participle, a preposition or a vague word.

    A participle before a noun is the noun that a lookup returns: ``stored_views``.
    """
    words = name.strip("_").split("_")
    if is_past_participle(words[0]):
        return len(words) == 1 or words[1] in _PARTICLES or words[0] in _VERBS
    if words[0] in _IDIOMS:
        return len(words) == 1
    return words[0] in _VAGUE


def _is_noun_by_right(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether a function may be named by what it returns: a property, or a method that Python or a protocol names."""
    decorators = {ast.unparse(d).split(".")[-1].split("(")[0] for d in node.decorator_list}
    return bool(decorators & {"property", "cached_property", "setter", "override"}) or node.name.startswith("__")


def find_names(path: Path) -> Iterator[str]:
    """Yield functions that are no verbs, and names with a word that the house does not use."""
    for node in ast.walk(ast.parse(path.read_text())):
        function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not _is_noun_by_right(node)
        if function and is_no_verb(node.name) and node.name not in ALLOWED:
            yield f"{path.relative_to(ROOT)}:{node.lineno}: def {node.name}"
        name = node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else node.arg if isinstance(node, ast.arg) else ""
        name = node.name if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) else name
        if name and name not in STORED and set(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().split("_")) & _NAME_WORDS:
            yield f"{path.relative_to(ROOT)}:{node.lineno}: name {name}"


def find_phrases(text: str) -> list[str]:
    """Return the words and phrases of a text that the house does not use, each with what to write instead."""
    return [
        f"{found[0]} → {instead}" for words, instead in PHRASES.items() for found in re.finditer(rf"\b(?:{words})\b", text, re.IGNORECASE)
    ]


def find_prose(path: Path) -> Iterator[str]:
    """Yield words of strings and comments that the house does not use."""
    source = path.read_text()
    if _PROSE.search(source) is None:
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if (
            token.type in {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", -1)}
            and token.string.strip("\"'") not in STORED
        ):
            for match in _PROSE.finditer(token.string):
                line = token.start[0] + token.string[: match.start()].count("\n")
                yield f"{path.relative_to(ROOT)}:{line}: '{match[0]}'"


def find_offences(paths: Iterable[Path]) -> list[str]:
    """Return the offences of the files of a room."""
    return [found for path in paths for found in (*find_names(path), *find_prose(path))]
