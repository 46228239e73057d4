"""The words of the house: names are verbs and nouns of the field, prose is read once."""

import pytest

from tests.house.words import ALLOWED, PHRASES, find_offences, find_phrases, is_no_verb, rooms

# How many offences each room still has. A count may only fall: lower it when you remove some.
COUNTS = {
    "compute/training": 1,
}
ROOMS = rooms()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_gets_no_new_name_or_word_that_needs_a_second_reading(room: str) -> None:
    found = find_offences(ROOMS[room])
    assert len(found) <= COUNTS.get(room, 0), "\n".join(["write instead:", *map(str, PHRASES.items()), "found:", *found])


@pytest.mark.parametrize("name", ["tried", "_of_runs", "_beside", "kept_up", "checked_name", "_one", "_many", "from", "without_checksum"])
def test_a_participle_a_preposition_and_a_vague_word_are_no_verbs(name: str) -> None:
    assert is_no_verb(name)


@pytest.mark.parametrize(
    "name", ["train_model", "stored_views", "from_env", "embed", "_read_rows", "feed_lines", "with_columns", "is_pinned"]
)
def test_a_verb_a_noun_and_an_idiom_stay(name: str) -> None:
    assert not is_no_verb(name)


def test_the_phrases_are_found_as_whole_words() -> None:
    assert find_phrases("Whoever is told of now goes on.") == [
        "told → report, say, print",
        "Whoever → the role, any, the passive",
        "of now → current",
        "goes on → continue, run, active",
    ]
    assert find_phrases("a bestiary, a toldo, at least, greatest(1, 2)") == []


def test_every_allowed_name_has_a_reason_and_needs_one() -> None:
    assert all(reason and is_no_verb(name) for name, reason in ALLOWED.items())
