"""A calibration as an asset: a judge gates only with a calibration of its version that is up to date and passes."""

from dataclasses import dataclass

import dagster as dg
import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.compiler.build import compiled_projects
from mlops_assets.orchestrate.core.step_context import StepContext
from mlops_assets.orchestrate.llm.calibration_results import check_calibration
from mlops_assets.orchestrate.tables.automation import find_stale
from mlops_assets.stores.platform.stores import open_stores
from mlops_assets.values.evaluation import GateResult
from tests.conftest import metadata
from tests.orchestrate.llm.judged import CALIBRATION, declare_calibration, declare_judge, declare_judged, judge_well, label_answers
from tests.orchestrate.llm.replies import TABLE
from tests.orchestrate.llm.test_judges import JUDGE_FAULTS
from tests.serving.llm.scripted_server import ScriptedServer, answer

YES = answer("verdict: supported")


def find(platform, judge: ml.llm.Judge) -> GateResult:
    """Ask for the calibration of a judge as a step of the last compiled project does."""
    project = compiled_projects()[-1].project
    node = project.node(project.select(ml.llm.Calibration)[0]) if project.select(ml.llm.Calibration) else project.node(project.datasets[0])
    step = StepContext(dg.build_asset_context(), project, open_stores(platform), node, {})
    with step.leases:
        return check_calibration(step, judge)


def may_gate(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    return next(found for found in result.get_asset_check_evaluations() if found.check_name == "may_gate")


def test_a_judge_that_agrees_with_people_may_gate(platform, run) -> None:
    with ScriptedServer(default=judge_well()) as server:
        judge = declare_judge(server.url, repeats=2)
        items = declare_calibration(judge)
        run(ml.build_definitions(items, platform=platform))("dataset/labelled_answers")
        assert find(platform, judge).reason == "'calibration/support_calibration' has not been materialised"
        result = run(ml.build_definitions(items, platform=platform))()
        assert len(server.requests) == 80
    assert may_gate(result).passed
    facts = metadata(result, CALIBRATION)
    assert (facts["kappa"], facts["flip rate"], facts["may gate"], facts["labels"]) == (1.0, 0.0, True, "supported 20, unsupported 20")
    judged, constant = (record.data for record in facts["agreement"].records)
    assert judged["kappa (95 % CI)"] == "1.000 (0.825 to 1.000)"
    assert judged["true-positive rate (95 % CI)"] == "1.000 (0.839 to 1.000, 20 of 20)"
    assert (constant["predictor"], constant["agreement (95 % CI)"][:5]) == ("constant", "0.500")
    assert facts["summary"].startswith(
        "40 cases; the judge 'support' may decide gates: kappa 1.00 (95 % CI 0.82 to 1.00): its lower end reaches 0.6"
    )
    rows = open_stores(platform).lake.read(CALIBRATION)
    assert rows.columns == ["case", "label", "verdict", "agrees", "repeats", "flip_rate", "error", "judge_version"]
    assert rows["agrees"].all()
    found = find(platform, judge)
    assert (found.passed, found.value, found.threshold) == (True, 1.0, 0.6)


def test_a_constant_judge_may_report_but_not_gate(platform, run) -> None:
    with ScriptedServer(default=YES) as server:
        judge = declare_judge(server.url, repeats=1)
        result = run(ml.build_definitions(declare_calibration(judge), platform=platform))()
    check = may_gate(result)
    assert (check.passed, check.severity, check.blocking) == (False, dg.AssetCheckSeverity.WARN, False)
    assert "judge 'support' is not reliable enough to decide a gate: kappa 0.00 (95 % CI -0.30 to 0.30)" in check.description
    found = find(platform, judge)
    assert not found.passed
    assert found.reason.endswith("the judge agrees on 50 % of cases, a constant one on 50 %")


def test_a_judge_without_a_calibration_of_its_version_cannot_gate(platform, run) -> None:
    with ScriptedServer(default=judge_well()) as server:
        judge = declare_judge(server.url, repeats=1)
        run(ml.build_definitions(declare_calibration(judge), platform=platform))()
        same, moved = declare_judge(server.url, repeats=1), declare_judge("http://127.0.0.1:9/v1", repeats=1)
        others = [
            declare_judge(server.url, repeats=2),
            declare_judge(server.url, repeats=1, rubric="Another rubric."),
            declare_judge(server.url, repeats=1, temperature=1.0),
        ]
    assert [find(platform, one).passed for one in (same, moved)] == [True, True], "the endpoint's address is no part of the version"
    assert {find(platform, other).reason for other in others} == {"the project has no calibration of this version of the judge"}


def test_a_calibration_is_out_of_date_when_labels_or_judge_change(platform, run) -> None:
    with ScriptedServer(default=judge_well()) as server:
        judge = declare_judge(server.url, repeats=1)
        run(ml.build_definitions(declare_calibration(judge), platform=platform))()
        labels = label_answers() | {"human_verdict": label_answers()["human_verdict"][::-1]}
        relabelled = ml.build_definitions(declare_calibration(judge, labels), platform=platform)
        run(relabelled)("dataset/labelled_answers")
        stale = find(platform, judge)
        run(relabelled)(CALIBRATION)
        assert len(server.requests) == 40, "new labels cost no verdict"
        wrong = find(platform, judge)
        reworded = declare_judge(server.url, repeats=1, rubric="Another rubric.")
        ml.build_definitions(declare_calibration(reworded, labels), platform=platform)
        other = find(platform, reworded)
    assert (stale.passed, stale.reason[:47]) == (False, "'calibration/support_calibration' is out of dat")
    assert (wrong.passed, wrong.value) == (False, -1.0)
    assert (other.passed, other.reason) == (False, stale.reason)


@pytest.mark.parametrize("fault", ["500", "not UTF-8", "no verdict"])
def test_a_judge_that_fails_too_often_cannot_gate(fault, platform, run) -> None:
    step, _ = JUDGE_FAULTS[fault]
    with ScriptedServer(*[step] * 3, default=judge_well()) as server:
        judge = declare_judge(server.url, repeats=1)
        result = run(ml.build_definitions(declare_calibration(judge), platform=platform))()
        assert "3 of 40 calls gave no verdict; at most 5 % may give none" in may_gate(result).description
        assert not find(platform, judge).passed
        rows = open_stores(platform).lake.read(CALIBRATION).sort("case")
        assert rows["agrees"].to_list().count(False) == rows["error"].count() == 3
        again = run(ml.build_definitions(declare_calibration(judge), platform=platform))(CALIBRATION)
        assert len(server.requests) == (40 if fault == "no verdict" else 43), "a reply is paid and stored, also one without a verdict"
    assert may_gate(again).passed == (fault != "no verdict")


def test_every_calibration_of_a_judge_must_pass(platform, run) -> None:
    with ScriptedServer(default=judge_well()) as server:
        judge = declare_judge(server.url, repeats=1)
        labelled, calibration = declare_calibration(judge)
        strict = ml.llm.Calibration("strict", judge=judge, cases=labelled, label="human_verdict", min_kappa=0.9)
        run(ml.build_definitions([labelled, calibration, strict], platform=platform))()
    found = find(platform, judge)
    assert (found.passed, found.threshold) == (False, 0.9)


BAD_LABELS = {
    "unknown label": (
        {"human_verdict": ["good"] * 40},
        "case 'label 0' has the label 'good' in column 'human_verdict', which is not a verdict of the judge",
    ),
    "null label": ({"human_verdict": [None, *["supported"] * 39]}, "column 'human_verdict' of case 'label 0' is null"),
    "null answer": ({"answer": ["x", None, *["x"] * 38]}, "column 'answer' of case 'label 1' is null"),
    "number": ({"answer": list(range(40))}, "column 'answer' of 'dataset/labelled_answers' is Int64, not text"),
    "no context": ({"context": None}, "needs the column 'context' for the judge 'support', which 'dataset/labelled_answers' lacks"),
    "empty": ({name: [] for name in label_answers()}, "'dataset/labelled_answers' has no row"),
}


@pytest.mark.parametrize("name", BAD_LABELS)
def test_wrong_labels_are_refused_before_the_first_request(name, platform, run) -> None:
    change, problem = BAD_LABELS[name]
    rows = {column: values for column, values in (label_answers() | change).items() if values is not None}
    with ScriptedServer() as server:
        message = run(ml.build_definitions(declare_calibration(declare_judge(server.url), rows), platform=platform)).error()
        assert server.requests == []
    assert problem in message


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"min_kappa": 0.0}, ": min_kappa=0.0 is invalid"),
        ({"min_kappa": float("nan")}, ": min_kappa=nan is invalid"),
        ({"positive": "good"}, ": positive='good' is invalid"),
    ],
)
def test_a_calibration_that_cannot_decide_is_refused(arguments, problem) -> None:
    with pytest.raises(DefinitionError, match=problem):
        declare_calibration(declare_judge("http://127.0.0.1:9/v1"), **arguments)


def test_a_declared_schema_and_a_missing_dataset_are_found_when_the_project_is_built(platform) -> None:
    import pandera.polars as pa

    class Labels(pa.DataFrameModel):
        case: str
        human_verdict: str
        context: str

    def return_labels() -> pl.DataFrame:
        return pl.DataFrame()

    judge = declare_judge("http://127.0.0.1:9/v1")
    labelled = ml.dataset(key="case", schema=Labels)(return_labels)
    calibration = ml.llm.Calibration("support", judge=judge, cases=labelled, label="human_verdict")
    with pytest.raises(DefinitionError, match="needs the column 'answer' for answer="):
        ml.build_definitions([labelled, calibration], platform=platform)
    with pytest.raises(DefinitionError, match="refers to the dataset 'dataset/labelled_answers', which is not in the project"):
        ml.build_definitions(declare_calibration(judge)[1:], platform=platform)


def test_an_evaluation_follows_the_calibration_of_its_judge(platform, run) -> None:
    with ScriptedServer() as server, ScriptedServer(default=judge_well()) as judging:
        items = declare_judged(server.url, judging.url, repeats=1)
        (judge,) = items[-1].judges
        definitions = ml.build_definitions([*items, *declare_calibration(judge)], platform=platform)
        specs = {spec.key.path[-1]: spec for spec in definitions.resolve_all_asset_specs()}
        assert {dep.asset_key.to_user_string() for dep in specs["replies_evaluation"].deps} == {
            "prompt/reply_prompt",
            "dataset/questions",
            "calibration/support_calibration",
        }
        assert specs["support_calibration"].kinds == {"llm", "duckdb"}
        run(definitions)()
        project = compiled_projects()[-1].project
    assert find_stale(project.node(items[-1]), platform) == {}
    assert open_stores(platform).lake.read(TABLE)["support"].null_count() == 0


@dataclass(frozen=True)
class HighSupport:
    """A gate of the project's own, which reads the scores of a judge."""

    name: str = "high_support"
    definition: str = "1"
    text: str = ""
    relative: bool = False

    def judge(self, candidate: ml.Candidate) -> GateResult:
        low, _ = candidate.intervals.value("support")
        in_slice = candidate.evaluation.metric("support", within=("airline", "AA"))
        scores = candidate.holdout.X["support"].drop_nulls()
        return GateResult(candidate.evaluation.metric("support") >= 0.5 or in_slice >= 0.5 or low >= 0 or scores.len() > 0, "read")


GATES = (ml.Gate("support", at_least=0.5), ml.Gate("support", at_least=0.1, confidence=0.9, slice=("airline", "AA")), HighSupport())


def judge_release(platform, run, judge_step, *, rows=None, calibrated: bool = True, ok: bool = False) -> dict[str, dg.AssetCheckEvaluation]:
    """Materialise a project whose prompt must pass gates on the scores of a judge; return the gates' results."""
    with ScriptedServer(default=answer("late")) as server, ScriptedServer(default=judge_step) as judging:
        questions, prompt, evaluation = declare_judged(server.url, judging.url, rows, repeats=1)
        gated = ml.llm.PromptEvaluation(
            "replies", prompt=prompt, cases=questions, scorers=evaluation.judges, slices=["airline"], gates=GATES
        )
        calibration = declare_calibration(*evaluation.judges) if calibrated else []
        result = run(ml.build_definitions([questions, prompt, gated, *calibration], platform=platform))(ok=ok)
    names = {"complete", *(gate.name for gate in GATES)}
    return {found.check_name: found for found in result.get_asset_check_evaluations() if found.check_name in names}


def test_evidence_of_a_judge_ends_when_the_labels_of_its_calibration_change(platform, run) -> None:
    rows = label_answers()
    with ScriptedServer(default=answer("late")) as server, ScriptedServer(default=judge_well()) as judging:
        questions, prompt, evaluation = declare_judged(server.url, judging.url, repeats=1)
        gated = ml.llm.PromptEvaluation(
            "replies", prompt=prompt, cases=questions, scorers=evaluation.judges, slices=["airline"], gates=GATES
        )
        run(ml.build_definitions([questions, prompt, gated, *declare_calibration(*evaluation.judges)], platform=platform))()
        relabelled = declare_calibration(*evaluation.judges, rows=rows | {"human_verdict": ["supported"] * 40})
        materialise = run(ml.build_definitions([questions, prompt, gated, *relabelled], platform=platform))
        materialise("dataset/labelled_answers")
        assert "or what it reads, has changed since it was evaluated" in materialise.error("version/reply")


def test_a_calibrated_judge_decides_gates(platform, run) -> None:
    found = judge_release(platform, run, judge_well(), ok=True)
    assert {check.passed for check in found.values()} == {True}
    assert open_stores(platform).registry.champion("reply").version == 1


@pytest.mark.parametrize(
    ("calibrated", "reason"), [(True, "its lower end is below 0.6"), (False, "the project has no calibration of this version of the judge")]
)
def test_every_gate_on_the_scores_of_a_judge_that_may_only_report_fails(calibrated, reason, platform, run) -> None:
    found = judge_release(platform, run, YES, calibrated=calibrated)
    assert {name: check.passed for name, check in found.items()} == {"complete": True, **{gate.name: False for gate in GATES}}
    assert open_stores(platform).lake.read(TABLE)["support"].to_list() == [1.0] * 6, "the judge reports"
    for gate in GATES[:2]:
        assert "the judge 'support' may not decide a gate: " in found[gate.name].description
        assert reason in found[gate.name].description
    assert open_stores(platform).registry.champion("reply") is None


@pytest.mark.parametrize("fault", ["500", "not UTF-8", "no verdict"])
def test_a_calibrated_judge_that_fails_in_an_evaluation_registers_nothing(fault, platform, run) -> None:
    step, _ = JUDGE_FAULTS[fault]
    good = judge_well()

    def fail_once(exchange) -> None:
        (step if "JFK: 3 minutes." in exchange.seen.body["messages"][-1]["content"] else good)(exchange)

    found = judge_release(platform, run, fail_once)
    assert not found["complete"].passed
    assert open_stores(platform).registry.champion("reply") is None
