"""From a prompt to production: what passes its gates is registered and promoted, everything else leaves production as it was."""

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner

import mlops_assets as ml
from mlops_assets.cli.main import mlops
from mlops_assets.errors import DefinitionError, GateError, RegistryError
from mlops_assets.stores.platform.stores import open_stores
from tests.conftest import metadata
from tests.orchestrate.llm.replies import ROWS, declare
from tests.orchestrate.llm.test_costs import declare_priced
from tests.serving.llm.scripted_server import Exchange, ScriptedServer, answer, cut_json, fail, hang_up_in_the_middle, send_html

GOOD, BAD = "Answer from the context alone.", "Answer BADLY."
GATES = [ml.Gate("exact_match", at_least=0.6)]
RELATIVE = ml.Gate("exact_match", no_worse_than_champion_by=0.02, confidence=0.95)
MANY = {name: values * 4 for name, values in ROWS.items()} | {"case": [f"case {number}" for number in range(24)]}


def follow_instructions(exchange: Exchange) -> None:
    """Answer "yes", which 4 of 6 cases expect; "no" to instructions that say BADLY, and to half of the questions of HALF."""
    system, user = (exchange.seen.body["messages"][position]["content"] for position in (0, -1))
    bad = "BADLY" in system or ("HALF" in system and any(f"Question {n}" in user for n in (0, 1, 2)))
    answer("no" if bad else "yes")(exchange)


@pytest.fixture
def server():
    with ScriptedServer(default=follow_instructions) as running:
        yield running


@pytest.fixture
def release(platform, run, server):
    """Return a function that runs a project with the given instructions and gates."""

    def materialise(instructions: str = GOOD, *keys: str, ok: bool = True, **more):
        items = declare(server.url, more.pop("rows", None), instructions=instructions, **{"gates": GATES} | more)
        return run(ml.build_definitions(items, platform=platform))(*keys, ok=ok)

    return materialise


def production(platform):
    return open_stores(platform).registry.champion("reply")


def check(result, name: str) -> dg.AssetCheckEvaluation:
    return next(found for found in result.get_asset_check_evaluations() if found.check_name == name)


def test_a_prompt_that_passes_is_registered_and_promoted_and_repeating_it_changes_nothing(release, platform, server) -> None:
    result = release()
    assert (production(platform).version, production(platform).state) == (1, "champion")
    assert check(result, "exact_match_at_least").passed
    facts = metadata(result, "champion/reply")
    assert (facts["version"], facts["production before"]) == (1, "none")
    assert metadata(result, "prompt/reply")["instructions"] == GOOD
    again = release()
    assert len(server.requests) == 6, "unchanged: no generation"
    assert [v.version for v in open_stores(platform).registry.versions("reply")] == [1], "unchanged: no version"
    assert metadata(again, "champion/reply")["production before"] == "the same"
    assert len(open_stores(platform).tracker.list("reply")) == 1, "unchanged: no run"


def test_a_prompt_that_fails_its_gate_is_not_registered_and_production_stays(release, platform) -> None:
    release()
    result = release(BAD, ok=False)
    failed = check(result, "exact_match_at_least")
    assert (failed.passed, failed.blocking) == (False, True)
    assert failed.description.startswith("exact_match 0.33333 < 0.6. Hint: change 'prompt/reply'")
    assert production(platform).version == 1
    assert len(open_stores(platform).registry.versions("reply")) == 1
    assert "```diff\n" in metadata(result, "prompt/reply")["changes"]
    with pytest.raises(AssertionError):
        metadata(result, "version/reply")


def test_the_version_step_refuses_a_failed_candidate_and_names_the_evaluation(release, platform, run, server) -> None:
    release(BAD, ok=False)
    items = declare(server.url, instructions=BAD, gates=GATES)
    message = run(ml.build_definitions(items, platform=platform)).error("version/reply")
    assert "gate 'replies.exact_match_at_least' failed (exact_match 0.33333 < 0.6)" in message
    assert "materialise evaluation/replies_evaluation" in message


def test_returning_to_an_earlier_text_is_the_earlier_version(release, platform, server) -> None:
    release()
    release("Answer from the context alone, please.")
    assert production(platform).version == 2
    asked = len(server.requests)
    release()
    assert len(server.requests) == asked
    assert [v.version for v in open_stores(platform).registry.versions("reply")] == [1, 2]


def test_a_worse_prompt_is_refused_by_its_pairs_with_production_which_is_not_asked_again(release, platform, server) -> None:
    more = {"gates": [RELATIVE], "max_error_rate": 0.0, "rows": MANY}
    first = release(**more)
    assert "no champion yet" in check(first, RELATIVE.name).description
    asked = len(server.requests)
    result = release("Answer HALF of it.", ok=False, **more)
    assert len(server.requests) == asked + 6, "only the new prompt is asked"
    failed = check(result, RELATIVE.name)
    assert not failed.passed
    assert "the champion has 0.66667 on the same rows, 0.95 interval" in failed.description
    assert failed.metadata["interval, low"].value < -0.02
    same = release("Answer from the context alone!", **more)
    assert check(same, RELATIVE.name).passed
    assert check(same, RELATIVE.name).metadata["interval, low"].value == 0.0
    again = release("Answer from the context alone!", **more)
    assert "this is the production version 2" in check(again, RELATIVE.name).description


def test_a_relative_gate_with_an_interval_needs_twenty_pairs(release) -> None:
    release(gates=[RELATIVE])
    result = release("Answer at once.", ok=False, gates=[RELATIVE])
    assert "6 cases have a score on both sides; 20 are needed" in check(result, RELATIVE.name).description


def test_a_relative_gate_compares_equal_cases_when_hard_ones_have_no_answer(release, server) -> None:
    better = ml.Gate("exact_match", better_than_champion_by=0.1)
    release(gates=[better])
    server.steps = [answer("yes")] * 4 + [fail(400), fail(400)]  # production is wrong in the last two cases
    result = release("Answer at once.", ok=False, gates=[better], max_error_rate=0.4)
    assert not check(result, better.name).passed
    assert "exact_match 1 < 1.1: the champion has 1 on the same rows" in check(result, better.name).description


def test_a_text_that_was_rolled_back_is_not_promoted_and_an_earlier_text_is(release, platform, run, server) -> None:
    release()
    release("Answer from the context alone, please.")
    registry = open_stores(platform).registry
    registry.rollback("reply", actor="monitor", reason="worse")
    items = declare(server.url, instructions="Answer from the context alone, please.", gates=GATES)
    assert "version 2 of prompt 'reply' was rolled back" in run(ml.build_definitions(items, platform=platform)).error("champion/reply")
    release()  # the earlier text is production already, although version 2 is newer
    assert production(platform).version == 1
    release("Answer, please.")
    assert production(platform).version == 3
    release()
    assert production(platform).version == 1, "an earlier text is its earlier version"


def test_a_relative_gate_fails_when_production_cannot_be_evaluated(release, platform, server) -> None:
    release(gates=[RELATIVE])
    server.steps = [answer("yes")] * 6  # the new prompt is answered, then production fails, as its cached answers are gone
    open_stores(platform).responses.path.unlink()
    server.default = fail(500)
    result = release("Answer at once.", ok=False, gates=[RELATIVE])
    failed = check(result, RELATIVE.name)
    assert not failed.passed
    assert "6 of 6 cases of the champion have an error" in failed.description or "of the production have an error" in failed.description


FAULTS = {"500": fail(500), "cut JSON": cut_json(), "HTML": send_html(), "hang-up": hang_up_in_the_middle(), "no text": answer("")}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_fails_the_gates_in_each_of_four_trials(fault, release, platform, server) -> None:
    for trial in range(4):
        server.steps = [FAULTS[fault]]
        result = release(f"Answer from the context alone, trial {trial}.", ok=False, gates=[ml.Gate("exact_match", at_least=0.0)])
        assert not check(result, "complete").passed
        assert check(result, "exact_match_at_least").passed, "the other cases pass, and still nothing is registered"
    assert open_stores(platform).registry.versions("reply") == []
    assert production(platform) is None


@ml.llm.scorer
def never_scores(answer: str, expected: str) -> float:
    raise ValueError(answer + expected)


def test_a_metric_without_a_score_fails_its_gate_even_when_errors_are_allowed(release) -> None:
    result = release(ok=False, scorers=[never_scores], max_error_rate=1.0, gates=[ml.Gate("never_scores", at_least=0.0)])
    assert check(result, "complete").passed
    assert not check(result, "never_scores_at_least").passed


def test_maxima_of_errors_and_latency_are_gates(release, server) -> None:
    server.steps = [fail(400)]
    limits = [ml.Gate("error_rate", at_most=0.1), ml.Gate("p95_seconds", at_most=60), ml.Gate("cost_per_request", at_most=1)]
    result = release(ok=False, gates=limits, max_error_rate=0.5)
    errors, latency, cost = (check(result, gate.name) for gate in limits)
    assert (errors.passed, latency.passed, cost.passed) == (False, False, False)
    assert errors.description.startswith("error_rate 0.16667 > 0.1.")
    assert "1 of 6 calls failed, after " in latency.description, "a failed call is slower than all others"
    assert "cost_per_request" in cost.description, "an unknown price fails closed"


def test_a_gate_on_a_slice_reads_the_cases_of_the_slice(release) -> None:
    gates = [ml.Gate("exact_match", at_least=0.9, slice=("airline", "AA")), ml.Gate("exact_match", at_least=0.9, slice=("airline", "UA"))]
    result = release(ok=False, gates=gates)
    assert [check(result, gate.name).passed for gate in gates] == [True, False]


def test_every_evaluation_of_a_prompt_must_pass(platform, run, server) -> None:
    questions, prompt, first = declare(server.url, instructions=GOOD, gates=GATES)
    second = ml.llm.PromptEvaluation(
        "strict", prompt=prompt, cases=questions, scorers=[ml.llm.ExactMatch("expected")], gates=[ml.Gate("exact_match", at_least=0.9)]
    )
    materialise = run(ml.build_definitions([questions, prompt, first, second], platform=platform))
    materialise(ok=False)
    message = materialise.error("version/reply")
    assert "gate 'strict.exact_match_at_least' failed" in message
    assert "replies." not in message
    relaxed = ml.llm.PromptEvaluation("strict", prompt=prompt, cases=questions, scorers=[ml.llm.ExactMatch("expected")])
    run(ml.build_definitions([questions, prompt, first, relaxed], platform=platform))()
    assert production(platform).version == 1


def test_a_changed_gate_needs_new_evidence(release, platform, run, server) -> None:
    release()
    stricter = declare(server.url, instructions=GOOD, gates=[ml.Gate("exact_match", at_least=0.65)])
    message = run(ml.build_definitions(stricter, platform=platform)).error("version/reply")
    assert "has changed since it was evaluated" in message
    assert "materialise evaluation/replies_evaluation" in message


def test_changed_cases_or_prices_need_new_evidence_although_the_prompt_is_the_same(platform, run, server) -> None:
    more = {"instructions": GOOD, "gates": GATES}
    run(ml.build_definitions(declare_priced(server.url, **more), platform=platform))()
    cases = declare_priced(server.url, rows=ROWS | {"expected": ["yes"] * 6}, **more)
    for items, dataset in ((cases, "cases"), (declare_priced(server.url, {"input_price": [9.0, 1.0]}, **more), "prices")):
        materialise = run(ml.build_definitions(items, platform=platform))
        materialise("dataset/questions", "dataset/llm_prices")
        message = materialise.error("version/reply")
        assert "gate 'replies.exact_match_at_least', or what it reads, has changed since it was evaluated" in message, dataset
        assert "materialise evaluation/replies_evaluation" in message
        materialise()
    assert production(platform).version == 1
    assert len(server.requests) == 6, "new evidence needs no generation"


def test_approval_is_required_where_it_is_declared(platform, run, server) -> None:
    questions, prompt, evaluation = declare(server.url, instructions=GOOD, gates=GATES)
    approved = ml.llm.prompt(model=prompt.model, approval=True)(prompt.function)
    items = [questions, approved, ml.llm.PromptEvaluation("replies", prompt=approved, cases=questions, scorers=evaluation.scorers)]
    materialise = run(ml.build_definitions(items, platform=platform))
    materialise("dataset/questions", "prompt/reply", "evaluation/replies", "version/reply")
    assert "version 1 of 'reply' is not approved" in materialise.error("champion/reply")
    materialise("approval/reply", config={"approval__reply_approval": {"version": 1, "approver": "grace", "reason": "read them"}})
    materialise("champion/reply")
    assert production(platform).version == 1


def test_two_promotions_at_once_leave_one_in_production(release, platform) -> None:
    release()
    registry = open_stores(platform).registry
    release("Answer from the context alone, please.")
    with pytest.raises(ml.errors.RegistryError, match="expected"):
        registry.promote("reply", {}, version=1, actor="ann", reason="late", expected=1)
    assert production(platform).version == 2


INVALID = {
    "a scorer that is not there": ([ml.Gate("exactmatch", at_least=1)], "has a gate on 'exactmatch', which is not measured"),
    "the wrong direction": ([ml.Gate("error_rate", at_least=0.1)], "a gate on 'error_rate' cannot use at_least="),
    "twice": (GATES * 2, "has two checks named 'exact_match_at_least'"),
    "a slice that is not measured": ([ml.Gate("exact_match", at_least=1, slice="origin")], "on the slice 'origin', which is not measured"),
    "a gate of models": ([ml.Gate.latency(p95_ms=5)], "the gate 'latency_p95_at_most' measures models"),
    "no gate": ([0.5], "was given 0.5 as a gate"),
}


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_gate_is_refused_when_it_is_declared(case) -> None:
    gates, problem = INVALID[case]
    with pytest.raises(DefinitionError, match=problem):
        declare("http://127.0.0.1:9/v1", gates=gates)


def test_a_prompt_with_the_name_of_a_model_is_refused(platform) -> None:
    from sklearn.linear_model import LogisticRegression

    questions, prompt, evaluation = declare("http://127.0.0.1:9/v1")

    @ml.training_set(columns=["case"], label="expected", split=ml.GroupSplit("airline"))
    def examples(questions: pl.DataFrame) -> pl.DataFrame:
        return questions

    def reply(train: ml.Split) -> LogisticRegression:
        return LogisticRegression().fit(train.X, train.y)

    model = ml.model(training_set=examples, metrics=["roc_auc"])(reply)
    with pytest.raises(DefinitionError, match="'prompt/reply' and 'model/reply' share a name"):
        ml.build_definitions([questions, prompt, evaluation, examples, model], platform=platform)


PROJECT = '''
import polars as pl
import mlops_assets as ml

@ml.dataset(key="case")
def questions() -> pl.DataFrame:
    return pl.DataFrame({rows!r})

@ml.llm.prompt(model=ml.llm.LLM("tiny", base_url={url!r}, retries=0))
def reply(question: str, context: str) -> None:
    """{instructions}"""

replies = ml.llm.PromptEvaluation(
    "replies", prompt=reply, cases=questions, scorers=[ml.llm.ExactMatch("expected")], gates=[ml.Gate("exact_match", at_least=0.6)]
)
defs = ml.build_definitions([questions, reply, replies])
'''


def test_the_command_line_promotes_compares_forces_and_rolls_back(tmp_path, monkeypatch, server) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "home"))
    file = tmp_path / "definitions.py"

    def call(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(mlops, list(words))
        assert result.exit_code == code, result.output + str(result.exception)
        return result.output

    def write(instructions: str) -> None:
        file.write_text(PROJECT.format(rows=ROWS, url=server.url, instructions=instructions))

    write(GOOD)
    call("run", "--select", "*")
    assert "production" in call("prompts", "list", "reply")
    write(BAD)
    assert "-Answer from the context alone." in call("prompts", "diff", "reply")
    assert "failed" in call("run", "--select", "*", code=1)
    assert "reply" not in call("models", "list"), "prompts are not listed as models"
    assert "has no version 2" in str(
        CliRunner().invoke(mlops, ["prompts", "promote", "reply", "--version", "2", "--reason", "x"]).exception
    )
    assert "give --version" in call("prompts", "promote", "reply", "--reason", "x", code=2)
    assert "production of reply: version 2" in call("prompts", "promote", "reply", "--force", "--reason", "a test")
    assert "forced past its gates (replies.exact_match_at_least not passed): a test" in call("prompts", "history", "reply", "--json", "-")
    assert "Answer BADLY." in call("prompts", "show", "reply@production")
    assert "production of reply: version 1" in call("prompts", "rollback", "reply", "--reason", "worse")
    assert GOOD in call("prompts", "show", "reply@production")
    assert "+Answer BADLY." in call("prompts", "diff", "reply", "1", "2")
    with pytest.raises(GateError, match=r"replies\.exact_match_at_least"):
        CliRunner().invoke(mlops, ["prompts", "promote", "reply", "--version", "2", "--reason", "again"], catch_exceptions=False)


def test_hints_of_refused_commands_name_prompts_and_evaluations(tmp_path, monkeypatch, server) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "home"))
    (tmp_path / "definitions.py").write_text(PROJECT.format(rows=ROWS, url=server.url, instructions=GOOD))

    def hint(*words: str) -> str:
        with pytest.raises(RegistryError) as refused:
            CliRunner().invoke(mlops, ["prompts", *words, "--reason", "x"], catch_exceptions=False)
        return f"{refused.value.message} {refused.value.hint}"

    assert hint("promote", "reply", "--force") == ("prompt 'reply' has no candidate materialise evaluation/replies_evaluation first")
    (tmp_path / "definitions.py").write_text((tmp_path / "definitions.py").read_text().replace("reply, replies])", "reply])"))
    assert hint("promote", "reply", "--force") == "prompt 'reply' has no candidate declare a PromptEvaluation of 'reply'"
    (tmp_path / "definitions.py").write_text(PROJECT.format(rows=ROWS, url=server.url, instructions=GOOD))
    assert hint("promote", "reply", "--version", "7") == "prompt 'reply' has no registered version materialise version/reply_version first"
    assert CliRunner().invoke(mlops, ["run", "--select", "*"]).exit_code == 0
    CliRunner().invoke(mlops, ["prompts", "reject", "reply", "1", "--approver", "grace", "--reason", "too short"], catch_exceptions=False)
    (tmp_path / "definitions.py").write_text(PROJECT.format(rows=ROWS, url=server.url, instructions="Answer from the context alone!"))
    assert CliRunner().invoke(mlops, ["run", "--select", "*"]).exit_code == 0
    assert "`mlops prompts approve reply 1 --approver NAME --reason WHY`" in hint("promote", "reply", "--version", "1")
    assert "`mlops prompts list reply`" in hint("rollback", "reply")


def test_a_person_promotes_only_by_evidence_of_the_current_cases(tmp_path, monkeypatch, server) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLOPS_HOME", str(tmp_path / "home"))
    promote = ["prompts", "promote", "reply", "--version", "1", "--reason", "it was better"]

    def call(*words: str, instructions: str = GOOD, **rows: list[str]) -> str:
        (tmp_path / "definitions.py").write_text(PROJECT.format(rows=ROWS | rows, url=server.url, instructions=instructions))
        result = CliRunner().invoke(mlops, list(words))
        assert result.exit_code == 0, result.output + str(result.exception)
        return result.output

    call("run", "--select", "*")
    call("run", "--select", "*", instructions="Answer from the context alone, please.")
    call("run", "--select", 'key:"dataset/*"', expected=["yes"] * 6)
    with pytest.raises(GateError, match="or what it reads, has changed since it was evaluated"):
        CliRunner().invoke(mlops, promote, catch_exceptions=False)
    call("run", "--select", 'key:"dataset/*"')
    assert "production of reply: version 1" in call(*promote), "the cases are those of its evidence again"
