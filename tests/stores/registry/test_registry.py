"""Versions are immutable, evidence counts for one candidate only, aliases move in one transaction."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from mlops_assets.errors import GateError, RegistryError
from mlops_assets.stores.database.sql import open_database
from mlops_assets.stores.lake.protocol import Partition
from mlops_assets.stores.registry.attempts import open_attempts
from mlops_assets.stores.registry.records import CandidateRecord, Evidence, Version
from mlops_assets.stores.registry.registry import open_registry
from mlops_assets.stores.tracker.tracker import Run, open_tracker
from tests.commands import warm_context

GATES = {"auc": "definition-1"}
NOW = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
def registry(url):
    return open_registry(url)


def candidate(digest: str) -> CandidateRecord:
    return CandidateRecord("m", digest, f"run-{digest}", f"artifact-{digest}", 7, NOW)


def evidence(
    digest: str, *, passed: bool = True, gate: str = "auc", definition: str = "definition-1", relative: bool = False, champion: str = ""
) -> Evidence:
    return Evidence(gate, definition, digest, passed, relative, champion, 0.7, 0.6, "auc 0.7")


def passed(registry, digest: str, **more) -> Version:
    registry.submit(candidate(digest), [evidence(digest, **more)])
    return registry.register("m", GATES)


def promote(registry, gates=GATES, **more):
    return registry.promote("m", gates, actor="ada", reason="test", **more)


def test_the_same_candidate_is_always_the_same_version(registry) -> None:
    passed(registry, "a")
    passed(registry, "b")
    passed(registry, "a")
    assert [(v.version, v.digest) for v in registry.versions("m")] == [(1, "a"), (2, "b")]


@pytest.mark.parametrize(
    ("given", "gates", "why"),
    [
        ([], GATES, "gate 'auc' was never evaluated"),
        ([evidence("a", passed=False)], GATES, "gate 'auc' failed"),
        ([evidence("a")], {"auc": "definition-2"}, "has changed since"),
        ([evidence("a")], GATES | {"fair": "x"}, "gate 'fair' was never evaluated"),
    ],
)
def test_nothing_is_registered_without_every_gates_evidence(registry, given, gates, why) -> None:
    registry.submit(candidate("a"), given)
    with pytest.raises(GateError, match=why):
        registry.register("m", gates)
    assert registry.versions("m") == []


def test_evidence_of_one_candidate_counts_for_no_other(registry) -> None:
    registry.submit(candidate("good"), [evidence("good")])
    registry.submit(candidate("bad"), [evidence("bad", passed=False)])
    with pytest.raises(GateError, match="candidate bad"):
        registry.register("m", GATES)
    with pytest.raises(RegistryError, match="about another candidate"):
        registry.submit(candidate("bad"), [evidence("good")])
    registry.submit(candidate("good"), [evidence("good")])
    assert registry.register("m", GATES).digest == "good"
    registry.submit(candidate("bad"), [evidence("bad", passed=False)])
    with pytest.raises(GateError):
        registry.register("m", GATES)
    assert promote(registry).digest == "good"


def test_promotion_verifies_again(registry) -> None:
    passed(registry, "a")
    with pytest.raises(GateError, match="cannot be promoted.*changed since"):
        promote(registry, {"auc": "definition-2"})
    registry.submit(candidate("a"), [evidence("a", passed=False)])
    with pytest.raises(GateError, match="cannot be promoted"):
        promote(registry)
    assert registry.champion("m") is None


def test_a_relative_gate_must_have_judged_against_the_current_champion(registry) -> None:
    passed(registry, "a", relative=True)
    promote(registry)
    passed(registry, "b", relative=True, champion="a")
    passed(registry, "c", relative=True, champion="a")
    promote(registry, version=3)
    with pytest.raises(GateError, match="compared candidate b of 'm' with a, not with the current champion"):
        promote(registry, version=2)
    assert registry.champion("m").digest == "c"


def test_promoting_twice_is_promoting_once_and_the_log_says_who(registry) -> None:
    passed(registry, "a")
    assert promote(registry) == promote(registry)
    passed(registry, "b")
    promote(registry)
    events = registry.history("m")
    assert [(e.version, e.previous, e.actor, e.reason) for e in events] == [(1, None, "ada", "test"), (2, 1, "ada", "test")]
    assert events[1].evidence[0]["digest"] == "b"
    assert {v.version: v.state for v in registry.versions("m")} == {1: "archived", 2: "champion"}


def test_there_is_no_version_zero(registry) -> None:
    passed(registry, "a")
    with pytest.raises(RegistryError, match="no version 0"):
        promote(registry, version=0)
    assert registry.champion("m") is None
    promote(registry)
    with pytest.raises(RegistryError, match="version 0 of 'm' was not champion"):
        registry.rollback("m", actor="ada", reason="test", version=0)


def test_environments_have_champions_of_their_own(url) -> None:
    dev, prod = open_registry(url), open_registry(url, "prod")
    passed(dev, "a")
    promote(dev)
    assert prod.champion("m") is None
    with pytest.raises(RegistryError, match="no candidate"):
        prod.register("m", GATES)
    with pytest.raises(GateError, match="never evaluated"):
        promote(prod)


def test_versions_and_the_log_cannot_be_changed_even_by_hand(registry, url) -> None:
    passed(registry, "a")
    promote(registry)
    with open_database(url).engine.connect() as connection:
        for statement in (
            "UPDATE mlops_versions SET digest = 'x'",
            "DELETE FROM mlops_versions",
            "UPDATE mlops_alias_log SET actor = 'x'",
            "DELETE FROM mlops_alias_log",
        ):
            with pytest.raises(sa.exc.DatabaseError, match="append-only"):
                connection.exec_driver_sql(statement)
            connection.rollback()


def test_what_is_not_there_is_named(registry) -> None:
    with pytest.raises(RegistryError, match="model 'm' has no candidate"):
        registry.register("m", GATES)
    with pytest.raises(RegistryError, match="no registered version"):
        promote(registry)
    passed(registry, "a")
    with pytest.raises(RegistryError, match="no version 9.*\n.*it has 1"):
        promote(registry, version=9)


def _register(url: str, digest: str) -> None:
    mine = open_registry(url)
    mine.submit(CandidateRecord(f"m_{digest}", digest, "r", "a", 1, NOW), [evidence(digest)])
    mine.register(f"m_{digest}", GATES)
    mine.submit(candidate("shared"), [evidence("shared")])
    mine.register("m", GATES)


def test_cold_processes_make_one_database(url) -> None:
    context = warm_context()
    processes = [context.Process(target=_register, args=(url, f"d{i}")) for i in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 6
    assert len(open_registry(url).versions()) == 7


def run(identity: str, **more) -> Run:
    values = {
        "model": "m",
        "fingerprint": "f",
        "dagster_run_id": "d",
        "started_at": NOW,
        "ended_at": NOW,
        "snapshot": 3,
        "params": {"a": 1},
        "metrics": {"auc": 0.7, "bad": float("nan")},
        "record": {"x": [1]},
    }
    return Run(id=identity, **values | more)


def test_runs_are_recorded_once_and_found_by_what_decides_them(url, registry) -> None:
    tracker = open_tracker(url)
    tracker.add(run("1"))
    tracker.add(run("1", metrics={}))
    tracker.add(run("2", fingerprint="g", snapshot=4))
    assert tracker.find("m", "f").id == "1"
    assert tracker.find("m", "zzz") is None
    assert tracker.get("1").metrics["auc"] == 0.7
    assert str(tracker.get("1").metrics["bad"]) == "nan"
    assert [r.id for r in tracker.list()] == ["2", "1"]
    with pytest.raises(RegistryError, match="no run 'x'"):
        tracker.get("x")


def test_attempts_on_the_same_inputs_wait_and_end(url) -> None:
    attempts, parts = open_attempts(url), [Partition("p", None, "i1"), Partition("q", None, "i1")]
    now = datetime.now(UTC)
    for n in range(3):
        attempts.record_start("t", parts, "run")
        attempts.record_failure("t", parts, "boom")
        blocked = attempts.find_blocked("t", {"p": "i1", "q": "i2"}, now)
        assert set(blocked) == {"p"}
        assert ("waits until" if n < 2 else "failed 3 times") in blocked["p"]
    assert attempts.find_blocked("t", {"p": "i2"}, now) == {}
    attempts.clear("t", parts)
    assert attempts.find_blocked("t", {"p": "i1"}, now) == {}
    attempts.record_start("t", parts[:1], "killed")  # a kill leaves no error, and counts all the same
    assert attempts.find_blocked("t", {"p": "i1"}, now)
    assert attempts.find_blocked("t", {"p": "i1"}, now + timedelta(minutes=2)) == {}


def test_a_rollback_brings_back_the_champion_before_and_is_not_undone_by_itself(registry) -> None:
    for digest in ("a", "b"):
        passed(registry, digest)
        promote(registry)
    back = registry.rollback("m", actor="ada", reason="alarms")
    assert (back.version, registry.champion("m").version) == (1, 1)
    assert {v.version: v.state for v in registry.versions("m")} == {1: "champion", 2: "rolled back"}
    assert [(e.kind, e.version, e.previous) for e in registry.history("m")] == [
        ("promotion", 1, None),
        ("promotion", 2, 1),
        ("rollback", 1, 2),
    ]
    with pytest.raises(RegistryError, match=r"version 2 of 'm' was rolled back.*\n.*--version 2"):
        promote(registry)
    with pytest.raises(RegistryError, match="'m' had no champion in 'dev' before version"):
        registry.rollback("m", actor="ada", reason="further")
    assert promote(registry, version=2).state == "champion"
    assert registry.rollback("m", actor="ada", reason="again", version=1).version == 1


def test_a_rollback_needs_a_champion_that_was_one(registry) -> None:
    with pytest.raises(RegistryError, match="'m' has no champion in 'dev'"):
        registry.rollback("m", actor="ada", reason="x")
    passed(registry, "a")
    promote(registry)
    passed(registry, "b")
    with pytest.raises(RegistryError, match=r"version 2 of 'm' was not champion in 'dev' before version 1.*\n.*nothing to roll back to"):
        registry.rollback("m", actor="ada", reason="x", version=2)


def test_an_approval_is_of_one_version_and_counts_for_no_other(registry, url) -> None:
    passed(registry, "a")
    with pytest.raises(GateError, match="version 1 of 'm' is not approved"):
        promote(registry, approval=True)
    with pytest.raises(RegistryError, match="needs a name and a reason"):
        registry.approve("m", 1, approved=True, approver=" ", reason="good")
    registry.approve("m", 1, approved=True, approver="grace", reason="good")
    passed(registry, "b")
    with pytest.raises(GateError, match="version 2 of 'm' is not approved"):
        promote(registry, approval=True)
    registry.approve("m", 2, approved=True, approver="grace", reason="good")
    registry.approve("m", 2, approved=False, approver="grace", reason="on second thoughts")
    with pytest.raises(GateError, match="version 2 of 'm' is rejected"):
        promote(registry, approval=True)
    assert promote(registry, approval=True, version=1).approval == "approved"
    assert open_registry(url, "prod").versions("m")[0].approval == ""
