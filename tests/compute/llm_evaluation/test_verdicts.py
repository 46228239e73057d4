"""A reply is one allowed verdict or a failure: never a score, a default, or a guess."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_assets.compute.llm_evaluation.verdicts import classify_error, parse_verdict
from mlops_assets.errors import DefinitionError, ProviderError
from mlops_assets.values.llm.judge import ERROR, FAILURES, TIMEOUT, UNPARSABLE, check_verdicts

ALLOWED = ("supported", "unsupported", "Not enough evidence")
VERDICTS = st.sampled_from(ALLOWED)
# Pieces of real replies: random text alone would hardly ever come near a verdict.
PIECES = st.sampled_from(
    ["verdict", ":", " ", "\n", '"', "{", "}", "[", "]", ",", "**", "```", "json", "<think>", "not ", "The answer is ", *ALLOWED, "x"]
)


def cases_of(text: str) -> st.SearchStrategy[str]:
    return st.sampled_from([text, text.upper(), text.lower(), text.title()])


@settings(deadline=None)
@given(st.one_of(st.none(), st.text(), st.lists(PIECES, max_size=25).map("".join)))
def test_every_reply_is_an_allowed_verdict_or_unparsable_with_a_reason(reply: str | None) -> None:
    found = parse_verdict(reply, ALLOWED)
    assert found.value in {*ALLOWED, UNPARSABLE}
    assert found.failed == bool(found.reason)


@settings(deadline=None)
@given(
    VERDICTS.flatmap(lambda v: st.tuples(st.just(v), cases_of(v))),
    st.text(),
    st.sampled_from(["{}", " {} \n", "```json\n{}\n```", "```\n{}\n```"]),
)
def test_a_json_object_gives_its_verdict_whatever_its_reason_says(verdict: tuple[str, str], reason: str, frame: str) -> None:
    reply = json.dumps({"reason": reason, "verdict": verdict[1]})
    assert parse_verdict(frame.replace("{}", reply), ALLOWED).value == verdict[0]


@settings(deadline=None)
@given(
    VERDICTS.flatmap(lambda v: st.tuples(st.just(v), cases_of(v))),
    st.sampled_from(["verdict: {}", "  Verdict :{} ", "I read it.\nVERDICT: {}\nDone."]),
)
def test_one_line_gives_its_verdict(verdict: tuple[str, str], frame: str) -> None:
    assert parse_verdict(frame.format(verdict[1]), ALLOWED).value == verdict[0]


@settings(deadline=None)
@given(VERDICTS, VERDICTS, st.sampled_from(["\n", " ", ", ", "\n\nbut on second thought\n", "</think>\n"]))
def test_two_verdicts_are_ambiguous_even_when_they_are_equal(first: str, second: str, between: str) -> None:
    lines = [f"verdict: {first}", f"verdict: {second}"]
    fields = [json.dumps({"verdict": first}), json.dumps({"verdict": second})]
    replies = [between.join(lines), between.join(fields), lines[0] + between + fields[1], fields[0] + between + lines[1]]
    replies += [f'{{"verdict": "{first}", "verdict": "{second}"}}', f'{{"verdict": "{first}", "other": {{"Verdict": "{second}"}}}}']
    assert {parse_verdict(reply, ALLOWED).value for reply in replies} == {UNPARSABLE}


@settings(deadline=None)
@given(VERDICTS, st.data())
def test_a_truncated_json_object_is_unparsable_at_every_length(verdict: str, data: st.DataObject) -> None:
    reply = json.dumps({"verdict": verdict, "reason": "the context says so"}, indent=1)
    assert parse_verdict(reply[: data.draw(st.integers(0, len(reply) - 1))], ALLOWED).value == UNPARSABLE


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (None, "empty"),
        (" \n", "empty"),
        ("supported", "no line"),
        ('"supported"', "no line"),
        ('["supported"]', "no JSON object"),
        ('[{"verdict": "supported"}]', "no JSON object"),
        ("{}", "no JSON object"),
        ('{"answer": "supported"}', "no JSON object"),
        ('{"answer": {"verdict": "supported"}}', "no JSON object"),
        ('{"verdict": true}', "not text"),
        ('{"verdict": null}', "not text"),
        ('{"verdict": ["supported"]}', "not text"),
        ('{"verdict": 1}', "not text"),
        ('{"verdict": "supported or unsupported"}', "none of supported, unsupported, Not enough evidence"),
        ("verdict: supported | unsupported", "none of"),
        ("verdict: supported.", "none of"),
        ("verdict: not supported", "none of"),
        ("verdict:", "none of"),
        ("{verdict: supported}", "not valid JSON"),
        ("{\nverdict: supported\n}", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"verdict": ' + "9" * 5000 + "}", "not valid JSON"),
        ("my verdict: supported", "no line"),
        ("**verdict**: supported", "no line"),
        ("verdict: " + "secret " * 500, "the verdict is none of"),
    ],
)
def test_a_reply_without_exactly_one_verdict_says_why(reply: str | None, reason: str) -> None:
    found = parse_verdict(reply, ALLOWED)
    assert found.value == UNPARSABLE
    assert reason in found.reason
    assert len(found.reason) < 200
    assert "secret" not in found.reason, "a reason is shown in checks, and quotes no reply"


def test_the_field_is_the_declared_one() -> None:
    assert parse_verdict("winner: first", ("first", "second"), field="winner").value == "first"
    assert parse_verdict("verdict: first", ("first", "second"), field="winner").failed
    assert parse_verdict("a.b: first", ("first", "second"), field="a.b").value == "first"
    assert parse_verdict("axb: first", ("first", "second"), field="a.b").failed


class ReadTimeout(Exception):  # noqa: N818  (as in httpx)
    """Named as that of an HTTP client."""


@pytest.mark.parametrize(
    ("error", "value"),
    [
        (TimeoutError("5 s"), TIMEOUT),
        (ReadTimeout("5 s"), TIMEOUT),
        (ProviderError("no whole reply", hint="raise timeout", kind="timeout"), TIMEOUT),
        (ProviderError("status 500", hint="try later", kind="status"), ERROR),
        (OSError("reset"), ERROR),
    ],
)
def test_a_call_that_raises_is_a_failure_of_its_own(error: Exception, value: str) -> None:
    found = classify_error(error)
    assert (found.value, found.failed) == (value, True)
    assert str(error) in found.reason


@pytest.mark.parametrize(
    "allowed", [(), ("yes",), "yes", ("yes", "Yes "), ("yes", ""), ("yes", "a\nb"), *(("yes", name) for name in FAILURES), ("yes", "ERROR")]
)
def test_verdicts_that_a_reply_cannot_tell_apart_are_refused(allowed: tuple[str, ...]) -> None:
    with pytest.raises(DefinitionError):
        check_verdicts(allowed)
    with pytest.raises(DefinitionError):
        parse_verdict("verdict: yes", allowed)
