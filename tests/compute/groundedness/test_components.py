"""Each component of groundedness by itself."""

import pytest

from mlops_assets.compute.groundedness.antonyms import NEGATORS, OPPOSITES
from mlops_assets.compute.groundedness.entities import find_unknown_names, score_entities
from mlops_assets.compute.groundedness.numbers import DERIVED, score_numbers
from mlops_assets.compute.groundedness.overlap import score_binding, score_overlap
from mlops_assets.compute.groundedness.polarity import score_polarity
from mlops_assets.compute.groundedness.refusals import drop_refusals, is_refusal
from mlops_assets.compute.groundedness.words import split_clauses, split_sentences

FLIGHT = "Flight DL 1174 was scheduled for 14:35 and left at 15:20. One in five flights was late. It carried 1,200 kg for $18."


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("It left at 3:20 pm.", 1),
        ("It left at 3:20 am.", 0),
        ("20 % of the flights were late.", 1),
        ("A fifth of the flights was late.", 1),
        ("2 % of the flights were late.", 0),
        ("It carried 1.2 tonnes.", 1),
        ("It carried 1,200 g.", 0),
        ("It carried 1200 tonnes.", 0),
        ("It cost 18 dollars.", 1),
        ("It cost 18 euros.", 0),
        ("It cost 18.", 1),
        ("It cost about 18.5 dollars.", 1),
        ("It cost 18.5 dollars.", 0),
        ("It left 45 minutes late.", DERIVED),
        ("It left 54 minutes late.", 0),
        ("It left.", 1),
    ],
)
def test_a_number_needs_its_value_and_its_unit_in_the_context(answer: str, score: float) -> None:
    assert score_numbers(answer, FLIGHT) == score


@pytest.mark.parametrize(
    ("answer", "context", "score"),
    [
        ("The rate rose by 0.5 percentage points.", "The rate rose from 2.1 % to 2.6 %.", DERIVED),
        ("It reopened in 1956.", "It closed in 1954 and reopened two years later.", DERIVED),
        ("It reopened in 1957.", "It closed in 1954 and reopened two years later.", 0),
        ("A third of the 51 seats is theirs.", "They won 17 of the 51 seats.", DERIVED),
        ("At most 1,200 mg a day.", "A tablet has 400 mg. Take no more than three tablets a day.", DERIVED),
        ("Half of them, 320, are shown.", "Of 640 paintings, half are shown.", DERIVED),
        ("It opened in May.", "It opened in May 2013.", 1),
        ("It opened in 2013.", "It opened on 3 May 2013.", 1),
        ("It opened on 4 May 2013.", "It opened on 3 May 2013.", 0),
        ("It has three runways.", "It has two runways and is one of three airports.", 0),
    ],
)
def test_numbers_are_derived_from_two_others_and_belong_to_what_they_count(answer: str, context: str, score: float) -> None:
    assert score_numbers(answer, context) == score


@pytest.mark.parametrize(
    ("answer", "unknown"),
    [
        ("The flight from JFK to Boston was late.", ["JFK"]),
        ("Passengers of the United flight waited in Boston.", []),
        ("LGA is in Queens.", ["Queens"]),
        ("United's flight left Terminal C.", ["C"]),
        ("The B6 flight was late.", ["B6"]),
        ("Denver was the destination.", []),  # the first word of a sentence may be any word
        ("In May 2013 it was late.", []),
    ],
)
def test_names_and_codes_have_to_be_mentioned(answer: str, unknown: list[str]) -> None:
    context = "United left LaGuardia Airport (LGA), Terminal B, for Boston."
    assert find_unknown_names(answer, context) == unknown
    assert score_entities(answer, context) == float(not unknown)


def test_initials_stand_for_a_name() -> None:
    assert score_entities("It landed at JFK.", "It landed at John Fitzgerald Kennedy.") == 1
    assert score_entities("It landed at John Fitzgerald Kennedy.", "It landed at JFK.") == 1


@pytest.mark.parametrize(
    ("answer", "contradicts"),
    [
        ("Pets are allowed.", True),
        ("Pets are not allowed.", False),
        ("Pets are forbidden.", False),
        ("Prices rose in May.", True),
        ("Prices fell in May.", False),
        ("Prices did not rise in May.", False),
        ("Prices declined in May.", False),
        ("The lounge is open in winter.", True),
        ("The lounge is closed in winter.", False),
        ("The lounge isn't closed in winter.", True),
        ("No more than five people may enter the sauna.", False),
    ],
)
def test_a_negation_or_an_antonym_contradicts_and_both_together_do_not(answer: str, contradicts: bool) -> None:
    context = "Pets are not allowed. Prices fell in May. The lounge is closed in winter. Up to five people may enter the sauna."
    assert (score_polarity(answer, context) < 0.5) == contradicts


def test_a_clause_on_another_subject_contradicts_nothing() -> None:
    assert score_polarity("The bakery sells bread.", "The museum is not open.") == 1


def test_opposites_are_mutual_and_no_word_is_its_own_opposite() -> None:
    assert {(word, other) for word, others in OPPOSITES.items() for other in others if word not in OPPOSITES[other]} == set()
    assert [word for word, others in OPPOSITES.items() if word in others] == []
    assert all(word == word.lower() for word in NEGATORS)


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("The delayed flight departed.", 1),
        ("Flights depart after delays.", 1),
        ("The volcano erupted.", 0),
        ("The flight departed and passengers received vouchers.", 0.2),
        ("It is.", 1),
    ],
)
def test_overlap_counts_words_in_any_form_and_the_weakest_part(answer: str, share: float) -> None:
    assert score_overlap(answer, "A flight departs after a delay.") == pytest.approx(share)


@pytest.mark.parametrize(
    ("answer", "bound"),
    [
        ("The sauna is free.", True),
        ("Parking costs $18.", True),
        ("Parking is free.", False),
        ("The sauna costs $18.", False),
        ("The port moved from 5430 to 5440.", True),
        ("The port moved from 5440 to 5430.", False),
        ("Anna Vrba succeeded Tomas Holm.", True),
        ("Tomas Holm was succeeded by Anna Vrba.", True),
        ("Tomas Holm succeeded Anna Vrba.", False),
    ],
)
def test_words_have_to_belong_together(answer: str, bound: bool) -> None:
    context = "The sauna is free, whereas parking costs $18. The port moved from 5430 to 5440. Anna Vrba succeeded Tomas Holm."
    assert (score_binding(answer, context) > 0.6) == bound


def test_a_sentence_with_a_pronoun_belongs_to_the_subject_before() -> None:
    assert score_binding("The probe weighs 900 kg.", "The probe was built in Leiden. It weighs 900 kg.") == 1
    assert score_binding("The probe weighs 900 kg.", "The probe was built in Leiden. The camera weighs 900 kg.") < 0.6


@pytest.mark.parametrize(
    ("clause", "refusal"),
    [
        ("The context does not say why.", True),
        ("The text doesn't mention pets.", True),
        ("There is no information about sick leave.", True),
        ("I cannot find the opening hours.", True),
        ("The revenue is not mentioned.", True),
        ("This cannot be determined.", True),
        ("The lounge does not open on Sundays.", False),
        ("Pets are not allowed.", False),
        ("No passengers missed their flights.", False),
    ],
)
def test_a_refusal_is_no_negated_claim(clause: str, refusal: bool) -> None:
    assert is_refusal(clause) == refusal


def test_only_the_refusal_is_dropped() -> None:
    assert drop_refusals("The text does not mention pets, but dogs pay $25.") == "dogs pay $25."
    assert drop_refusals("Dogs pay $25.") == "Dogs pay $25."
    assert drop_refusals("The text does not mention pets.") == ""


def test_sentences_and_clauses_are_split_where_they_end() -> None:
    text = "Dr. Lee left at 3.20 p.m. on Monday! The fee is 4.5 %.\n\n- first item\n- second item"
    assert split_sentences(text) == ("Dr. Lee left at 3.20 p.m. on Monday!", "The fee is 4.5 %.", "- first item", "- second item")
    assert split_clauses("A rose, while B fell; C and D stayed") == ("A rose", "B fell", "C and D stayed")
