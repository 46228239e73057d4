"""Words of opposite meaning, and words that negate."""

from __future__ import annotations

from mlops_assets.compute.groundedness.words import split_to_set, stem_word

NEGATORS = split_to_set(
    "no not never none unless except neither nor cannot without nothing unable impossible n't hardly forbid forbids forbidden "
    "prohibit prohibited ban banned exclude excluded excludes exempt disallow disallowed lack lacks lacking absent absence "
    "unavailable"
)

_GROUPS = """
increase rise rose risen grow grew grown gain climb climbed up higher raise raised improve expand upward surplus more
 / decrease fall fell fallen drop dropped decline shrink shrank lose down lower reduce reduced cut worsen contract downward deficit less fewer
win won winner victory beat / lose lost loser defeat
high highest higher tall top maximum peak upper / low lowest lower short bottom minimum lower
large largest larger big biggest bigger great huge / small smallest smaller little tiny
many most more majority / few fewest fewer less minority
long longest longer / short shortest shorter brief
early earlier earliest ahead / late later latest behind delayed
before / after
above over / below under beneath
first / last
open opened opens opening / closed close closes shut shuts closing
start starts started begin begins began / end ends ended finish finished stop stopped
full / empty
hot hotter warm heat / cold colder cool chill
day daytime / night nighttime dark
free / paid chargeable cost costs fee pay charge
allow allowed permit permitted may / forbidden prohibited banned
include includes included / exclude excludes excluded except
accept accepted approve approved / reject rejected refuse refused deny
enable enabled / disable disabled
add added / remove removed
arrive arrives arrived arrival land landed / depart departs departed departure leave
buy buys bought purchase / sell sells sold
import imports imported / export exports exported
always / never
all every everyone / none
strong stronger / weak weaker
fast faster quick / slow slower
old older oldest / new newer newest young
cheap cheaper / expensive dear
safe / dangerous unsafe
easy simple / difficult hard
success succeed succeeded / failure fail failed
profit / loss
optional voluntary / mandatory compulsory required must
public / private
domestic / international foreign
left / right
north northern / south southern
east eastern / west western
common frequent present / rare absent scarce
positive / negative
true / false
legal lawful / illegal unlawful
inside indoor / outside outdoor
with / without
on / off
male / female
rich / poor
dry / wet rainy
heavy / light
wide / narrow
same equal unchanged / different changed
daily / weekly monthly yearly
temporary / permanent
destroyed demolished / built constructed
connect connected / disconnect disconnected
separate / together
visible / hidden
alive / dead
"""
AS_WRITTEN = split_to_set(  # words that are keys themselves, not their stems
    "before after above over below under may most more few up down on off with without all every"
)


def _antonym_key(word: str) -> str:
    return word if word in AS_WRITTEN or word in NEGATORS else stem_word(word)


def _read_groups() -> tuple[dict[str, frozenset[str]], dict[str, frozenset[int]]]:
    """Return word → its opposites, and word → the numbers of the sides of ``_GROUPS`` that contain it."""
    opposites: dict[str, set[str]] = {}
    meanings: dict[str, set[int]] = {}
    sides = [
        {_antonym_key(word) for word in side.split()}
        for line in _GROUPS.replace("\n /", " /").strip().splitlines()
        for side in line.split("/")
    ]
    for number, side in enumerate(sides):
        for word in side:
            opposites.setdefault(word, set()).update(sides[number ^ 1] - side)
            meanings.setdefault(word, set()).add(number)
    return {word: frozenset(others) for word, others in opposites.items()}, {word: frozenset(numbers) for word, numbers in meanings.items()}


OPPOSITES, _MEANINGS = _read_groups()


def share_meaning(first: str, second: str) -> bool:
    """Return True if two keys are on the same side of a pair of opposites, such as ``rise`` and ``grow``."""
    return not _MEANINGS.get(first, frozenset()).isdisjoint(_MEANINGS.get(second, frozenset()))


def list_antonym_keys(words: list[str]) -> list[str]:
    """Return the key of each word in ``OPPOSITES``: its stem, or the word itself for negators and a few short words."""
    return [_antonym_key(word) for word in words]
