"""Every engine of the point-in-time join against the definition, on more than a million random rows; and mutants that it must catch."""

import sys
import types
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_assets.compute.features import layout, point_in_time
from tests.compute.features.worlds import FEATURES, START, agrees, expected, world

ROWS, SPINE = 45, 2_600
WORLDS = 200  # of 2,600 rows, both semantics: more than a million


def view_of(module, made):
    return module.ViewRows("v", made.rows, made.keys, "event", made.created, made.ttl, FEATURES)


def in_memory(module, made, *, as_known, known_by=None):
    return module.point_in_time_join(made.spine, [view_of(module, made)], event_timestamp="t", as_known=as_known, known_by=known_by)


def in_buckets(module, made, *, as_known, known_by=None):
    spread = module.build_layout(view_of(module, made), as_known=as_known, buckets=7)
    return module.point_in_time_join(made.spine, [spread], event_timestamp="t", as_known=as_known, known_by=known_by)


ENGINES = [in_memory, in_buckets]


def disagreements(module, engine, *, worlds: int, seed: int) -> int:
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(worlds):
        made = world(rng, rows=int(rng.integers(0, ROWS)), spine=SPINE)
        for as_known in (True, False):
            wrong += not agrees(engine(module, made, as_known=as_known), made, expected(made, as_known=as_known))
    return wrong


@pytest.mark.parametrize("engine", ENGINES)
def test_a_million_rows_find_what_the_definition_says(engine) -> None:
    assert disagreements(point_in_time, engine, worlds=WORLDS, seed=8) == 0


def test_what_was_known_by_a_day() -> None:
    rng = np.random.default_rng(9)
    for _ in range(40):
        made = world(rng, rows=30, spine=500)
        limit = int(rng.integers(0, 30))
        known = datetime.fromtimestamp(START / 1e6 + limit, tz=UTC)
        assert agrees(in_memory(point_in_time, made, as_known=True, known_by=known), made, expected(made, as_known=True, known_by=limit))


MUTANTS = {
    "at or before becomes before": ("layout", "<= at\n", "< at\n"),
    "ttl exclusive": ("layout", "alive &= at <= rows.event", "alive &= at < rows.event"),
    "ttl ignored": ("layout", "if layout.ttl is not None:", "if False:"),
    "tie reversed": (
        "point_in_time",
        ".sort(*keys, VALID, EVENT, CREATED)",
        ".sort(*keys, VALID, EVENT, CREATED, descending=[*[False] * len(keys), False, False, True])",
    ),
    "created ignored": ("point_in_time", "pl.max_horizontal(EVENT, CREATED) if as_known else pl.col(EVENT)", "pl.col(EVENT)"),
    "late row dropped": ("point_in_time", ".drop_nulls([*keys, EVENT, CREATED])", ".drop_nulls().filter(pl.col(EVENT) >= pl.col(CREATED))"),
    "hidden row kept": ("point_in_time", ".filter(pl.col(EVENT) >= pl.col(EVENT).cum_max().over(keys))", ""),
    "spine row lost": (
        "point_in_time",
        "spine.hstack(look_up(layouts, groups, times, limit))",
        'spine.hstack(look_up(layouts, groups, times, limit)).drop_nulls("value")',
    ),
}


def mutated(name: str, monkeypatch) -> types.ModuleType:
    """Return the join with one mutation, in modules of their own."""
    where, before, after = MUTANTS[name]
    sources = {"layout": Path(layout.__file__).read_text(), "point_in_time": Path(point_in_time.__file__).read_text()}
    assert sources[where].count(before) == 1, f"the mutation of {before!r} no longer applies"
    sources[where] = sources[where].replace(before, after)
    sources["point_in_time"] = sources["point_in_time"].replace(
        "from mlops_assets.compute.features.layout import", "from mutant_layout import"
    )
    modules = {}
    for module, source in sources.items():
        modules[module] = types.ModuleType(f"mutant_{module}")
        monkeypatch.setitem(sys.modules, f"mutant_{module}", modules[module])
        exec(compile(source, f"mutant_{module}", "exec"), modules[module].__dict__)
    return modules["point_in_time"]


@pytest.mark.parametrize("name", MUTANTS)
def test_the_definition_catches_mutants(name, monkeypatch) -> None:
    mutant = mutated(name, monkeypatch)
    with np.errstate(all="ignore"):
        assert disagreements(mutant, in_memory, worlds=12, seed=8) > 0


def test_the_harness_itself_accepts_the_join_as_it_is(monkeypatch) -> None:
    MUTANTS["none"] = ("layout", "<= at\n", "<= at\n")
    try:
        assert disagreements(mutated("none", monkeypatch), in_memory, worlds=12, seed=8) == 0
    finally:
        del MUTANTS["none"]


@given(lengths=st.lists(st.integers(0, 300), min_size=1, max_size=12), seed=st.integers(0, 2**16))
def test_the_search_of_many_rows_finds_what_numpy_finds(lengths, seed) -> None:
    rng = np.random.default_rng(seed)
    values = [np.sort(rng.integers(0, 200, length)) for length in lengths]
    asked = rng.integers(0, len(lengths), 200)
    at = rng.integers(-1, 202, 200)
    ends = np.cumsum(lengths)
    found = layout._count_not_after(np.append(np.concatenate(values), 0), (ends - lengths)[asked], np.array(lengths)[asked], at)
    assert found.tolist() == [np.searchsorted(values[which], t, side="right") for which, t in zip(asked, at, strict=True)]
