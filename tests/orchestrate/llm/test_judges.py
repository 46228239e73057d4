"""A judge in an evaluation: repeats that are paid once, and no failure that becomes a score."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.tables.automation import find_stale
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import ROOT, metadata
from tests.orchestrate.llm.judged import JUDGED_ROWS, check_support, declare_judge, declare_judged
from tests.orchestrate.llm.replies import TABLE, declare
from tests.orchestrate.llm.test_evaluation import FAULTS, checks, table
from tests.serving.llm.scripted_server import ScriptedServer, answer, fail, stay_silent

YES, NO = answer("verdict: supported"), answer("The context says otherwise.\nVerdict: unsupported")
TRIALS = 20
JUDGE_FAULTS = FAULTS | {
    "no verdict": (answer("It is supported."), "no line"),
    "two verdicts": (answer("verdict: supported, or verdict: unsupported"), "2 times"),
}
MATERIALISE = """
import sys
import mlops_assets as ml
from tests.conftest import Runner
from tests.memory_instance import open_memory_instance
from tests.orchestrate.llm.judged import declare_judged

if __name__ == "__main__":
    with open_memory_instance() as instance:
        Runner(ml.build_definitions(declare_judged(*sys.argv[1:3], repeats=2), platform=ml.Platform.at(sys.argv[3])), instance)()
"""


def test_each_answer_is_judged_as_often_as_declared_and_the_most_frequent_verdict_counts(platform, run) -> None:
    with ScriptedServer() as server, ScriptedServer(*[YES] * 6, *[NO] * 2, *[YES] * 4, NO, *[YES] * 5) as judging:
        result = run(ml.build_definitions(declare_judged(server.url, judging.url), platform=platform))()
        assert (len(server.requests), len(judging.requests)) == (6, 18)
        assert judging.requests[0].body["messages"][-1]["content"] == "<answer>\nyes\n</answer>\n<context>\nJFK: 0 minutes.\n</context>"
    found = table(platform)
    assert found["support"].to_list() == [0.0, *[1.0] * 5]
    assert found["support_verdict"].to_list() == ["unsupported", *["supported"] * 5]
    assert found["support_repeats"].to_list()[:2] == [
        ["supported", "unsupported", "unsupported"],
        ["supported", "unsupported", "supported"],
    ]
    assert found["support_flip_rate"].to_list() == [pytest.approx(2 / 3)] * 2 + [0.0] * 4
    facts = metadata(result, TABLE)
    assert facts["mean support"] == pytest.approx(5 / 6)
    (row,) = [record.data for record in facts["judges"].records]
    assert (row["verdicts"], row["flip rate"], row["requests"], row["cached verdicts"]) == (
        "supported 5, unsupported 1",
        "0.222",
        "18",
        "0",
    )
    described = {column.name: column.description for column in facts["dagster/column_schema"].columns}
    assert described["support_verdict"] == "The verdict of the judge 'support', or unparsable, error or timeout."


def test_judging_again_asks_neither_prompt_nor_judge_and_another_judge_asks_itself_only(platform, run) -> None:
    with ScriptedServer() as server, ScriptedServer(default=YES) as judging:
        run(ml.build_definitions(declare_judged(server.url, judging.url), platform=platform))()
        again = run(ml.build_definitions(declare_judged(server.url, judging.url), platform=platform))()
        assert (len(server.requests), len(judging.requests)) == (6, 18)
        assert [record.data["cached verdicts"] for record in metadata(again, TABLE)["judges"].records] == ["18"]
        reworded = declare_judged(
            server.url, judging.url, rubric="Is the answer supported? End with `verdict: supported` or `verdict: unsupported`."
        )
        run(ml.build_definitions(reworded, platform=platform))()
        assert (len(server.requests), len(judging.requests)) == (6, 36)


def test_more_repeats_ask_for_the_additional_ones_only(platform, run) -> None:
    with ScriptedServer() as server, ScriptedServer(default=YES) as judging:
        run(ml.build_definitions(declare_judged(server.url, judging.url, repeats=1), platform=platform))()
        assert table(platform)["support_flip_rate"].null_count() == 6
        run(ml.build_definitions(declare_judged(server.url, judging.url, repeats=2), platform=platform))()
        assert len(judging.requests) == 12


def test_an_evaluation_is_stale_when_its_judge_changes(platform, run) -> None:
    with ScriptedServer() as server, ScriptedServer(default=YES) as judging:
        items = declare_judged(server.url, judging.url)
        run(ml.build_definitions(items, platform=platform))()
        changes = ({}, {"repeats": 2}, {"verdicts": {"supported": 0.5, "unsupported": 0.0}}, {"temperature": 0.5})
        nodes = [Project.from_items(new).node(new[-1]) for new in (declare_judged(server.url, judging.url, **change) for change in changes)]
    assert [bool(find_stale(node, platform)) for node in nodes] == [False, True, True, True]


@pytest.mark.parametrize("faults", [["silence"], [fault for fault in JUDGE_FAULTS if fault != "silence"]])
def test_a_failed_repeat_is_a_verdict_without_a_score_in_every_trial(faults, platform, run) -> None:
    trials = [fault for _ in range(TRIALS) for fault in faults]  # so that the circuit breaker stays closed
    numbers = [f"{number:03}" for number in range(len(trials))]
    rows = {name: [values[0]] * len(trials) for name, values in JUDGED_ROWS.items()} | {"case": numbers, "context": numbers}
    more = {"timeout": timedelta(seconds=0.1)} if faults == ["silence"] else {}
    steps = [*[YES] * len(trials), *(JUDGE_FAULTS[fault][0] for fault in trials)]  # the first repeat of each case, then the second
    with ScriptedServer() as server, ScriptedServer(*steps) as judging:
        result = run(ml.build_definitions(declare_judged(server.url, judging.url, rows, repeats=2, **more), platform=platform))(ok=False)
    found = table(platform)
    verdicts = ["timeout" if fault == "silence" else "unparsable" if "verdict" in fault else "error" for fault in trials]
    assert found["support"].null_count() == len(trials)
    assert found["support_verdict"].to_list() == verdicts
    assert set(found["support_flip_rate"]) == {1.0}
    assert set(found["exact_match"]) == {1.0}, "the answer and its other scores stay"
    for error, verdict, fault in zip(found["error"], verdicts, trials, strict=True):
        assert error.startswith(f"scorer 'support': {verdict}: ")
        assert JUDGE_FAULTS[fault][1] in error
    complete = checks(result)["complete"]
    assert not complete.passed
    assert f"{len(trials)} of {len(trials)} cases have an error" in complete.description
    assert "mean support" not in metadata(result, TABLE)


def test_a_failed_answer_is_not_judged(platform, run) -> None:
    with ScriptedServer(fail(400)) as server, ScriptedServer(default=YES) as judging:
        run(ml.build_definitions(declare_judged(server.url, judging.url, repeats=1), platform=platform))(ok=False)
        assert len(judging.requests) == 5
    first = table(platform).row(0, named=True)
    assert [first[name] for name in ("answer", "support", "support_verdict", "support_repeats", "support_flip_rate")] == [None] * 5


def test_a_case_that_the_judge_cannot_be_asked_about_has_an_error(platform, run) -> None:
    def check_reference(answer: str, expected: str, limit: int | None) -> str:
        return f"{answer} {expected} {limit}"

    rows = JUDGED_ROWS | {"expected": [None, *JUDGED_ROWS["expected"][1:]], "limit": [1, 2, None, 4, 5, 6]}
    with ScriptedServer() as server, ScriptedServer(default=YES) as judging:
        run(ml.build_definitions(declare_judged(server.url, judging.url, rows, repeats=1, function=check_reference), platform=platform))(
            ok=False
        )
        assert len(judging.requests) == 5, "a variable whose type allows None may be null"
    errors = table(platform)["error"].to_list()
    assert errors[0].endswith("scorer 'support': error: the case has no 'expected'")
    assert errors[1:] == [None] * 5


def test_an_exception_in_the_rubric_is_an_error_of_its_case_without_its_text(platform, run) -> None:
    def check_number(answer: str, case: str) -> str:
        if case == "case 2":
            raise KeyError(answer + " is private")
        return answer + case

    with ScriptedServer() as server, ScriptedServer(default=YES) as judging:
        run(ml.build_definitions(declare_judged(server.url, judging.url, repeats=1, function=check_number), platform=platform))(ok=False)
    failed = table(platform).row(2, named=True)
    assert failed["error"].startswith("scorer 'support': error: the prompt of the judge raised KeyError (")
    assert "private" not in failed["error"]
    assert table(platform)["support"].null_count() == 1


@dataclass
class Ruling:
    verdict: Literal["supported", "unsupported"]
    reason: str


def test_a_judge_with_a_response_schema_is_read_from_its_json(platform, run) -> None:
    good, bad = answer('{"reason": "it says so", "verdict": "unsupported"}'), answer('{"verdict": "perhaps", "reason": ""}')
    with ScriptedServer() as server, ScriptedServer(bad, default=good) as judging:
        run(ml.build_definitions(declare_judged(server.url, judging.url, repeats=1, response=Ruling), platform=platform))(ok=False)
    assert table(platform)["support_verdict"].to_list() == ["unparsable", *["unsupported"] * 5]
    assert table(platform)["support"].to_list() == [None, *[0.0] * 5]


def test_a_killed_judge_does_not_pay_again_for_answers_and_verdicts(platform, run) -> None:
    with ScriptedServer() as server, ScriptedServer(*[YES] * 7, stay_silent(), default=NO) as judging:
        command = [sys.executable, "-W", "ignore", "-c", MATERIALISE, server.url, judging.url, platform.home]
        with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
            judging.wait_for_requests(8)  # one at a time: seven verdicts are stored, the eighth waits
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert TABLE not in open_stores(platform).lake.tables()
        result = run(ml.build_definitions(declare_judged(server.url, judging.url, repeats=2), platform=platform))()
        assert (len(server.requests), len(judging.requests)) == (6, 8 + 5)
    repeats = table(platform)["support_repeats"].to_list()
    assert repeats == [["supported", "supported"], *[["supported", "unsupported"]] * 5]
    assert [record.data["cached verdicts"] for record in metadata(result, TABLE)["judges"].records] == ["7"]


def rubric_without_answer(context: str) -> None:
    """Is it good?"""


def rubric_with_number(answer: int) -> None:
    """Is it good?"""


def rubric_with_default(answer: str, tone: str = "plain") -> None:
    """Is it good?"""


def judge_with(function=check_support, **more) -> ml.llm.Judge:
    return declare_judge("http://127.0.0.1:9/v1", function=function, **more)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"function": rubric_without_answer}, "the judge 'support' has a prompt 'prompt/rubric_without_answer' with no variable 'answer'"),
        ({"function": rubric_with_number}, "with a variable 'answer' that is not text"),
        ({"function": rubric_with_default}, "whose variable 'tone' has a default"),
        ({"verdicts": {"good": 1.0}}, "a judge has the verdicts"),
        ({"verdicts": {"good": 1.0, "Good ": 0.0}}, "'good' twice"),
        ({"verdicts": {"good": 1.0, "timeout": 0.0}}, "the name of a failure"),
        ({"verdicts": {"good": 1.0, "bad": -1.0}}, "gives the verdict 'bad' the score -1.0"),
        ({"verdicts": {"good": float("nan"), "bad": 0.0}}, "gives the verdict 'good' the score nan"),
        ({"repeats": 0}, ": repeats=0 is invalid"),
        ({"repeats": 26}, ": repeats=26 is invalid"),
    ],
)
def test_a_judge_that_cannot_judge_is_refused(arguments, problem) -> None:
    with pytest.raises(DefinitionError) as caught:
        judge_with(**arguments)
    assert problem in caught.value.message


def test_columns_of_a_judge_are_required_of_the_cases_and_collide_with_none(platform, run) -> None:
    with ScriptedServer() as server:
        message = run(ml.build_definitions(declare(server.url, scorers=[judge_with(needs_reference)]), platform=platform)).error()
        assert server.requests == []
    assert "needs the column 'reference' for the scorer 'support'" in message
    with pytest.raises(DefinitionError, match="two columns named 'support_verdict'"):
        declare(server.url, scorers=[judge_with(), ml.llm.ExactMatch("expected", name="support_verdict")])


def needs_reference(answer: str, reference: str) -> None:
    """Is it good?"""


def test_a_table_with_verdicts_is_read_by_other_assets(platform, run) -> None:
    @ml.dataset(key="case")
    def unstable(replies: pl.DataFrame) -> pl.DataFrame:
        return replies.filter(pl.col("support_flip_rate") > 0).select("case", "support_repeats")

    with ScriptedServer() as server, ScriptedServer(NO, default=YES) as judging:
        run(ml.build_definitions([*declare_judged(server.url, judging.url, repeats=2), unstable], platform=platform))()
    assert open_stores(platform).lake.read("dataset/unstable").rows() == [("case 0", ["unsupported", "supported"])]
