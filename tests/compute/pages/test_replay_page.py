"""The page of a replay says which policy to use and why, with the line for the project, and needs no script."""

from dataclasses import replace

import numpy as np

from mlops_assets.compute.pages.replay_page import render_replay
from mlops_assets.compute.replay.advice import advise
from tests.compute.replay.test_comparison import policy, result

LINE = "ml.Retrain(every=timedelta(days=7))"


def test_a_page_says_which_policy_to_use_and_prints_its_declaration() -> None:
    compared = result(policy("never", np.linspace(0.6, 0.62, 30)), policy("weekly", np.linspace(0.7, 0.73, 30), trainings=4))
    replayed = replace(compared, declarations={"weekly": LINE}, notes=("A note on gates.",))

    page = render_replay(replayed)

    advice = advise(replayed)
    for text in (advice.headline, advice.text, f"on_failure={LINE}", "weekly is better than never", "A note on gates."):
        assert text in page
    assert (advice.policy, 'class="state good"' in page, "<script" in page) == ("weekly", True, False)


def test_a_page_without_a_shown_gain_is_marked_as_unsure() -> None:
    values = 0.7 + np.random.default_rng(0).normal(0, 0.02, (2, 30))

    page = render_replay(result(policy("never", values[0]), policy("weekly", values[1], trainings=4)))

    assert 'class="state unsure"' in page
    assert "on_failure=" not in page
