"""Counters are summed over workers and never decrease."""

import re
import resource

import numpy as np
import pytest

from mlops_assets.errors import ServiceError
from mlops_assets.serving.http.metrics import BUCKETS, Metrics, allocate_counters, find_counter_file, read_request_counts
from mlops_assets.serving.http.openapi import build_openapi
from mlops_assets.serving.predict.model_inputs import ViewLookup
from mlops_assets.serving.predict.request_schema import RequestSchema


def values(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"^(\w+(?:\{[^}]*\})?) (\S+)$", text, re.MULTILINE)}


def test_any_worker_answers_for_all(tmp_path) -> None:
    one, two = Metrics(tmp_path, 0), Metrics(tmp_path, 1)
    one.count("predictions", 3)
    two.count("predictions", 4)
    one.count_reply(200, 0.0002)
    two.count_reply(422, 9.0)
    two.count_reply(200, BUCKETS[0])
    assert one.render({}) == two.render({})
    found = values(one.render({0: 7, 1: None}))
    assert found["mlops_predictions_total"] == 7
    assert found['mlops_requests_total{code="200"}'] == 2
    assert found['mlops_requests_total{code="422"}'] == 1
    assert found['mlops_request_duration_seconds_bucket{le="0.0001"}'] == 1
    assert found['mlops_request_duration_seconds_bucket{le="0.00025"}'] == 2
    assert found['mlops_request_duration_seconds_bucket{le="2.5"}'] == 2
    assert found['mlops_request_duration_seconds_bucket{le="+Inf"}'] == found["mlops_request_duration_seconds_count"] == 3
    assert found["mlops_request_duration_seconds_sum"] == pytest.approx(9.0003)
    assert found['mlops_worker_version{worker="0"}'] == 7
    assert 'worker="1"' not in one.render({0: 7, 1: None})


def test_every_documented_status_is_counted(tmp_path) -> None:
    metrics, document = Metrics(tmp_path, 0), build_openapi("churn", 1, RequestSchema([], {}, 10))
    statuses = document["paths"]["/predict"]["post"]["responses"]
    for status in statuses:
        metrics.count_reply(int(status), 0.1)
    counts = values(metrics.render({}))
    assert {status: counts[f'mlops_requests_total{{code="{status}"}}'] for status in statuses} == dict.fromkeys(statuses, 1)


def test_statuses_and_ages_of_each_view_are_summed_over_workers(tmp_path) -> None:
    one, two = Metrics(tmp_path, 0), Metrics(tmp_path, 1)
    one.count_lookups([ViewLookup("a", (0,), (500_000,)), ViewLookup("b", (2,), (-1,))])
    two.count_lookups([ViewLookup("b", np.array([1, 0, 2]), np.array([9_000_000_000, 20_000_000, -1]))])
    two.count_lookups([ViewLookup(f"v{i}", (0,), (0,)) for i in range(100)])  # more than there is room for
    Metrics(tmp_path, 0).count_lookups([ViewLookup("a", (0,), (1_500_000,))])  # started again
    assert one.render({}) == two.render({})
    found = values(one.render({}))
    counts = {(v, s): found[f'mlops_feature_rows_total{{view="{v}",status="{s}"}}'] for v in "ab" for s in ("fresh", "stale", "missing")}
    assert list(counts.values()) == [2, 0, 0, 1, 1, 2]
    assert found['mlops_feature_age_seconds_bucket{view="a",le="1.0"}'] == 1
    assert found['mlops_feature_age_seconds_bucket{view="a",le="10.0"}'] == found['mlops_feature_age_seconds_count{view="a"}'] == 2
    assert found['mlops_feature_age_seconds_sum{view="a"}'] == pytest.approx(2.0)
    assert found['mlops_feature_age_seconds_bucket{view="b",le="+Inf"}'] == 1


def test_a_restarted_worker_continues_its_counts(tmp_path) -> None:
    for n in range(1, 4):
        metrics = Metrics(tmp_path, 0)
        metrics.count("predictions")
        metrics.count_reply(200, 0.1)
        assert values(metrics.render({}))["mlops_predictions_total"] == n


def test_every_line_is_prometheus_text(tmp_path) -> None:
    text = Metrics(tmp_path, 0).render({0: 1})
    parsed = pytest.importorskip("prometheus_client.parser").text_string_to_metric_families(text)
    kinds = {family.name: family.type for family in parsed}
    assert kinds["mlops_requests"] == "counter"
    assert kinds["mlops_request_duration_seconds"] == "histogram"
    assert kinds["mlops_worker_version"] == "gauge"
    assert kinds["mlops_feature_rows"] == "counter"
    assert kinds["mlops_feature_age_seconds"] == "histogram"


def test_a_full_disk_refuses_a_new_file_instead_of_killing_the_process_later(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match="cannot be created"):
        allocate_counters(tmp_path / "file", 0)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(ServiceError, match="cannot be created"):
            allocate_counters(tmp_path, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert allocate_counters(tmp_path, 0).stat().st_size == find_counter_file(tmp_path, 0).stat().st_size > 100


def test_counts_of_requests_are_read_without_a_running_worker(tmp_path) -> None:
    assert read_request_counts(tmp_path).find_quantile(0.5) is None
    for worker, (code, seconds) in enumerate(((200, 0.002), (200, 0.002), (500, 100.0))):
        Metrics(tmp_path, worker).count_reply(code, seconds)
    counts = read_request_counts(tmp_path)
    assert dict(counts.by_status) == {200: 2, 500: 1}
    assert counts.count == 3
    assert counts.seconds == pytest.approx(100.004)
    assert counts.find_quantile(0.5) == 0.0025
    assert counts.find_quantile(0.99) == float("inf")
