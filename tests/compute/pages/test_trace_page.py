"""The page of a trace shows its spans as a waterfall and its content literally: nothing of a trace runs or is loaded."""

import json
import re
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from mlops_assets.compute.llm_traces.trace_rows import build_trace_rows
from mlops_assets.compute.llm_traces.trace_tree import build_traces
from mlops_assets.compute.pages.trace_page import render_trace
from mlops_assets.values.llm.span import SECOND, Span
from tests.browser import browser_page

NASTY = "</pre><script>window.ran=1</script><img src=http://127.0.0.1:1/x onerror='window.ran=1'>\" style=\"x\x00 {{ 7*7 }} \u202egnp.exe"
NOON = int(datetime(2024, 5, 1, 12, tzinfo=UTC).timestamp()) * SECOND
TRACE = "0af7651916cd43dd8448eb211c80319c"


def make_spans(text: str = "late?", start: int = NOON) -> list[Span]:
    root = Span(TRACE, f"{1:016x}", None, "answer", start, start + 2 * SECOND, "ok", "", {"mlops.input": text, "mlops.output": text})
    call = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": text,
        "gen_ai.usage.input_tokens": 1200,
        "mlops.cost": 0.25,
        "mlops.price.version": "2026-01-01",
        "note": text,
    }
    middle, end = start + SECOND // 2, start + 3 * SECOND // 2
    return [root, Span(TRACE, f"{2:016x}", root.span_id, f"chat {text}", middle, end, "error", f"it failed: {text}", call)]


def render(spans: list[Span]) -> str:
    (trace,) = build_traces(build_trace_rows({date(2024, 5, 1): spans}).frame)
    return render_trace(trace, "bot")


def test_bars_lie_where_their_spans_do() -> None:
    page = render(make_spans())
    assert re.findall(r"left:([\d.]+)%;width:([\d.]+)%", page) == [("0.00", "100.00"), ("25.00", "50.00")]
    assert "1,200 + –" in page
    assert "cost 0.250, prices 2026-01-01" in page
    assert "it failed: late?" in page
    root, call = make_spans()
    received = replace(call, attributes={name: value for name, value in call.attributes.items() if name != "mlops.price.version"})
    assert "cost 0.250" in render([root, received])
    assert "prices" not in render([root, received])


@pytest.mark.parametrize("seconds", [0, 1])
def test_a_span_of_no_time_has_a_visible_bar_within_the_lane(seconds) -> None:
    root, call = make_spans()
    spans = [replace(root, end=NOON + seconds * SECOND), replace(call, start=NOON + seconds * SECOND, end=NOON + seconds * SECOND)]
    bars = [tuple(map(float, bar)) for bar in re.findall(r"left:([\d.]+)%;width:([\d.]+)%", render(spans))]
    assert all(width > 0 and left + width <= 100 for left, width in bars)


def test_content_that_is_json_is_indented_and_missing_content_is_explained() -> None:
    assert "{\n  &#34;question&#34;: &#34;late?&#34;\n}" in render(make_spans(json.dumps({"question": "late?"})))
    bare = [replace(span, attributes={}) for span in make_spans()]
    assert "does not capture input and output" in render(bare)
    assert "[" * 100_000 in render(make_spans("[" * 100_000))


def test_a_browser_shows_hostile_content_literally_and_runs_and_loads_nothing(tmp_path) -> None:
    file = tmp_path / "trace.html"
    file.write_text(render(make_spans(NASTY)))
    with browser_page(900, 700) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        assert page.evaluate("window.ran") is None
        assert page.locator("script, img, a, iframe, link").count() == 0
        assert page.locator("pre").first.inner_text() == NASTY.replace("\x00", "�").replace("\u202e", "�")
        assert page.locator(".waterfall .span").count() == 2
        lane, bar = (page.locator(chosen).last.bounding_box() for chosen in (".lane", ".lane b"))
        assert bar["x"] == pytest.approx(lane["x"] + lane["width"] / 4, abs=1)
        assert bar["width"] == pytest.approx(lane["width"] / 2, abs=1)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert asked == [file.as_uri()]
