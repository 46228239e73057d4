"""A stored prompt makes the messages of the declared one, has its version, and needs nothing of its project."""

import json
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mlops_assets as ml
from mlops_assets.compute.prompts.messages import dump_json
from mlops_assets.errors import ArtifactError, DataError, DefinitionError
from mlops_assets.serving.formats.stored_prompts import connect_prompt, open_prompt, store_prompt
from mlops_assets.stores.artifacts.store import open_artifacts
from mlops_assets.values.llm.prompt import Prompt, Variable


class Airport(Enum):
    JFK = "jfk"
    EWR = "ewr"


class Leg(pydantic.BaseModel):
    minutes: float = 1.0
    airport: Annotated[str, pydantic.Field(min_length=2)]
    before: "list[Leg]" = []


@dataclass
class Row:
    number: int
    shares: dict[str, float] = field(default_factory=dict)


TYPES = [
    str, int, float, bool, int | None, list[str], dict[str, float], Literal["a", 3], Airport, Leg, list[Leg], Row, date, datetime,
    timedelta, UUID, tuple[int, str], tuple[float, ...], list[Airport | None], float | str, Leg | None,
]  # fmt: skip
LLM = ml.llm.LLM(
    "small", base_url="http://127.0.0.1:9/v1", pin="q8", parameters={"top_p": 0.3}, retries=1, timeout=timedelta(seconds=7.5),
    fallbacks=[ml.llm.LLM("large", base_url="http://127.0.0.1:8/v1", temperature=None)],
)  # fmt: skip


def build_prompt(kind: object, default: object = Variable("", str).default) -> Prompt:
    def name() -> None: ...

    return Prompt(name, LLM, (Variable("value", kind, default),), "Use the value.", has_body=False, response=kind)


def strategy(kind: object) -> st.SearchStrategy:
    legs = st.recursive(
        st.builds(Leg, minutes=st.floats(-1e9, 1e9), airport=st.text(min_size=2, max_size=5), before=st.just([])),
        lambda inner: st.builds(Leg, airport=st.just("EWR"), before=st.lists(inner, max_size=2)),
        max_leaves=3,
    )
    known = {Leg: legs, list[Leg]: st.lists(legs, max_size=2), Leg | None: st.none() | legs}
    rows = st.builds(Row, st.integers(-9, 9), st.dictionaries(st.text(max_size=3), st.floats(-5, 5), max_size=2))
    zones = st.sampled_from([UTC])
    own = {Row: rows, datetime: st.datetimes(timezones=zones), float: st.floats(allow_nan=False, allow_infinity=False)}
    return ({**known, **own})[kind] if kind in (*known, *own) else st.from_type(kind)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    return open_artifacts(str(tmp_path_factory.mktemp("artifacts")))


@pytest.mark.parametrize("kind", TYPES, ids=str)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_declared_and_stored_prompts_make_the_same_messages_of_any_value(kind, artifacts, data) -> None:
    value = data.draw(strategy(kind))
    prompt = build_prompt(kind)
    stored = open_prompt(artifacts, store_prompt(artifacts, prompt))
    sent = json.loads(json.dumps(value, default=dump_json))
    assert ml.llm.build_messages(stored, {"value": sent}) == ml.llm.build_messages(prompt, {"value": value})
    assert ml.llm.hash_prompt(stored) == ml.llm.hash_prompt(prompt)
    with_default = build_prompt(kind, value)
    stored = open_prompt(artifacts, store_prompt(artifacts, with_default))
    assert ml.llm.build_messages(stored, {}) == ml.llm.build_messages(with_default, {})


def test_model_examples_and_response_come_back(artifacts) -> None:
    @ml.llm.prompt(model=LLM, response=Leg, examples=[ml.llm.FewShotExample({"question": "?"}, "{}")])
    def reply(question: str, airport: Airport = Airport.EWR) -> None:
        """Answer about {airport}."""

    stored = open_prompt(artifacts, store_prompt(artifacts, reply))
    assert (stored.name, stored.model, stored.examples[0].answer) == ("reply", LLM, "{}")
    assert ml.llm.build_messages(stored, {"question": "x"})[0].content.startswith("Answer about ewr.")
    parsed = pydantic.TypeAdapter(stored.response).validate_json('{"airport": "JFK", "before": [{"airport": "EWR"}]}')
    assert parsed.before[0].minutes == 1.0
    with pytest.raises(pydantic.ValidationError):
        pydantic.TypeAdapter(stored.response).validate_json('{"airport": "J"}')
    with pytest.raises(DataError, match="variable 'airport'"):
        ml.llm.build_messages(stored, {"question": "x", "airport": "lga"})


def test_address_and_limits_come_from_the_declaration_while_the_model_is_the_same(artifacts) -> None:
    stored = open_prompt(artifacts, store_prompt(artifacts, build_prompt(str)))
    moved = ml.llm.LLM("small", base_url="http://gpu:1/v1", pin="q8", parameters={"top_p": 0.3}, fallbacks=LLM.fallbacks)
    assert connect_prompt(stored, moved).model.base_url == "http://gpu:1/v1"
    assert connect_prompt(stored, ml.llm.LLM("other", base_url="http://gpu:1/v1")).model == LLM


BODY = """
from dataclasses import dataclass
import mlops_assets as ml
import wording.signs
from wording.signs import mark as sign

@dataclass
class Row:
    number: int

@ml.llm.prompt(model=ml.llm.LLM("small", base_url="http://127.0.0.1:9/v1"))
def reply(question: str, row: Row):
    return [{"role": "user", "content": f"{sign(question)} {wording.signs.mark(str(row.number))} {isinstance(row, Row)}"}]
"""
SCRIPT = """
import sys
from pathlib import Path
from mlops_assets.stores.artifacts.store import open_artifacts
from mlops_assets.serving.formats.stored_prompts import open_prompt
import mlops_assets as ml
store, *found = sys.argv[1:]
for artifact in found:
    stored = open_prompt(open_artifacts(store), artifact)
    print(ml.llm.build_messages(stored, {"question": "a", "row": {"number": 2}})[0].content)
print(sorted(name for name in sys.modules if name.split(".")[0] in ("replies", "wording")))
"""


def store_in_project(folder: Path, store: str, end: str) -> str:
    """Store the prompt of a project with two modules in a process of its own."""
    (folder / "wording").mkdir(parents=True)
    (folder / "wording" / "__init__.py").touch()
    (folder / "wording" / "ends.py").write_text(f"END = {end!r}")
    (folder / "wording" / "signs.py").write_text("from . import ends\ndef mark(text):\n    return text + ends.END\n")
    (folder / "replies.py").write_text(textwrap.dedent(BODY))
    code = (
        "import replies; from mlops_assets.serving.formats.stored_prompts import store_prompt; "
        f"from mlops_assets.stores.artifacts.store import open_artifacts; print(store_prompt(open_artifacts({store!r}), replies.reply))"
    )
    return subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_two_versions_of_a_function_are_open_at_once_without_the_project(tmp_path) -> None:
    store = str(tmp_path / "artifacts")
    stored = [store_in_project(tmp_path / end, store, end) for end in ("A", "B")]
    done = subprocess.run([sys.executable, "-c", SCRIPT, store, *stored], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["aA 2A True", "aB 2B True", "[]"]


def test_what_cannot_be_stored_is_refused(artifacts) -> None:
    with pytest.raises(DefinitionError, match="variable 'value' of 'prompt/name' has a type that cannot be stored: .* 'uniqueItems'"):
        store_prompt(artifacts, build_prompt(set[int]))
    with pytest.raises(DefinitionError, match="the format 'binary'"):
        store_prompt(artifacts, build_prompt(bytes))


def test_an_artifact_that_is_no_prompt_or_newer_is_refused(artifacts) -> None:
    with pytest.raises(ArtifactError, match="is not a prompt"):
        open_prompt(artifacts, artifacts.put(b"{}"))
    manifest = json.loads(artifacts.get(store_prompt(artifacts, build_prompt(str))))
    with pytest.raises(ArtifactError, match="is stored in format 2"):
        open_prompt(artifacts, artifacts.put(json.dumps(manifest | {"format": 2}).encode()))
    with pytest.raises(ArtifactError, match="has changed, because this program builds other messages"):
        open_prompt(artifacts, artifacts.put(json.dumps(manifest | {"instructions": "Be rude."}).encode()))
