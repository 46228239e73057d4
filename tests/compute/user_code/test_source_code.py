"""The hash of a function changes with the code and the configuration that it uses, and with nothing else."""

import ast
import hashlib
import importlib
import sys
from pathlib import Path
from textwrap import dedent, indent

import pytest

from mlops_assets.compute.user_code.module_values import UnrecordableError, canonicalise_value
from mlops_assets.compute.user_code.source_code import find_unrecorded, source_hash
from mlops_assets.compute.user_code.source_slice import extract_source, load_source
from mlops_assets.errors import DefinitionError


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
        return canonicalise_value(value, "/somewhere/project")

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
            "params, which caches its first result,",
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


WRAPPER = """
    from functools import wraps

    FACTOR = 2

    def scaled(factor):
        def decorate(function):
            @wraps(function)
            def call(*args):
                return factor * FACTOR * function(*args)
            return call
        return decorate
"""
PLAIN_WRAPPER = """
    def scaled(factor):
        def decorate(function):
            def train(x: int = 1):
                return factor * FACTOR * function(x)
            return train
        return decorate

    FACTOR = 2
"""
DECORATED = {
    "a helper": "from wrappers import scaled\n\n@scaled(1)\ndef helper():\n    return 1\n\ndef train():\n    return helper()\n",
    "a helper, by its module": "import wrappers\n\n@wrappers.scaled(1)\ndef helper():\n    return 1\n\ndef train():\n    return helper()\n",
    "the function": "from wrappers import scaled\n\n@scaled(1)\ndef train():\n    return 1\n",
    "a class": "from wrappers import scaled\n\n@scaled(1)\nclass Helper:\n    pass\n\ndef train():\n    return Helper\n",
    "a method": "from wrappers import scaled\n\nclass Helper:\n    @scaled(1)\n    def one(self):\n        return 1\n\ndef train():\n    return Helper().one()\n",
    "a nested function": "from wrappers import scaled\n\ndef build():\n    @scaled(1)\n    def train():\n        return 1\n    return train\n\ntrain = build()\n",
    "a call": "from wrappers import scaled\n\ndef train():\n    return 1\n\ntrain = scaled(1)(train)\n",
}


@pytest.mark.parametrize(
    ("decorated", "wrappers"),
    [*((name, WRAPPER) for name in DECORATED), *((name, PLAIN_WRAPPER) for name in DECORATED if name != "a call")],
)
def test_a_decorator_of_the_project_and_what_it_uses_count(load, decorated, wrappers) -> None:
    work = DECORATED[decorated]
    first = source_hash(load(work=work, wrappers=wrappers))
    assert source_hash(load()) == first
    assert source_hash(load(wrappers=wrappers.replace("FACTOR = 2", "FACTOR = 3"))) != first
    assert source_hash(load(wrappers=wrappers.replace("factor * FACTOR *", "factor + FACTOR *"))) != first
    assert source_hash(load(wrappers=wrappers)) == first
    if decorated != "a call":
        assert source_hash(load(work=work.replace("scaled(1)", "scaled(2)"))) != first
    if "return 1" in work:
        assert source_hash(load(work=work.replace("return 1", "return 5"))) != first


def test_a_decorator_that_is_defined_inside_the_same_function_counts(load) -> None:
    text = "from functools import wraps\n\ndef build():\n    def double(function):\n        @wraps(function)\n        def call():\n            return 2 * function()\n        return call\n    @double\n    def train():\n        return 1\n    return train\n\ntrain = build()\n"
    first, second = source_hash(load(work=text)), source_hash(load(work=text.replace("2 *", "3 *")))
    assert first != second
    with pytest.raises(DefinitionError, match="the decorators of 'train' use 'double', which is defined inside another function"):
        extract_source(load(work=text))


DECLARING = {
    "ml": ("import mlops_assets as ml", "@ml.training_set(label='y', event_timestamp='t', split=ml.TimeSplit(holdout=DAY))"),
    "name": (
        "from mlops_assets import training_set, TimeSplit",
        "@training_set(label='y', event_timestamp='t', split=TimeSplit(holdout=DAY))",
    ),
    "other name": (
        "from mlops_assets import training_set as declare, TimeSplit",
        "@declare(label='y', event_timestamp='t', split=TimeSplit(holdout=DAY))",
    ),
    "package": (
        "import mlops_assets.errors\n",
        "@mlops_assets.training_set(label='y', event_timestamp='t', split=mlops_assets.TimeSplit(holdout=DAY))",
    ),
    "re-exported": (
        "from common import training_set, ml",
        "@training_set(label='y', event_timestamp='t', split=ml.TimeSplit(holdout=DAY))",
    ),
    "assigned": (
        "import mlops_assets as ml\n\nDAY = timedelta(days=1)\ndeclare = ml.training_set(label='y', event_timestamp='t', split=ml.TimeSplit(holdout=DAY))",
        "@declare",
    ),
    "no call": ("from mlops_assets import dataset", "@dataset"),
}


@pytest.mark.parametrize("nested", [False, True], ids=["top level", "nested"])
@pytest.mark.parametrize("declared", DECLARING)
def test_a_decorator_of_the_package_counts_not(load, declared, nested) -> None:
    imports, decorator = DECLARING[declared]
    head = f"from datetime import timedelta\nimport polars as pl\n{imports}\n\nDAY = timedelta(days=1)\nONE = 1\n\n"
    function = "def train() -> pl.DataFrame:\n    return pl.DataFrame({'y': [ONE]})\n"

    def write(decorator: str) -> str:
        code = f"{decorator}\n{function}"
        return head + (f"def build():\n{indent(code, '    ')}    return train\n\ntrain = build()\n" if nested else code)

    common = "import mlops_assets as ml\nfrom mlops_assets import training_set\n"
    bare = load(work=write(""), common=common)
    expected, source = source_hash(bare), extract_source(bare)
    function = load(work=write(decorator)).function.function
    assert source_hash(function) == expected
    assert extract_source(function) == source


def test_a_decorator_of_the_package_that_a_function_assigns_counts_not(load) -> None:
    text = "import polars as pl\nimport mlops_assets as ml\n\ndef build():\n    declare = ml.dataset\n    @declare\n    def train() -> pl.DataFrame:\n        return pl.DataFrame()\n    return train\n\ntrain = build()\n"
    function = load(work=text).function.function
    assert source_hash(function) == source_hash(load(work=text.replace("    @declare\n", "")))


def test_the_hash_of_a_function_without_decorators_is_that_of_its_names(load) -> None:
    text = '''
        ONE = 1

        def helper(x: int) -> int:
            """Add."""
            return x + ONE  # one

        def train():
            return helper(2)
    '''
    parts = []
    for node in ast.parse(dedent(text)).body:
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            parts.append(f"{node.name}={ast.dump(ast.FunctionDef(node.name, node.args, body, [], node.returns))}")
        else:
            parts.append(f"ONE={ast.dump(node)}")
    assert source_hash(load(work=text)) == hashlib.sha256("".join(sorted(parts)).encode()).hexdigest()


RUNNABLE = ["a helper", "a helper, by its module", "the function", "a method", "a nested function"]


@pytest.mark.parametrize("decorated", RUNNABLE)
def test_the_slice_of_a_function_runs_with_its_decorators(load, tmp_path, decorated) -> None:
    function = load(work=DECORATED[decorated], wrappers=WRAPPER)
    digest = source_hash(function)
    stored = extract_source(function)
    for module in ("work", "wrappers"):
        sys.modules.pop(module)
    path = list(sys.path)
    try:
        again = load_source(stored, tmp_path / "stored")
    finally:
        sys.path[:] = path
    assert again() == function() == 2
    assert Path(again.__code__.co_filename).is_relative_to(tmp_path / "stored")
    assert source_hash(again) == digest


@pytest.mark.parametrize(
    "imports",
    [
        "from helpers import OTHER, TIMES",
        "from helpers import OTHER as ONE, TIMES as TIMES",
        "import others, helpers\nTIMES = helpers.TIMES",
    ],
)
def test_the_slice_of_a_function_imports_only_the_names_that_it_needs(load, tmp_path, imports) -> None:
    function = load(helpers="TIMES = 2\nOTHER = 3", others="", work=f"{imports}\ndef train():\n    return TIMES")
    digest, stored = source_hash(function), extract_source(function)
    for module in ("work", "helpers", "others"):
        sys.modules.pop(module, None)
    path = list(sys.path)
    sys.path[:] = [folder for folder in path if not (Path(folder) / "work.py").exists()]
    try:
        again = load_source(stored, tmp_path / "stored")
    finally:
        sys.path[:] = path
    assert again() == 2
    assert source_hash(again) == digest


def test_the_slice_of_a_function_keeps_the_imports_of_installed_packages_whole(load) -> None:
    """A quoted annotation may name what no code uses."""
    text = """
        from __future__ import annotations
        from fractions import Decimal, Fraction

        def train() -> "Decimal":
            return Fraction(2)
    """
    (sliced,) = extract_source(load(work=text))["modules"].values()
    assert "from fractions import Decimal, Fraction" in sliced


def test_the_slice_of_a_function_keeps_the_order_of_its_decorators_without_the_declaration(load) -> None:
    text = """
        from functools import wraps
        import polars as pl
        from mlops_assets import dataset

        def add(n):
            def decorate(function):
                @wraps(function)
                def call():
                    return function().with_columns(pl.col("x") + n)
                return call
            return decorate

        def double(function):
            @wraps(function)
            def call():
                return function().with_columns(pl.col("x") * 2)
            return call

        @dataset
        @add(
            1,
        )
        @double
        def train() -> pl.DataFrame:
            return pl.DataFrame({"x": [1]})
    """
    (sliced,) = extract_source(load(work=text).function.function)["modules"].values()
    assert "@add(1)\n@double\ndef train()" in sliced
    assert "mlops_assets" not in sliced


def test_a_stored_function_that_the_projects_decorator_declares_is_loaded_without_its_declaration(load, tmp_path) -> None:
    text = """
        import polars as pl
        import mlops_assets as ml

        def declare(function):
            return ml.dataset(function)

        @declare
        def train() -> pl.DataFrame:
            return pl.DataFrame({"x": [1]})
    """
    function = load(work=text).function.function
    stored = extract_source(function)
    sys.modules.pop("work")
    path = list(sys.path)
    try:
        again = load_source(stored, tmp_path / "stored")
    finally:
        sys.path[:] = path
    assert source_hash(again) == source_hash(function)


def test_the_slice_of_a_function_that_a_call_wraps_is_refused(load) -> None:
    with pytest.raises(DefinitionError, match="'train' is wrapped by a function that is not among its decorators"):
        extract_source(load(work=DECORATED["a call"], wrappers=WRAPPER))


def test_an_installed_package_whose_submodule_a_function_imports_is_not_imported(load, tmp_path, monkeypatch) -> None:
    installed = tmp_path / "site-packages" / "heavy"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("raise RuntimeError('it takes a second')")
    (installed / "part.py").write_text("VALUE = 1")
    monkeypatch.syspath_prepend(str(installed.parent))
    function = load(work="def train():\n    from heavy.part import VALUE\n    return VALUE")
    before = source_hash(function)
    (installed / "part.py").write_text("VALUE = 2")
    assert source_hash(function) == before, "installed packages are recorded by their version"


def test_a_package_of_the_project_on_the_path_of_modules_is_followed(load, tmp_path, monkeypatch) -> None:
    shared = tmp_path / "libraries" / "shared"
    shared.mkdir(parents=True)
    (shared / "__init__.py").write_text("")
    (shared / "part.py").write_text("def value():\n    return 1")
    monkeypatch.syspath_prepend(str(shared.parent))
    text = "def train():\n    from shared.part import value\n    return value()"
    before = source_hash(load(work=text))
    (shared / "part.py").write_text("def value():\n    return 2")
    assert source_hash(load(work=text)) != before
