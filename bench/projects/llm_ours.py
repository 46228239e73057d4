"""Our client and trace log, httpx and a plain file: ``python -m bench.projects.llm_ours CONTENDER FOLDER [URL]``."""

from __future__ import annotations

import json
import os
import sys
from datetime import date
from pathlib import Path
from typing import Any

import httpx

import mlops_assets as ml
from bench.projects.llm_work import ATTRIBUTES, PARAMETERS, time_calls, time_loop
from bench.worker import serve
from mlops_assets.serving.logs.trace_log import read_traces


def main(contender: str, folder: str, url: str = "http://127.0.0.1:9/v1", _messages: str = "") -> None:
    """Answer questions."""
    model = ml.llm.LLM("instant", base_url=url, temperature=PARAMETERS["temperature"], max_tokens=PARAMETERS["max_tokens"])
    source = ml.llm.TraceSource("bench", folder=f"{folder}/traces")
    client, file = httpx.Client(timeout=60), os.open(f"{folder}/traces.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    variables = {"question": "Which airport is the latest?", "context": "EWR 15 minutes, JFK 9 minutes, LGA 6 minutes."}

    @ml.llm.prompt(model=model)
    def answer_question(question: str, context: str) -> None:
        """Answer the question from the context alone."""

    messages = [message.as_json() for message in ml.llm.build_messages(answer_question, variables)]

    def ask() -> tuple[str, int | None, int | None]:
        answer = ml.llm.ask(answer_question, variables)
        return answer.value, answer.completion.prompt_tokens, answer.completion.completion_tokens

    def ask_traced() -> tuple[str, int | None, int | None]:
        with ml.llm.start_trace(source, "answer") as root:
            text, sent, received = ask()
            root.attributes |= {
                "gen_ai.request.model": "instant",
                "gen_ai.usage.input_tokens": sent,
                "gen_ai.usage.output_tokens": received,
            }
            root.attributes |= {"mlops.input": json.dumps(variables), "mlops.output": text}
        return text, sent, received

    def post() -> tuple[str, int, int]:
        document = client.post(f"{url}/chat/completions", json={"messages": messages, **PARAMETERS}).raise_for_status().json()
        return document["choices"][0]["message"]["content"], document["usage"]["prompt_tokens"], document["usage"]["completion_tokens"]

    def record_trace() -> None:
        with ml.llm.start_trace(source, "answer") as root:
            root.attributes |= ATTRIBUTES

    def append_line() -> None:
        os.write(file, json.dumps(ATTRIBUTES).encode() + b"\n")

    def list_traces() -> list[dict[str, Any]]:
        if contender == "plain":
            return [json.loads(line) for line in Path(folder, "traces.jsonl").read_text(encoding="utf-8").splitlines()]
        return [dict(span.attributes) for spans in read_traces(Path(folder, "traces"), date.min, date.max).values() for span in spans]

    call = {"ask": ask, "traced": ask_traced, "httpx": post}.get(contender, ask)
    record = append_line if contender == "plain" else record_trace
    serve(
        {
            "messages": lambda: {"messages": messages},
            "answer": lambda: {"answer": call()},
            "call": lambda times: time_calls(times, call),
            "record": lambda times: time_loop(times, record),
            "traces": lambda: {"count": len(found := list_traces()), "last": found[-1]},
        }
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
