"""Ask a prompt: its messages, the model's reply, and the answer in the declared type."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlops_assets.compute.prompts.messages import build_messages
from mlops_assets.compute.prompts.version import build_json_schema, hash_prompt
from mlops_assets.errors import ProviderError
from mlops_assets.serving.llm.client import complete
from mlops_assets.serving.llm.request import CompletionRequest
from mlops_assets.values.arguments import check_arguments
from mlops_assets.values.llm.answer import Answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_assets.stores.llm.response_cache import CacheScope, ResponseCache
    from mlops_assets.values.llm.prompt import Prompt
    from mlops_assets.values.llm.provider import Completion


@check_arguments
def ask(prompt: Prompt[..., Any], values: Mapping[str, Any], *, cache: ResponseCache | None = None) -> Answer:
    """Return a model's answer to a prompt.

    Parameters
    ----------
    prompt
        The prompt.
    values
        Variable → value.
    cache
        Where answers are looked up and stored; None asks the model in each call.

    Returns
    -------
    Answer
        The answer, in the type that the prompt declares.

    Raises
    ------
    DefinitionError
        A variable is missing, or a value has no variable.
    DataError
        A value has another type than its variable declares.
    ProviderError
        No model answered, or the answer is not of the declared type.
    MissingExtraError
        httpx is not installed.

    See Also
    --------
    prompt : Declares a prompt.
    build_messages : Returns the messages that are sent.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> @ml.llm.prompt(model=ml.llm.LLM("small", base_url="http://127.0.0.1:9/v1", retries=0))
    ... def summary(report: str) -> None:
    ...     '''Summarise the report in one sentence.'''
    >>> try:
    ...     ml.llm.ask(summary, {"report": "All flights are on time."})
    ... except ml.errors.ProviderError as error:
    ...     print(error.kind)
    connection
    """
    completion = request_completion(prompt, values, None if cache is None else cache.build_scope(hash_prompt(prompt), values))
    return Answer(parse_answer(prompt, completion), completion)


def request_completion(
    prompt: Prompt[..., Any], values: Mapping[str, Any], scope: CacheScope | None, *, streams: bool = False
) -> Completion:
    """Return the model's reply to a prompt as text.

    Parameters
    ----------
    prompt, values
        As in :func:`ask`.
    scope
        The part of the cache for this call; None asks the model.
    streams
        As in :func:`complete`.
    """
    messages = [message.as_json() for message in build_messages(prompt, values)]
    schema = build_json_schema(prompt.response)
    return complete(prompt.model, messages, response_schema=schema, cache=scope, streams=streams)


def find_cached_completion(prompt: Prompt[..., Any], values: Mapping[str, Any], scope: CacheScope | None) -> Completion | None:
    """Return the cached reply to a prompt, of the model or else of the first fallback with a cached reply; None when there is none.

    Parameters
    ----------
    prompt, values, scope
        As in :func:`request_completion`.
    """
    if scope is None:
        return None
    request = CompletionRequest(
        [message.as_json() for message in build_messages(prompt, values)], build_json_schema(prompt.response), 0.0, 0.0
    )
    stored = (scope.read(request.to_body(model), model.pin, model.endpoint) for model in (prompt.model, *prompt.model.fallbacks))
    found = next((completion for completion in stored if completion is not None), None)
    return None if found is None else replace(found, attempts=0)


def parse_answer(prompt: Prompt[..., Any], completion: Completion) -> Any:  # noqa: ANN401  (of the declared type)
    """Parse the JSON text of a completion into the prompt's response type; return the text if the prompt declares no response type.

    If the text does not fit, raise ProviderError that names the first mismatch.

    Parameters
    ----------
    prompt
        The prompt.
    completion
        The reply to the prompt.
    """
    if prompt.response is None:
        return completion.text
    import pydantic

    try:
        return pydantic.TypeAdapter(prompt.response).validate_json(completion.text)
    except pydantic.ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = "".join(f"[{part!r}]" for part in first["loc"])
    cut = "; max_tokens cut it off" if completion.finish_reason == "length" else ""
    raise ProviderError(
        f"the answer of '{completion.model}' to '{prompt.key}' is not of the declared type: {place or 'the whole text'}: {first['msg']}{cut}",
        hint="raise max_tokens" if cut else "ask a model that follows a JSON schema, or declare a simpler response",
        kind="reply",
        endpoint=prompt.model.endpoint,
        model=completion.model,
        attempts=completion.attempts,
        may_be_billed=completion.may_be_billed + (0 if completion.cached else 1),
    )
