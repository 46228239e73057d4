"""Prompts: instructions, typed variables, and the model that answers."""

from __future__ import annotations

import dis
import inspect
import string
import types
import typing
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, ParamSpec, TypeVar

from mlops_assets.errors import DefinitionError, suggest_name
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.names import validate_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import pydantic

    from mlops_assets.values.llm.provider import LLM

P = ParamSpec("P")
R = TypeVar("R")

ROLES = ("system", "user", "assistant")
# The instructions in the byte code of an empty function: those before its body, and those that return None.
_SETUP, _RETURN = ("RESUME", "NOP", "COPY_FREE_VARS"), ("LOAD_CONST", "RETURN_VALUE", "RETURN_CONST")
_CLOSED_TYPES = (bool, int, float)  # their values cannot contain instructions


@check_constructor
@dataclass(frozen=True)
class Message:
    """One message of a chat.

    Parameters
    ----------
    role
        ``system``, ``user`` or ``assistant``.
    content
        The text.

    See Also
    --------
    mlops_assets.llm.build_messages : Returns messages.
    """

    role: str
    content: str

    def as_json(self) -> dict[str, str]:
        """Return the message as the JSON object of a chat endpoint."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True)
class Variable:
    """One variable of a prompt.

    Parameters
    ----------
    name
        The name of the function's parameter.
    annotation
        The resolved type.
    default
        The value in calls that do not give the variable; ``inspect.Parameter.empty`` when the variable is required.
    """

    name: str
    annotation: Any
    default: Any = inspect.Parameter.empty

    @cached_property
    def adapter(self) -> pydantic.TypeAdapter[Any]:
        """The pydantic adapter that checks values of this type; cached, because building it takes longer than a check."""
        import pydantic

        return pydantic.TypeAdapter(self.annotation)

    @property
    def is_required(self) -> bool:
        """Whether each call must give a value."""
        return self.default is inspect.Parameter.empty

    @property
    def is_closed(self) -> bool:
        """Whether all values are numbers, booleans, ``Literal`` or ``Enum`` members, or None, which cannot contain instructions."""
        return _is_closed(self.annotation)


def _is_closed(annotation: Any) -> bool:  # noqa: ANN401  (any annotation)
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _is_closed(typing.get_args(annotation)[0])
    if origin is Literal:
        return True
    if origin in (typing.Union, types.UnionType):
        return all(part is type(None) or _is_closed(part) for part in typing.get_args(annotation))
    return inspect.isclass(annotation) and issubclass(annotation, (*_CLOSED_TYPES, Enum))


@check_constructor
@dataclass(frozen=True, init=False)
class FewShotExample:
    """A call of a prompt with the answer that the model should give; sent before each call (few-shot).

    Parameters
    ----------
    variables
        Variable → value, for each required variable of the prompt.
    answer
        The answer as text.

    See Also
    --------
    prompt : Has examples.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.llm.FewShotExample({"report": "arrived 40 minutes after schedule"}, "late").answer
    'late'
    """

    variables: tuple[tuple[str, Any], ...]
    answer: str

    def __init__(self, variables: Mapping[str, Any], answer: str) -> None:
        object.__setattr__(self, "variables", tuple(variables.items()))
        object.__setattr__(self, "answer", answer)


@check_constructor
@dataclass(frozen=True, eq=False)
class Prompt(Generic[P, R]):
    """A declared prompt: instructions and typed variables for a model.

    Made by :func:`mlops_assets.llm.prompt`; still callable as the function.

    Parameters
    ----------
    function, model, response, examples, approval
        As in :func:`mlops_assets.llm.prompt`.
    variables
        The parameters of the function.
    instructions
        The docstring of the function.
    has_body
        Whether the function makes the messages after the instructions.
    code_hash
        The hash of the function's code, for a function that was read back from a stored version; empty otherwise.

    See Also
    --------
    mlops_assets.llm.prompt : Returns it.
    """

    function: Callable[P, R]
    model: LLM
    variables: tuple[Variable, ...]
    instructions: str
    has_body: bool
    response: Any = None
    examples: tuple[FewShotExample, ...] = ()
    approval: bool = False
    code_hash: str = ""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function that was decorated."""
        return self.function(*args, **kwargs)

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__

    @property
    def key(self) -> str:
        """``prompt/<name>``."""
        return f"prompt/{self.name}"


def read_prompt(
    function: Callable[P, R],
    model: LLM,
    response: Any,  # noqa: ANN401  (any type that JSON can hold)
    examples: tuple[FewShotExample, ...],
    *,
    approval: bool = False,
) -> Prompt[P, R]:
    """Read the signature, the docstring and the body of a prompt function.

    Parameters
    ----------
    function
        The function: its parameters are the variables, its docstring the instructions.
    model, response, examples, approval
        As in :func:`mlops_assets.llm.prompt`.

    Raises
    ------
    DefinitionError
        A parameter has no resolvable annotation; the instructions contain a placeholder that is not a variable, or whose values may contain
        instructions; an example lacks a variable or has an unknown one; or the prompt has neither a docstring nor a body.
    """
    name = validate_name(function.__name__, "a prompt")
    where = f"@ml.llm.prompt '{name}'"
    variables = tuple(_read_variables(function, where))
    instructions, has_body = inspect.getdoc(function) or "", _has_body(function)
    if not instructions and not has_body:
        raise DefinitionError(f"{where} has neither instructions nor a body", hint="write the instructions as its docstring")
    _check_placeholders(instructions, {variable.name: variable for variable in variables}, where)
    for example in examples:
        check_names(dict(example.variables), variables, f"{where}: the example with the answer {example.answer[:40]!r}")
    return Prompt(function, model, variables, instructions, has_body, response, examples, approval)


def _read_variables(function: Callable[..., object], where: str) -> Iterator[Variable]:
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise DefinitionError(
            f"{where}: an annotation cannot be resolved: {error}", hint="import the annotated types at run time, not under TYPE_CHECKING"
        ) from error
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise DefinitionError(f"{where} takes *{name}", hint="name every variable")
        if name not in hints:
            raise DefinitionError(f"{where}: variable '{name}' has no annotation", hint=f"annotate it with its type, e.g. `{name}: str`")
        yield Variable(name, hints[name], parameter.default)


def _has_body(function: Callable[..., object]) -> bool:
    """Return True unless a function only returns None, as one with nothing but a docstring, ``pass`` or ``...`` does."""
    steps = [step for step in dis.get_instructions(function) if step.opname not in _SETUP]
    return any(step.opname not in _RETURN or step.argval is not None for step in steps)


def list_placeholders(instructions: str) -> list[str]:
    """Return the names in braces, in their order and with repetitions; ``{{`` and ``}}`` are braces of the text.

    Parameters
    ----------
    instructions
        The instructions of a prompt.

    Raises
    ------
    ValueError
        A brace has no partner.
    """
    return [field for _, field, _, _ in string.Formatter().parse(instructions) if field is not None]


def _check_placeholders(instructions: str, variables: Mapping[str, Variable], where: str) -> None:
    try:
        placeholders = list_placeholders(instructions)
    except ValueError as error:
        raise DefinitionError(f"{where}: the instructions cannot be read: {error}", hint="escape literal braces as {{ and }}") from error
    for name in placeholders:
        if name not in variables:
            raise DefinitionError(
                f"{where}: the instructions contain '{{{name}}}', which is not a variable of the prompt",
                hint=f"its variables are {', '.join(variables) or 'none'}; escape literal braces as {{{{ and }}}}",
            )
        if not variables[name].is_closed:
            raise DefinitionError(
                f"{where}: the instructions contain '{{{name}}}', whose values may contain instructions of their own",
                hint="leave it out: variables are sent as data after the instructions. Numbers, booleans, Literal and Enum may stand in them",
            )


def check_names(values: Mapping[str, Any], variables: tuple[Variable, ...], what: str) -> None:
    """Raise DefinitionError for a required variable without a value, and for a value without a variable.

    Parameters
    ----------
    values
        Variable → value.
    variables
        The variables of the prompt.
    what
        The call or example with the values, named in the error message.
    """
    known = {variable.name: variable for variable in variables}
    for name in values:
        if name not in known:
            raise DefinitionError(
                f"{what} has no variable '{name}'", hint=suggest_name(name, known) + f"its variables are {', '.join(known) or 'none'}"
            )
    for name, variable in known.items():
        if variable.is_required and name not in values:
            raise DefinitionError(f"{what} lacks the variable '{name}'", hint=f"give {name}=…")
