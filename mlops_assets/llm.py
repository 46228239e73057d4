"""LLM operations: prompts with typed variables, their versions, the models that answer, evaluations and judges.

Examples
--------
>>> import mlops_assets as ml
>>> @ml.llm.prompt(model=ml.llm.LLM("smollm2", base_url="http://127.0.0.1:8080/v1"))
... def summary(report: str) -> None:
...     '''Summarise the report in one sentence.'''
>>> [message.role for message in ml.llm.build_messages(summary, {"report": "All flights are on time."})]
['system', 'user']
"""

from mlops_assets.compute.prompts.messages import build_messages
from mlops_assets.compute.prompts.version import hash_prompt
from mlops_assets.decorators.llm import prompt, scorer
from mlops_assets.serving.llm.ask import ask
from mlops_assets.serving.llm.tracing import start_trace, trace
from mlops_assets.stores.llm.response_cache import ResponseCache
from mlops_assets.stores.platform.labels import read_labels
from mlops_assets.values.llm.calibration import Calibration
from mlops_assets.values.llm.judge import Judge
from mlops_assets.values.llm.pairwise_judge import PairwiseJudge
from mlops_assets.values.llm.prompt import FewShotExample
from mlops_assets.values.llm.prompt_evaluation import PromptEvaluation
from mlops_assets.values.llm.prompt_service import Budget, PromptService, RateLimits
from mlops_assets.values.llm.provider import LLM
from mlops_assets.values.llm.quality_monitor import QualityExpectation, QualityMonitor
from mlops_assets.values.llm.scorers import EditSimilarity, ExactMatch, Groundedness, JsonSchemaMatch, RegexMatch, RetrievalHit, TokenF1
from mlops_assets.values.llm.trace_source import TraceSource

__all__ = [  # noqa: RUF022  (as sorted() sorts)
    "Budget",
    "Calibration",
    "EditSimilarity",
    "ExactMatch",
    "FewShotExample",
    "Groundedness",
    "JsonSchemaMatch",
    "Judge",
    "LLM",
    "PairwiseJudge",
    "PromptEvaluation",
    "PromptService",
    "QualityExpectation",
    "QualityMonitor",
    "RateLimits",
    "RegexMatch",
    "ResponseCache",
    "RetrievalHit",
    "TokenF1",
    "TraceSource",
    "ask",
    "build_messages",
    "hash_prompt",
    "prompt",
    "read_labels",
    "scorer",
    "start_trace",
    "trace",
]
