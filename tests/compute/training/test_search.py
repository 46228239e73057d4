"""Which values a search tries next is a function of the search and of what was reached before: resumed, it goes on as if never stopped."""

import io
import json
import math

import pytest
from matplotlib.image import imread

import mlops_assets as ml
from mlops_assets.compute.pages.search_plot import plot_search
from mlops_assets.compute.training.search import Trial, best_trial, run_trials, should_prune
from mlops_assets.errors import DataError, DefinitionError

SPACE = {
    "x": ml.types.SearchRange(-5.0, 5.0),
    "n": ml.types.SearchRange(1, 64, log=True),
    "s": ml.types.SearchRange(0.0, 1.0, step=0.25),
    "kind": ("a", None, (1, 2)),
}


def one_by_one(search: ml.Search, tried) -> list[Trial]:
    """Run a search whose trials are functions of number, values, and the trials before."""
    return run_trials(search, lambda asked, before: [tried(trial.number, trial.params, before) for trial in asked])


def valley(number: int, params, _before=()) -> Trial:
    value = -((params["x"] - 2) ** 2) - abs(math.log2(params["n"]) - 3) - (params["kind"] is not None)
    return Trial(number, params, value)


@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_killed_search_continues_with_the_same_result(sampler, processes) -> None:
    search = ml.Search(SPACE, trials=25, sampler=sampler, seed=3, processes=processes)
    whole = one_by_one(search, valley)
    for stopped in (1, 7, 24):
        known, made = {trial.number: trial for trial in whole[:stopped]}, []

        def tried(number, params, before, known=known, made=made):
            if number in known:
                assert known[number].params == params
                return known[number]
            made.append(number)
            return valley(number, params)

        assert one_by_one(search, tried) == whole
        assert made == list(range(stopped, 25))
    assert one_by_one(ml.Search(SPACE, trials=25, sampler=sampler, seed=4), valley) != whole


def test_a_round_has_as_many_trials_as_processes_and_learns_from_the_rounds_before() -> None:
    seen = []

    def tried(asked, before):
        seen.append((len(asked), len(before)))
        return [valley(trial.number, trial.params) for trial in asked]

    for sampler in ("tpe", "grid"):
        space = SPACE if sampler == "tpe" else {"x": ml.types.SearchRange(0, 9), "n": (4,), "kind": (None,)}
        assert len(run_trials(ml.Search(space, trials=10, sampler=sampler, processes=4), tried)) == 10
    assert seen == [(4, 0), (4, 4), (2, 8)] * 2
    same = [one_by_one(ml.Search(SPACE, trials=12, sampler="random", processes=n), valley) for n in (1, 3, 12)]
    assert same[0] == same[1] == same[2], "what does not learn is the same however many run at once"


def test_every_value_lies_in_its_range_and_all_choices_are_tried() -> None:
    found = one_by_one(ml.Search(SPACE, trials=60, sampler="random"), valley)
    assert all(-5 <= t.params["x"] <= 5 and t.params["s"] in (0, 0.25, 0.5, 0.75, 1) for t in found)
    assert all(isinstance(t.params["n"], int) and 1 <= t.params["n"] <= 64 for t in found)
    assert {t.params["kind"] for t in found} == {"a", None, (1, 2)}


def test_tpe_learns() -> None:
    wins = 0
    for seed in range(5):
        reached = {
            s: best_trial(one_by_one(ml.Search(SPACE, trials=60, sampler=s, seed=seed), valley), "m").value for s in ("tpe", "random")
        }
        wins += reached["tpe"] > reached["random"]
    assert wins >= 4


def test_a_grid_is_every_combination_in_order() -> None:
    search = ml.Search({"b": ml.types.SearchRange(1, 5, step=2), "a": ("x", "y")}, trials=100, sampler="grid")
    found = one_by_one(search, lambda number, params, _: Trial(number, params, 0.0))
    assert [tuple(t.params.values()) for t in found] == [("x", 1), ("x", 3), ("x", 5), ("y", 1), ("y", 3), ("y", 5)]
    assert best_trial(found, "m").number == 0


def test_failed_trials_and_undefined_values_never_win() -> None:
    search = ml.Search({"x": ml.types.SearchRange(0.0, 1.0)}, trials=12)
    values = [None, math.nan, 0.3, math.inf, 0.5, None, 0.5, 0.1, 0.2, math.nan, None, 0.4]
    found = one_by_one(search, lambda number, params, _: Trial(number, params, values[number]))
    assert best_trial(found, "m").number == 4
    with pytest.raises(DataError, match="none of the 2 trials of 'm' reached a value"):
        best_trial(found[:2], "'m'")


def test_a_trial_falls_behind_below_the_median_of_earlier_ones() -> None:
    before = [Trial(n, {}, 1.0, {0: float(n)}) for n in range(5)]
    assert not should_prune(0, 2.0, before)
    assert should_prune(0, 1.99, before)
    assert should_prune(0, math.nan, before)
    assert not should_prune(0, -9.0, before[:4]), "a median of four says nothing"
    assert not should_prune(1, -9.0, before), "nobody was measured there"
    assert not should_prune(0, -9.0, [Trial(n, {}, None, {0: 1.0}) for n in range(9)]), "pruned ones do not count"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: ml.Search({}), "needs a space"),
        (lambda: ml.Search({"x": ()}), "'x' has no value"),
        (lambda: ml.Search({"x": (1,)}, trials=0), "at least one trial"),
        (lambda: ml.Search({"x": (1,)}, sampler="tpo"), "did you mean 'tpe'"),
        (lambda: ml.Search({"x": ml.types.SearchRange(0.0, 1.0)}, sampler="grid"), "the grid over 'x' has infinitely many values"),
        (lambda: ml.types.SearchRange(2, 1), "is empty"),
        (lambda: ml.types.SearchRange(0, 1, log=True), "cannot be logarithmic"),
        (lambda: ml.types.SearchRange(0, 1, step=-1), "has the step -1"),
        (lambda: ml.types.SearchRange(math.nan, 1), "is empty"),
    ],
)
def test_what_is_no_search_is_refused(make, why) -> None:
    with pytest.raises(DefinitionError, match=why):
        make()


def test_a_picture_shows_the_trials_that_reached_a_value() -> None:
    search = ml.Search(SPACE, trials=20, sampler="random")
    found = one_by_one(search, valley)
    stored = [Trial(t.number, json.loads(json.dumps(t.params)), None if t.number == 3 else t.value) for t in found]
    drawn = plot_search(search, stored, "a $metric$ with a name that does not end")
    assert imread(io.BytesIO(drawn)).std() > 0
    assert drawn == plot_search(search, [t for t in found if t.number != 3], "a $metric$ with a name that does not end")
    assert plot_search(search, stored[3:4], "m")
