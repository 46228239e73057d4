"""The hash of a function changes with the code and the configuration that it uses, and with nothing else."""

import importlib
import sys
from textwrap import dedent

import pytest

from mlops_assets.compute.user_code.module_values import UnrecordableError, describe_value
from mlops_assets.compute.user_code.source_code import find_unrecorded, source_hash
from mlops_assets.compute.user_code.source_slice import extract_source


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Write files of a project and import its module `work` as a new process would; return its function `train`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def write(**files: str):
        for name, text in files.items():
            place = tmp_path / name.replace("__", "/")
            file = place.with_suffix(".json") if name.endswith("_json") else place.with_suffix(".py")
            file.parent.mkdir(exist_ok=True)
            file.write_text(dedent(text))
        for path in tmp_path.rglob("*.py"):
            sys.modules.pop(".".join(path.relative_to(tmp_path).with_suffix("").parts).removesuffix(".__init__"), None)
        importlib.invalidate_caches()
        sys.dont_write_bytecode = True
        return importlib.import_module("work").train

    before = set(sys.modules)
    yield write
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


READ = "import json\nfrom pathlib import Path\n\nPARAMS = json.loads(Path('params_json.json').read_text())\n"
BLOCK = "import json\n\nwith open('params_json.json') as file:\n    PARAMS = json.load(file)\n"
TRIED = "import json\nfrom pathlib import Path\n\ntry:\n    PARAMS = json.loads(Path('params_json.json').read_text())\nexcept OSError:\n    PARAMS = {}\n"
USE = "\n\ndef train():\n    return PARAMS['depth']\n"


@pytest.mark.parametrize("reads", [READ, BLOCK, TRIED], ids=["statement", "with", "try"])
def test_a_value_that_a_module_reads_counts(load, reads) -> None:
    first = source_hash(load(work=reads + USE, params_json='{"depth": 3}'))
    assert source_hash(load(params_json='{"depth":3 }')) == first
    assert source_hash(load(params_json='{"depth": 4}')) != first


def test_an_environment_variable_of_the_top_level_counts(load, monkeypatch) -> None:
    text = "import os\n\nDEPTH = int(os.environ['WORK_DEPTH'])\n\n\ndef train():\n    return DEPTH\n"
    monkeypatch.setenv("WORK_DEPTH", "3")
    first = source_hash(load(work=text))
    monkeypatch.setenv("WORK_DEPTH", "4")
    assert source_hash(load()) != first


@pytest.mark.parametrize(
    "text",
    [
        "from settings import PARAMS" + USE,
        "from settings import *" + USE,
        "import settings\n\n\ndef train():\n    return settings.PARAMS['depth']\n",
        "import settings as conf\n\n\ndef depth():\n    return conf.PARAMS['depth']\n\n\ndef train():\n    return depth()\n",
        "def train():\n    from settings import PARAMS\n    return PARAMS['depth']\n\n\nimport settings\n",
        "from helpers import depth\n\n\ndef train():\n    return depth()\n",
    ],
    ids=["name", "star", "module", "helper", "inner", "two files"],
)
def test_values_of_other_modules_count(load, text) -> None:
    helpers = "from settings import PARAMS\n\n\ndef depth():\n    return PARAMS['depth']\n"
    first = source_hash(load(work=text, settings=READ, helpers=helpers, params_json='{"depth": 3}'))
    assert source_hash(load()) == first
    assert source_hash(load(params_json='{"depth": 4}')) != first


def test_a_value_that_is_not_used_and_a_container_that_a_program_fills_count_not(load) -> None:
    text = "import time\n\nSTARTED = time.time_ns()\nSEEN = {}\nKNOWN = set()\n\n\ndef train():\n    SEEN[1] = KNOWN.add(2)\n"
    train = load(work=text)
    first = source_hash(train)
    train()
    assert source_hash(train) == first == source_hash(load())


def test_the_folder_of_the_project_counts_not(load, tmp_path) -> None:
    text = "from pathlib import Path\n\nHERE = Path(__file__).parent\nDATA = HERE / 'data'\nROOT = Path(__file__).parents[1]\n\n\ndef train():\n    return DATA, ROOT, str(HERE)\n"
    first = source_hash(load(work=text))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "work.py").rename(elsewhere / "work.py")
    sys.modules.pop("work")
    sys.path.insert(0, str(elsewhere))
    try:
        assert source_hash(importlib.import_module("work").train) == first
    finally:
        sys.path.remove(str(elsewhere))


def test_what_cannot_be_recorded_is_named(load) -> None:
    text = """
        import logging
        import random
        import polars as pl

        LOG = logging.getLogger("x")
        DRAWS = random.Random(3)
        RATES = [float(i) for i in range(3)]


        def train():
            LOG.info(RATES)
            return DRAWS.random(), pl.read_csv("rates.csv")
    """
    assert find_unrecorded(load(work=text)) == ["work.py:DRAWS (Random)", "the files that polars.read_csv reads"]


def test_values_are_described_by_what_they_are() -> None:
    import numpy as np
    import pandas as pd
    import polars as pl
    from sklearn.linear_model import Ridge

    def text(value: object) -> str:
        return describe_value(value, "/somewhere/project")

    pairs = [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"x", "y", "z"}, {"z", "y", "x"}),
        (np.arange(3), np.array([0, 1, 2])),
        (pl.DataFrame({"a": [1]}), pl.DataFrame({"a": [1]})),
        (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [1]})),
        (Ridge(alpha=2), Ridge(alpha=2)),
    ]
    assert all(text(one) == text(other) != "" for one, other in pairs)
    others = [{"a": 1, "b": 3}, {"x"}, np.arange(4), pl.DataFrame({"a": [2]}), pd.DataFrame({"a": [2]}), Ridge(alpha=3)]
    assert all(text(one) != text(other) for (one, _), other in zip(pairs, others, strict=True))
    assert text(1) != text(1.0) != text(True) != text("1")
    with pytest.raises(UnrecordableError):
        text(object())
    endless: list = []
    endless.append(endless)
    with pytest.raises(UnrecordableError):
        text(endless)
    with pytest.raises(UnrecordableError):
        text(Ridge().fit([[1], [2]], [1, 2]))


KEPT = {
    "a class attribute": "class C:\n    K = json.loads(TEXT)\n\ndef train():\n    return C.K\n",
    "a computed default": "def scaled(x, k=json.loads(TEXT)):\n    return x * k\n\ndef train():\n    return scaled(1)\n",
    "a computed default by keyword": "def scaled(x, *, k=json.loads(TEXT)):\n    return x * k\n\ndef train():\n    return scaled(1)\n",
    "an attribute of a function": "def factor():\n    return factor.k\n\nfactor.k = json.loads(TEXT)\n\ndef train():\n    return factor()\n",
    "an object with slots": "class Slot:\n    __slots__ = ('k',)\n\nSLOT = Slot()\nSLOT.k = json.loads(TEXT)\n\ndef train():\n    return SLOT.k\n",
    "an object with one slot": "class Slot:\n    __slots__ = 'k'\n\nSLOT = Slot()\nSLOT.k = json.loads(TEXT)\n\ndef train():\n    return SLOT.k\n",
}


@pytest.mark.parametrize("kept", KEPT)
def test_what_classes_functions_and_objects_keep_counts(load, kept) -> None:
    head = "import json\nfrom pathlib import Path\n\n"
    work = head + KEPT[kept].replace("json.loads(TEXT)", "json.loads(Path('params_json.json').read_text())")
    one, same, two = (source_hash(load(work=work, params_json=text)) for text in ("1", "1", "2"))
    assert one == same != two
    assert find_unrecorded(load(work=work, params_json="1")) == []


@pytest.mark.parametrize(
    ("work", "named"),
    [
        (
            "@functools.cache\ndef params():\n    return json.loads(Path('a.json').read_text())\n\ndef train():\n    return params()\n",
            "params, which keeps its first result,",
        ),
        ("def train():\n    return duckdb.sql(\"select a from 'a.csv'\")\n", "duckdb.sql"),
        ("def train(cursor):\n    return cursor.execute('select * from read_parquet(?)')\n", "cursor.execute"),
        ("def train(here):\n    return pl.read_csv(here / 'a.csv')\n", "polars.read_csv"),
        ("@functools.cache\ndef square(x):\n    return x * x\n\ndef train():\n    return duckdb.sql('select 1 + 1'), square(2)\n", ""),
    ],
)
def test_reads_that_no_record_can_hold_are_named(load, work, named) -> None:
    head = "import functools\nimport json\nfrom pathlib import Path\n\nimport duckdb\nimport polars as pl\n\n"
    assert find_unrecorded(load(work=head + work)) == ([f"the files that {named} reads"] if named else [])


def test_the_slice_of_a_function_holds_whole_statements(load) -> None:
    text = """
    NOTE = "a\x0cb\u2028c"
    ONE = 1; TWO = "é"; THREE = ONE

    def plain(function):
        return function

    @plain
    def helper():
        return NOTE + TWO + str(THREE)

    def train():
        return helper()
    """
    function = load(work=dedent(text))
    (sliced,) = extract_source(function)["modules"].values()
    names: dict[str, object] = {}
    exec(sliced, names)
    assert names["train"]() == function() == "a\x0cb\u2028cé1"
