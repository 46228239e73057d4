"""A loaded version of a prompt: it parses the variables of calls and the answers of the model."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any, NotRequired

from mlops_assets.compute.llm_evaluation.json_schema import parse_json
from mlops_assets.compute.prompts.messages import build_data_messages, build_fixed_messages, convert_value
from mlops_assets.compute.prompts.redaction import redact_text
from mlops_assets.compute.prompts.version import build_json_schema
from mlops_assets.errors import MlopsError, suggest_name
from mlops_assets.serving.prompts.openapi_document import build_document
from mlops_assets.serving.prompts.refusal import RefusalError
from mlops_assets.values.llm.prompt import Message

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pydantic

    from mlops_assets.serving.http.service_folder import TargetVersion
    from mlops_assets.values.llm.prompt import Prompt
    from mlops_assets.values.llm.provider import Completion


class ServedPrompt:
    """A version of a prompt that answers calls.

    Parameters
    ----------
    prompt
        The stored prompt.
    target
        The version of the prompt.
    needs_key
        Whether calls need an API key, for the OpenAPI document.
    """

    description, libraries = "prompt", ""

    def __init__(self, prompt: Prompt[..., Any], target: TargetVersion, *, needs_key: bool = False) -> None:
        import pydantic

        self.prompt, self.target = prompt, target
        self.response_schema = build_json_schema(prompt.response)
        self.schema_bytes = 0 if prompt.response is None else len(json.dumps(self.response_schema))
        self._variables = _build_adapter(prompt)
        self._defaults = {v.name: None if v.is_required else convert_value(prompt, v, v.default) for v in prompt.variables}
        self._response: pydantic.TypeAdapter[Any] | None = None if prompt.response is None else pydantic.TypeAdapter(prompt.response)
        self.openapi = json.dumps(build_document(prompt, self.version, needs_key=needs_key)).encode()

    @property
    def name(self) -> str:
        """Name of the prompt."""
        return self.prompt.name

    @property
    def version(self) -> int:
        """Number of the version."""
        return self.target.version

    def read_variables(self, body: bytes) -> dict[str, Any]:
        """Return variable → value of a call.

        Parameters
        ----------
        body
            A JSON object with a field for each variable; those with a default may be missing.

        Raises
        ------
        RefusalError
            400: the body is not JSON; 422: a variable is missing, unknown, or of another type.
        """
        import pydantic

        try:
            variables: dict[str, Any] = self._variables.validate_json(body, strict=True)
        except pydantic.ValidationError as error:
            raise self._explain(error) from None
        return variables

    def build_messages(self, variables: Mapping[str, Any], *, redact: bool = False) -> list[Message]:
        """Return the messages of a call.

        Parameters
        ----------
        variables
            Returned by :meth:`read_variables`.
        redact
            Whether texts that the prompt's function adds are redacted. Instructions and examples are the author's own and stay.

        Raises
        ------
        RefusalError
            500: the function of the prompt failed.
        """
        try:
            defaults = copy.deepcopy(self._defaults)  # the prompt's function may change them, and all calls share them
            bound = {**defaults, **variables}
            fixed, data = build_fixed_messages(self.prompt, bound), build_data_messages(self.prompt, bound)
        except MlopsError as error:
            cause = type(error.__cause__ or error).__name__  # its message may repeat a variable
            problem = f"the prompt '{self.name}' cannot build messages from these variables ({cause})"
            raise RefusalError(problem, hint="call the prompt's function with these variables to see the error", status=500) from None
        redacts = redact and self.prompt.has_body  # without a body, the messages hold only variables
        return [*fixed, *([_redact_message(message) for message in data] if redacts else data)]

    def parse_answer(self, completion: Completion) -> tuple[Any, str]:
        """Return the answer in a reply as JSON values, and ``""``; None and the reason if the answer does not fit the response type.

        Parameters
        ----------
        completion
            The reply.
        """
        if self._response is None:
            return completion.text, ""
        import pydantic

        try:
            value = self._response.validate_json(completion.text)
        except pydantic.ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            known = list_field_names(self.response_schema)  # other names are text of the model, which must not be shown
            place = "".join(f"[{part!r}]" if isinstance(part, int) or part in known else "[…]" for part in first["loc"]) or "the whole text"
            return None, f"{place}: {first['msg']}" + ("; max_tokens cut it off" if completion.finish_reason == "length" else "")
        try:
            parse_json(completion.text)
        except ValueError:  # pydantic accepts it
            return None, "the whole text: NaN, an infinite number or a name that occurs twice is not JSON"
        return self._response.dump_python(value, mode="json"), ""

    def _explain(self, error: pydantic.ValidationError) -> RefusalError:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        known = ", ".join(variable.name for variable in self.prompt.variables) or "none"
        if first["type"] == "json_invalid":
            return RefusalError("the body is not JSON", hint="send a JSON object in UTF-8", status=400)
        if not first["loc"]:
            return RefusalError("the body is not a JSON object", hint=f"send the variables as its fields: {known}")
        name, place = str(first["loc"][0])[:100], "".join(f"[{part!r}]" for part in first["loc"][1:])[:100]
        if first["type"] == "missing" and not place:
            return RefusalError(f"the variable '{name}' is missing", hint=f"the variables are {known}", variable=name)
        if first["type"] == "extra_forbidden" and not place:
            hint = suggest_name(name, [variable.name for variable in self.prompt.variables]) + f"the variables are {known}"
            return RefusalError(f"there is no variable '{name}'", hint=hint, variable=name)
        return RefusalError(f"the variable '{name}'{place}: {first['msg']}", hint="/openapi.json has its type", variable=name)


def _redact_message(message: Message) -> Message:
    return message if message.role == "system" else Message(message.role, redact_text(message.content))


def _build_adapter(prompt: Prompt[..., Any]) -> pydantic.TypeAdapter[dict[str, Any]]:
    """Return the decoder of a call's body, which rejects unknown fields, NaN and infinite numbers."""
    import pydantic
    import typing_extensions

    fields: dict[str, Any] = {v.name: v.annotation if v.is_required else NotRequired[v.annotation] for v in prompt.variables}
    make_type: Any = typing_extensions.TypedDict
    kind = make_type("Variables", fields)
    kind.__pydantic_config__ = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
    return pydantic.TypeAdapter(kind)


def list_field_names(schema: object) -> set[str]:
    """Return the names of all fields that a JSON schema declares.

    Parameters
    ----------
    schema
        The schema, or a part of it.
    """
    if isinstance(schema, list):
        return {name for item in schema for name in list_field_names(item)}
    if not isinstance(schema, dict):
        return set()
    properties = schema.get("properties")
    return {*(properties if isinstance(properties, dict) else ()), *(name for item in schema.values() for name in list_field_names(item))}
