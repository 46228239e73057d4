"""Call a model's function outside of its Dagster step, with the parts of the training set and hyperparameters."""

from collections.abc import Mapping
from typing import Any

from mlops_assets.errors import DefinitionError
from mlops_assets.values.evaluation import Split
from mlops_assets.values.function import Injection, UserFunction, read_function

_ALLOWED = (Injection.SPLIT, Injection.CONFIG, Injection.CONTEXT)


def call_recorded(function: Any, splits: Mapping[str, Split], params: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Call a model's function, loaded from its stored source, with the arguments that its step would pass; return its result.

    Parameters
    ----------
    function
        The model's function without its decorator.
    splits, params
        The parts of the training set, and the hyperparameters. The function receives those that its signature names.

    Raises
    ------
    DefinitionError
        The function asks for a table, a window or a resource, see :func:`refuse_unrecorded`.
    """
    model_function: UserFunction[..., Any] = read_function(function, kind="model", allowed=tuple(Injection), what="a model")
    refuse_unrecorded(model_function)
    return model_function(**{parameter.name: _resolve_argument(parameter, splits, params) for parameter in model_function.parameters})


def refuse_unrecorded(function: UserFunction[..., Any]) -> None:
    """Raise DefinitionError for a function that asks for more than parts of its training set, hyperparameters and a Dagster context.

    Parameters
    ----------
    function
        The function, with its parsed signature.

    Raises
    ------
    DefinitionError
        The function asks for a table, a window or a resource.
    """
    for parameter in function.parameters:
        if parameter.injection not in _ALLOWED:
            raise DefinitionError(
                f"'{function.name}' asks for {parameter.injection.value} '{parameter.name}', which the record does not contain",
                hint="pass it in the training set or in the hyperparameters",
            )


def _resolve_argument(parameter: Any, splits: Mapping[str, Split], params: Mapping[str, Any]) -> Any:  # noqa: ANN401
    if parameter.injection is Injection.SPLIT:
        return splits[parameter.name]
    if parameter.injection is Injection.CONFIG:
        return parameter.annotation(**{name: value for name, value in params.items() if name in parameter.annotation.model_fields})
    import dagster as dg

    return dg.build_asset_context()
