"""Aliases: who sees what may move them; of many that move one at once, one wins; a killed mover has moved it or has not."""

import itertools
import subprocess
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_assets.compute.training import lifecycle
from mlops_assets.compute.training.lifecycle import ALLOWED, STATES, VersionFacts, explain_refusal, find_state
from mlops_assets.errors import GateError, MlopsError, RegistryError
from mlops_assets.stores.database.sql import Database, open_database
from mlops_assets.stores.registry.records import LiveEvidence
from mlops_assets.stores.registry.registry import open_registry
from tests.commands import run_code, warm_context
from tests.stores.registry.test_registry import GATES, candidate, evidence, passed, promote

PROCESSES, ROUNDS = 8, 12


@pytest.fixture
def registry(url):
    return open_registry(url)


def challenge(registry, version, gates=GATES, **more):
    return registry.challenge("m", gates, version=version, actor="ada", reason="shadow", **more)


def states(registry) -> dict[int, str]:
    return {v.version: v.state for v in registry.versions("m")}


def test_a_version_goes_through_its_states(registry, url) -> None:
    passed(registry, "a")
    assert states(registry) == {1: "gates passed"}
    assert states(open_registry(url, "prod")) == {1: "registered"}
    registry.approve("m", 1, approved=True, approver="grace", reason="fine")
    assert states(registry) == {1: "approved"}
    challenge(registry, 1)
    assert (states(registry), registry.challenger("m").version, registry.champion("m")) == ({1: "challenger"}, 1, None)
    promote(registry)
    assert (states(registry), registry.challenger("m")) == ({1: "champion"}, None)
    passed(registry, "b")
    promote(registry)
    assert states(registry) == {1: "archived", 2: "champion"}
    registry.rollback("m", actor="ada", reason="alarms")
    assert states(registry) == {1: "champion", 2: "rolled back"}
    registry.approve("m", 2, approved=False, approver="grace", reason="worse")
    assert states(registry) == {1: "champion", 2: "rejected"}
    with pytest.raises(GateError, match="version 2 of 'm' is rejected"):
        promote(registry, version=2)
    registry.mark("m", 1, "damaged", "a flipped bit")
    assert (registry.champion("m").state, registry.champion("m").damage) == ("damaged", "a flipped bit")
    assert states(registry)[1] == "damaged"
    registry.mark("m", 1, "damaged", "the same again")
    registry.mark("m", 1, "restored", "from a backup")
    assert states(registry)[1] == "champion"
    assert [(m.mark, m.reason) for m in registry.marks("m", 1)] == [("damaged", "a flipped bit"), ("restored", "from a backup")]
    assert [(e.alias, e.kind, e.version) for e in registry.history("m")] == [
        ("challenger", "challenge", 1),
        ("champion", "promotion", 1),
        ("challenger", "withdrawal", 1),
        ("champion", "promotion", 2),
        ("champion", "rollback", 1),
    ]


@pytest.mark.parametrize("state", STATES)
def test_a_table_says_what_may_be_done_to_each_state(state) -> None:
    for kind, allowed in ALLOWED.items():
        assert bool(explain_refusal(kind, state)) is (state not in allowed)
    assert ("damaged" in ALLOWED["promotion"], "rejected" in ALLOWED["promotion"]) == (False, False)


@given(
    st.sets(st.sampled_from(["champion", "challenger"])),
    st.booleans(),
    st.sampled_from(["", "approved", "rejected"]),
    st.sampled_from([None, ("promotion", True), ("promotion", False), ("rollback", True), ("rollback", False)]),
    st.sampled_from(["", "damaged", "restored"]),
)
def test_a_version_has_one_of_the_named_states(aliases, gates, approval, move, mark) -> None:
    facts = VersionFacts(tuple(sorted(aliases)), gates, approval, move, mark)
    state = find_state(facts)
    assert state in STATES
    assert (state == "damaged") is (mark == "damaged")
    if "champion" in aliases and mark != "damaged":
        assert state == "champion"


def test_a_damaged_version_goes_nowhere(registry) -> None:
    for digest in ("a", "b"):
        passed(registry, digest)
        promote(registry)
    registry.mark("m", 1, "damaged", "bytes changed")
    for move in (
        lambda: promote(registry, version=1),
        lambda: challenge(registry, 1),
        lambda: registry.rollback("m", actor="ada", reason="x"),
    ):
        with pytest.raises(RegistryError, match=r"version 1 of 'm' is damaged \(bytes changed\), so it cannot be(come)? "):
            move()
    assert registry.champion("m").version == 2
    registry.mark("m", 1, "restored", "from a backup")
    assert registry.rollback("m", actor="ada", reason="x").version == 1


def test_a_promotion_from_an_outdated_champion_names_who_moved_it(registry) -> None:
    for digest in ("a", "b", "c"):
        passed(registry, digest)
    promote(registry, version=1, expected=None)
    registry.promote("m", GATES, actor="grace", reason="the slices are better", version=2, expected=1)
    with pytest.raises(
        RegistryError,
        match=r"champion of 'm' in 'dev' is version 2, but version 1 was expected; grace moved the alias at 20.* by a promotion \(the slices",
    ):
        promote(registry, version=3, expected=1)
    with pytest.raises(RegistryError, match="is version 2, but no version was expected"):
        promote(registry, version=3, expected=None)
    with pytest.raises(RegistryError, match="but version 7 was expected"):
        registry.rollback("m", actor="ada", reason="x", expected=7)
    challenge(registry, 3, expected=None)
    with pytest.raises(
        RegistryError, match="the challenger of 'm' in 'dev' is version 3, but no version was expected; ada moved the alias"
    ):
        challenge(registry, 1, expected=None)
    assert registry.champion("m").version == 2
    assert promote(registry, version=2, expected=1).version == 2  # what is wanted is so already


def test_a_challenger_needs_its_gates_and_is_withdrawn(registry) -> None:
    registry.submit(candidate("a"), [evidence("a")])
    registry.register("m", GATES)
    with pytest.raises(GateError, match="cannot be the challenger: gate 'fair' was never evaluated"):
        challenge(registry, 1, GATES | {"fair": "x"})
    challenge(registry, 1)
    assert registry.withdraw("m", actor="ada", reason="slow").state == "gates passed"
    with pytest.raises(RegistryError, match="no challenger in 'dev'"):
        registry.withdraw("m", actor="ada", reason="slow")
    promote(registry)
    with pytest.raises(RegistryError, match="is champion, so it cannot become the challenger"):
        challenge(registry, 1)


def test_judging_again_keeps_the_live_evidence_of_a_challenger(registry) -> None:
    passed(registry, "a")
    promote(registry)
    passed(registry, "b")
    challenge(registry, 2)
    wanted = GATES | {"shadow": "shadow"}
    with pytest.raises(GateError, match="gate 'shadow' was never evaluated"):
        promote(registry, wanted)
    seen = LiveEvidence("shadow", "b", "a", True, "agrees with the champion", 5000, 0.01, -0.01, 0.03)
    registry.observe("m", 2, seen)
    passed(registry, "b")  # judged again
    with pytest.raises(RegistryError, match="about candidate a, but version 2"):
        registry.observe("m", 2, LiveEvidence("shadow", "a", "a", True, "x", 1))
    assert promote(registry, wanted).state == "champion"
    found = {e["gate"]: e for e in registry.history("m")[-2].evidence}["shadow"]
    assert (found["reason"], found["low"], found["high"]) == ("agrees with the champion (5000 rows)", -0.01, 0.03)


def test_a_shadow_that_saw_another_champion_does_not_count(registry) -> None:
    for digest in ("a", "b", "c"):
        passed(registry, digest)
    promote(registry, version=1)
    registry.observe("m", 3, LiveEvidence("canary", "c", "a", True, "fine", 10))
    promote(registry, version=2)
    with pytest.raises(GateError, match="gate 'canary' compared candidate c of 'm' with a, not with the current champion"):
        promote(registry, GATES | {"canary": "canary"}, version=3)


def test_a_version_of_staging_keeps_its_number_and_its_evidence_in_production(url) -> None:
    staging, prod = open_registry(url, "staging"), open_registry(url, "prod")
    passed(staging, "a")
    with pytest.raises(GateError, match="never evaluated"):
        promote(prod, version=1)
    with pytest.raises(RegistryError, match="environment 'elsewhere' has no evidence"):
        promote(prod, version=1, source="elsewhere")
    with pytest.raises(GateError, match="not approved"):  # an approval is of one environment
        staging.approve("m", 1, approved=True, approver="grace", reason="fine")
        promote(prod, version=1, source="staging", approval=True)
    assert prod.evidence("m", "a") == ()  # nothing half-done remains
    done = promote(prod, version=1, source="staging")
    assert (done.version, done.run_id, done.artifact, done.state) == (1, "run-a", "artifact-a", "champion")
    assert staging.champion("m") is None
    (event,) = prod.history("m")
    assert (event.environment, event.reason, event.evidence[0]["digest"]) == ("prod", "from staging: test", "a")


def test_a_relative_gate_of_staging_must_have_met_productions_champion(url) -> None:
    staging, prod = open_registry(url, "staging"), open_registry(url, "prod")
    passed(staging, "a")
    promote(staging)
    promote(prod, version=1, source="staging")
    passed(staging, "b", relative=True, champion="a")
    passed(staging, "c", relative=True, champion="z")
    assert promote(prod, version=2, source="staging").version == 2
    with pytest.raises(GateError, match="with z, not with the current champion"):
        promote(prod, version=3, source="staging")
    assert prod.champion("m").version == 2


def _race(url: str, mine: int, barrier, results) -> None:
    registry = open_registry(url)
    for _ in range(ROUNDS):
        barrier.wait()
        seen = registry.champion("m").version
        barrier.wait()
        try:
            registry.promote("m", GATES, actor=f"p{mine}", reason="race", version=mine if mine != seen else PROCESSES + 1, expected=seen)
        except MlopsError as error:
            results.put(error.message)
        else:
            results.put("won")
        barrier.wait()


def test_of_eight_that_promote_at_once_exactly_one_wins(registry, url) -> None:
    for number in range(PROCESSES + 1):
        passed(registry, f"d{number}")
    promote(registry, version=PROCESSES + 1)
    context = warm_context()
    barrier, results = context.Barrier(PROCESSES), context.Queue()
    processes = [context.Process(target=_race, args=(url, i + 1, barrier, results)) for i in range(PROCESSES)]
    for process in processes:
        process.start()
    outcomes = [results.get(timeout=120) for _ in range(PROCESSES * ROUNDS)]
    for process in processes:
        process.join()
    assert outcomes.count("won") == ROUNDS
    assert all("was expected; p" in text for text in outcomes if text != "won")
    events = registry.history("m")
    assert len(events) == ROUNDS + 1
    assert all(later.previous == earlier.version for earlier, later in itertools.pairwise(events))
    assert registry.champion("m").version == events[-1].version


KILLED = """
import os, signal, sys
import sqlalchemy as sa
from mlops_assets.stores.registry.registry import open_registry
url, what, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
registry = open_registry(url)
registry.versions()
seen = 0

def count(*_):
    global seen
    seen += 1
    if seen == number:
        os.kill(os.getpid(), signal.SIGKILL)

for name in ("before_cursor_execute", "after_cursor_execute", "commit"):
    sa.event.listen(sa.Engine, name, count)
if what == "promote":
    registry.promote("m", {"auc": "definition-1"}, actor="ada", reason="test", version=2)
elif what == "rollback":
    registry.rollback("m", actor="ada", reason="test")
else:
    registry.register("m", {"auc": "definition-1"})
print(seen)
"""


def _killed(url: str, what: str, number: int) -> subprocess.CompletedProcess[str]:
    return run_code(KILLED, url, what, str(number))


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request, tmp_path):
    """Return what makes an empty database of a kind."""
    if request.param == "sqlite":
        return lambda: f"sqlite:///{tmp_path / f'{uuid.uuid4().hex}.sqlite'}"
    return request.getfixturevalue("server").database


@pytest.mark.parametrize("what", ["promote", "rollback", "register"])
def test_a_killed_mover_has_moved_everything_or_nothing(new_url, what) -> None:
    def prepared() -> str:
        url = new_url()
        registry = open_registry(url)
        for digest in ("a", "b"):
            passed(registry, digest)
            if what == "rollback" or digest == "a":
                promote(registry)
        if what == "register":
            registry.submit(candidate("c"), [evidence("c")])
        open_database(url).engine.dispose()
        return url

    total = int(_killed(prepared(), what, 10**6).stdout)
    assert total > 10
    for number in sorted({1, 2, 3, total // 3, total // 2, total - 3, total - 2, total - 1, total}):
        url = prepared()
        before, log = open_registry(url).champion("m").version, len(open_registry(url).history("m"))
        open_database(url).engine.dispose()
        assert _killed(url, what, number).returncode == -9
        fresh = Database(url)
        with fresh.write_transaction() as connection:  # the killed one's lock is gone with it
            if url.startswith("sqlite"):
                assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        fresh.engine.dispose()
        after = open_registry(url)
        assert (after.champion("m").version, len(after.history("m")), len(after.versions("m"))) == (before, log, 2), number
        if what == "promote":
            assert promote(after, version=2).version == 2  # and it can be said again
        open_database(url).engine.dispose()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["new", "promote", "rollback", "challenge", "approve", "reject", "damage", "restore"]), st.integers(1, 4)
        ),
        max_size=20,
    )
)
def test_the_quick_looks_say_what_the_long_one_says(tmp_path_factory, moves) -> None:
    url = f"sqlite:///{tmp_path_factory.mktemp('moves') / 'r.sqlite'}"
    registry, told = open_registry(url), []

    def agree() -> None:
        """What registration says of a version is what is read of it."""
        assert told[-1] == registry.versions("m")[told[-1].version - 1]

    made = {
        "new": lambda n: told.append(passed(registry, f"d{n}")) or agree(),
        "promote": lambda n: promote(registry, version=n),
        "rollback": lambda n: registry.rollback("m", actor="a", reason="r", version=n),
        "challenge": lambda n: challenge(registry, n),
        "approve": lambda n: registry.approve("m", n, approved=True, approver="a", reason="r"),
        "reject": lambda n: registry.approve("m", n, approved=False, approver="a", reason="r"),
        "damage": lambda n: registry.mark("m", n, "damaged", "d"),
        "restore": lambda n: registry.mark("m", n, "restored", "r"),
    }
    for what, number in moves:
        try:
            made[what](number)
        except RegistryError:
            continue
    every = registry.versions("m")
    held = {alias: v for v in every for alias in v.aliases}
    assert registry.champion("m") == held.get("champion")
    assert registry.challenger("m") == held.get("challenger")
    last = {e.alias: e for e in registry.history("m")}
    if "champion" in last:
        assert last["champion"].version == held["champion"].version
    assert all(v.state in lifecycle.STATES for v in every)
    open_database(url).engine.dispose()
