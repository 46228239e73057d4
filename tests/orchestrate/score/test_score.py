"""Each test of the score earns its points from evidence, and none without it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import mlops_assets as ml
from mlops_assets.compute.training.importance import IMPORTANCE
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.score.score_facts import RubricResult, ScoreFacts
from mlops_assets.orchestrate.score.scoring import COMPUTED, ScoreReport, score_model
from mlops_assets.stores.platform.stores import Stores
from mlops_assets.stores.registry.records import LiveEvidence
from mlops_assets.stores.registry.registry import open_registry
from mlops_assets.stores.registry.reproductions import Reproduction, open_reproductions
from mlops_assets.values.platform import Platform
from mlops_assets.values.score.rubric import SECTIONS, TESTS
from tests.conftest import Runner, metadata, open_dagster
from tests.projects import scored, shop

TRAIN = ("dataset/people", "training_set/examples", "model/buys", "version/buys", "champion/buys", "score/buys")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The facts of a trained model, and the metadata of the asset with its score."""
    platform = Platform.at(tmp_path_factory.mktemp("scored") / "home")
    with open_dagster(Path(platform.home) / "dagster") as instance:
        result = Runner(ml.build_definitions(scored.NOUNS, platform=platform), instance)(*TRAIN)
        yield ScoreFacts(Project.from_items(scored.NOUNS), Stores(platform), scored.buys, instance), metadata(result, "score/buys")


@pytest.fixture
def facts(trained):
    return replace(trained[0])  # without what an earlier test has cached


@pytest.fixture
def bare(platform, instance) -> ScoreFacts:
    """The facts of a model that was never trained, in a project that declares nothing else."""
    nouns = [shop.visits, shop.crowds, shop.crowding, shop.examples, shop.buyer]
    return ScoreFacts(Project.from_items(nouns), Stores(platform), shop.buyer, instance)


def examine(facts: ScoreFacts, test: str) -> RubricResult:
    return COMPUTED[test](replace(facts))


def rows(report: ScoreReport) -> dict[str, RubricResult]:
    return {test.name: result for test, result in report.results}


def test_a_project_without_evidence_scores_zero_and_every_next_step_is_named(bare) -> None:
    report = score_model(bare)
    assert len(report.rows) == 28
    assert [report.score, *report.sections.values()] == [0] * 5
    assert all(row["next"] and row["evidence"] and row["points"] == 0 for row in report.rows)
    assert report.level == "a research project rather than a production system"


def test_each_section_has_seven_tests() -> None:
    assert [sum(test.section == section for test in TESTS.values()) for section in SECTIONS] == [7, 7, 7, 7]


@pytest.mark.parametrize("test", sorted(COMPUTED))
def test_no_test_earns_a_point_without_evidence(bare, test) -> None:
    assert examine(bare, test).points == 0


@pytest.mark.parametrize(
    ("test", "points", "named"),
    [
        ("feature_schema", 1, "people: Person; last verified"),
        ("feature_benefit", 1, "permutation importance of 2 columns on roc_auc (buys@1"),
        ("hyperparameters", 1, "of the search was the best"),
        ("simpler_model", 0.5, "baseline (Dummy) 0.5"),
        ("slice_quality", 1, "roc_auc_at_least_every_town passed"),
        ("validation", 1, "latency"),
        ("numerical_stability", 1, "are refused by buys_api"),
        ("computing_performance", 1, "p95"),
    ],
)
def test_what_a_training_shows_earns_points(facts, test, points, named) -> None:
    found = examine(facts, test)
    assert found.points == points
    assert named in found.evidence
    assert bool(found.advice) == (points < 1)


def test_a_model_without_a_search_or_gates_earns_no_point_for_them(facts) -> None:
    plain = replace(facts, model=replace(scored.buys, search=None, gates=()))
    for test in ("hyperparameters", "slice_quality", "validation", "computing_performance"):
        assert examine(plain, test).points == 0


def test_results_of_a_gate_that_has_changed_since_earn_no_point(facts) -> None:
    stricter = (ml.Gate("roc_auc", at_least=0.61), ml.Gate("roc_auc", at_least=0.51, slice="town"), ml.Gate.latency(p95_ms=9_000))
    changed = replace(facts, model=replace(scored.buys, gates=stricter))
    for test in ("slice_quality", "validation", "computing_performance"):
        found = examine(changed, test)
        assert (found.points, found.advice) == (0, "mlops run")


def test_a_column_without_benefit_is_named(facts) -> None:
    runner = Runner(ml.build_definitions(scored.NOUNS, platform=facts.stores.platform), facts.instance)
    runner("training_set/padded", "model/padded_buys", "version/padded_buys", "champion/padded_buys")
    found = examine(replace(facts, model=scored.padded_buys), "feature_benefit")
    assert found.points == 0
    assert "no benefit shown of constant (0 to 0)" in found.evidence
    assert "age" not in found.evidence


def test_a_training_without_importance_or_baseline_earns_no_point(facts) -> None:
    vars(facts)["record"] = {name: value for name, value in facts.record.items() if name not in (IMPORTANCE, "baseline")}
    assert COMPUTED["feature_benefit"](facts).points == COMPUTED["simpler_model"](facts).points == 0


def test_a_dataset_without_a_schema_is_named(bare) -> None:
    found = examine(bare, "feature_schema")
    assert found.evidence.startswith("visits, crowds of 2 datasets")
    assert "@ml.dataset(schema=…) for visits" in found.advice


def test_a_review_is_a_commit_that_a_person_approved(facts) -> None:
    vars(facts)["record"] = {"facts": {"git": {"commit": "0123456789abcdef", "diff": "f00d"}}}
    assert "not committed" in COMPUTED["spec_review"](facts).evidence
    vars(facts)["record"] = {"facts": {"git": {"commit": "0123456789abcdef"}}}
    assert COMPUTED["spec_review"](facts).points == 0
    facts.stores.registry.approve("buys", 1, approved=True, approver="Ada", reason="read")
    found = COMPUTED["spec_review"](facts)
    assert found.points == 1
    assert found.evidence.startswith("commit 0123456789ab; Ada approved version 1 on ")


def write_replay(home: str, name: str, **changes: object) -> None:
    windows = [{"window": "2024-03-01", "roc_auc": 0.7}, {"window": "2024-03-02", "roc_auc": None}]
    result = {"model": "buys", "metric": "roc_auc", "policies": {"never": {"windows": windows}, "every:30d": {"windows": windows}}}
    folder = Path(home) / "replays" / name
    folder.mkdir(parents=True)
    (folder / "replay.json").write_text(json.dumps(result | changes))


def test_a_replay_that_compares_never_retraining_earns_half_a_point(facts) -> None:
    home = facts.stores.platform.home
    write_replay(home, "other", model="another")
    write_replay(home, "alone", policies={"never": {"windows": [{"roc_auc": 0.7}]}})
    (Path(home) / "replays" / "broken").mkdir()
    (Path(home) / "replays" / "broken" / "replay.json").write_text("{")
    assert examine(facts, "staleness").points == 0
    write_replay(home, "spring")
    found = examine(facts, "staleness")
    assert found.points == 0.5
    assert "replay spring of 20" in found.evidence
    assert "never 0.7000, every:30d 0.7000" in found.evidence


@pytest.mark.parametrize(("verdict", "points"), [("IDENTICAL", 0.5), ("DIFFERENT", 0)])
def test_the_last_reproduction_of_the_champion_counts(facts, verdict, points) -> None:
    assert facts.champion is not None
    open_reproductions(facts.stores.platform.registry).add(
        Reproduction(
            "buys", 1, facts.champion.digest, "current", verdict, field="" if points else "predictions", was=None, now=None, facts={}
        )
    )
    found = examine(facts, "reproducibility")
    assert found.points == points
    assert f"buys@1: {verdict} on 20" in found.evidence
    assert ("reproduce_buys_schedule" in found.advice) == (points == 0.5)


def test_a_schedule_that_runs_automates_the_reproduction(facts, monkeypatch) -> None:
    assert facts.champion is not None
    open_reproductions(facts.stores.platform.registry).add(
        Reproduction("buys", 1, facts.champion.digest, "current", "IDENTICAL", field="", was=None, now=None, facts={})
    )
    monkeypatch.setattr(ScoreFacts, "is_on", lambda _facts, name: name == "reproduce_buys_schedule")
    assert examine(facts, "reproducibility").points == 1


def test_a_candidate_of_the_environment_ci_shows_that_the_pipeline_works(facts) -> None:
    assert examine(facts, "pipeline_test").points == 0
    record, evidence = facts.stores.registry.candidate("buys")
    open_registry(facts.stores.platform.registry, "ci").submit(record, evidence)
    found = examine(facts, "pipeline_test")
    assert found.points == 1
    assert record.digest[:12] in found.evidence


def test_the_result_of_a_canary_counts_for_the_champion(facts) -> None:
    assert examine(facts, "canary").points == 0
    vars(facts)["evidence"] = {"canary": LiveEvidence("canary", "a", "b", True, "not worse", 900).evidence}
    assert COMPUTED["canary"](facts).points == 1
    vars(facts)["evidence"] = {"canary": LiveEvidence("canary", "a", "b", False, "worse", 900).evidence}
    assert COMPUTED["canary"](facts).points == 0


def test_declared_tests_count_half_or_full_and_a_missing_file_earns_nothing(facts) -> None:
    found = rows(score_model(facts))
    assert (found["feature_tests"].points, found["data_privacy"].points) == (1, 0.5)
    assert found["data_privacy"].advice == "automate it, then DeclaredTest('data_privacy', how='automated', where=…)"
    assert found["inclusion"] == RubricResult(
        0, "declared, but there is no file no_such_file.md", "correct where= of DeclaredTest('inclusion')"
    )
    assert found["simpler_model"].points == 1  # computed: half a point
    assert found["validation"].points == 1  # declared: half a point
    assert found["validation"].evidence.startswith("roc_auc_at_least")


def test_the_minimum_of_the_sections_is_the_score(facts) -> None:
    results = [
        (test, RubricResult(0.5 if test.section == "model" and test.name == "staleness" else float(test.section != "model"), "", ""))
        for test in TESTS.values()
    ]
    report = ScoreReport("buys", tuple(results))
    assert report.sections == {"data": 7, "model": 0.5, "infrastructure": 7, "monitoring": 7}
    assert report.score == 0.5
    assert report.level == "not untested, but serious gaps in reliability are possible"
    assert replace(report, results=tuple((test, RubricResult(1, "")) for test in TESTS.values())).score == 7


def test_the_asset_shows_score_sections_and_next_steps(trained) -> None:
    shown = trained[1]
    assert shown["score"] == min(shown[section] for section in SECTIONS)
    assert shown["data"] == 3.5
    assert "| feature_benefit |" in shown["tests"]
    assert "mlops replay --from DATE" in shown["tests"]


def test_a_graph_without_a_declared_score_has_no_score(platform) -> None:
    keys = ml.build_definitions(shop.NOUNS, platform=platform).resolve_asset_graph().get_all_asset_keys()
    assert not [key for key in keys if key.path[0] == "score"]


def test_a_score_of_a_model_that_is_not_in_the_project_is_refused(platform) -> None:
    with pytest.raises(DefinitionError, match="'score/buys' refers to the model 'model/buys', which is not in the project"):
        ml.build_definitions([scored.score], platform=platform)


def test_a_damaged_store_costs_the_points_of_its_test_only(facts, monkeypatch) -> None:
    def refuse(_facts: ScoreFacts) -> RubricResult:
        raise DefinitionError("it is damaged", hint="restore it")

    monkeypatch.setitem(COMPUTED, "rollback", refuse)
    found = rows(score_model(facts))
    assert found["rollback"] == RubricResult(0, "cannot be examined: it is damaged", "restore it")
    assert found["feature_schema"].points == 1
