"""The history of a model: whatever has happened to it, in one order, and nothing of other models."""

from mlops_assets.stores.registry.history import model_history
from mlops_assets.stores.registry.records import CandidateRecord
from mlops_assets.stores.registry.registry import open_registry
from tests.stores.registry.test_registry import GATES, NOW, candidate, evidence, passed, promote


def test_the_history_of_a_model_lists_every_event_in_order(url) -> None:
    registry = open_registry(url)
    passed(registry, "a")
    registry.approve("m", 1, approved=True, approver="grace", reason="first")
    promote(registry)
    passed(registry, "c")
    registry.approve("m", 2, approved=False, approver="grace", reason="no")
    promote(open_registry(url, "prod"), version=1, source="dev")
    registry.mark("m", 2, "damaged", "manifest")
    registry.submit(CandidateRecord("other", "d", "r", "x", 7, NOW), [evidence("d", passed=False)])
    found = model_history(url, "m")
    told = [(e.kind, e.version, e.environment, e.candidate, e.actor, e.reason) for e in found]
    assert told == [
        ("registration", 1, "", "a", "", ""),
        ("approval", 1, "dev", "a", "grace", "first"),
        ("promotion", 1, "dev", "a", "ada", "test"),
        ("registration", 2, "", "c", "", ""),
        ("rejection", 2, "dev", "c", "grace", "no"),
        ("promotion", 1, "prod", "a", "ada", "from dev: test"),
        ("damaged", 2, "", "c", "", "manifest"),
    ]
    assert [dict(g)["gate"] for g in found[2].evidence] == ["auc"]
    assert model_history(url, "nobody") == []


def test_a_candidate_is_refused_until_it_is_a_version(url) -> None:
    registry = open_registry(url)
    registry.submit(candidate("b"), [evidence("b", passed=False), evidence("b", gate="fair")])
    (refusal,) = model_history(url, "m")
    assert (refusal.kind, refusal.version, refusal.candidate, refusal.reason) == ("refusal", None, "b", "auc: auc 0.7")
    assert [(g["gate"], g["passed"]) for g in refusal.evidence] == [("auc", False), ("fair", True)]
    assert refusal.at == NOW
    registry.submit(candidate("b"), [evidence("b")])
    assert model_history(url, "m") == []
    registry.register("m", GATES)
    assert [e.kind for e in model_history(url, "m")] == ["registration"]
