"""Declared training sets, and the rules that split their rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Generic

from mlops_assets.errors import DefinitionError
from mlops_assets.values.arguments import check_constructor
from mlops_assets.values.function import P, R, UserFunction
from mlops_assets.values.options import AssetOptions

if TYPE_CHECKING:
    from mlops_assets.values.features import Features


@check_constructor
@dataclass(frozen=True)
class TimeSplit:
    """Split by event time: models fit on the oldest rows, tune on ``validation``, and gates judge on the newest, ``holdout``.

    Parameters
    ----------
    validation
        Span of event time, positive. When None there is no validation part, for models that do not tune.
    holdout
        Span of event time up to the last row, positive; required.
    train
        Span of event time before the other parts, positive: a rolling window. When None, every row before the other parts.

    Raises
    ------
    DefinitionError
        There is no holdout, or a span is not positive.

    Notes
    -----
    A row of train or validation whose label becomes known only after the end of its part is in the part ``gap``: a training at that time
    could not have used it. Only a refit after the gates trains on it.

    See Also
    --------
    GroupSplit : Split by a column, so that no group is in two parts.

    Examples
    --------
    >>> from datetime import timedelta
    >>> import mlops_assets as ml
    >>> ml.TimeSplit(train=timedelta(days=365), holdout=timedelta(days=14)).parts
    ('train', 'holdout')
    """

    validation: timedelta | None = None
    holdout: timedelta = timedelta(0)
    train: timedelta | None = None

    def __post_init__(self) -> None:
        """Refuse a missing holdout and spans that are not positive."""
        if not self.holdout:
            raise DefinitionError(
                "ml.TimeSplit has no holdout", hint="give the last span, on which gates judge: holdout=timedelta(days=14)"
            )
        if any(span is not None and span <= timedelta(0) for span in (self.validation, self.holdout, self.train)):
            raise DefinitionError(f"{self} has an empty part", hint="give positive timedeltas, or omit validation= and train=")

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts, oldest rows first."""
        return ("train", "holdout") if self.validation is None else ("train", "validation", "holdout")


@check_constructor
@dataclass(frozen=True)
class GroupSplit:
    """Split so that no group is in two parts.

    Parameters
    ----------
    column
        The column that names the group, such as a customer's id.
    validation, holdout
        Expected shares of the groups, each above 0, together below 1. A hash assigns each group to a part; train has the other groups.
    seed
        The same seed gives the same split on every machine.

    Raises
    ------
    DefinitionError
        The shares leave a part empty.

    See Also
    --------
    TimeSplit : Split by event time.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.GroupSplit("customer").holdout
    0.15
    """

    column: str
    validation: float = 0.15
    holdout: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse shares that leave a part empty."""
        if min(self.validation, self.holdout) <= 0 or self.validation + self.holdout >= 1:
            raise DefinitionError(f"{self} leaves a part empty", hint="give shares above 0 whose sum is below 1")


@check_constructor
@dataclass(frozen=True)
class TrainingSet(Generic[P, R]):
    """Declared rows with a label and features, and their split. Made by :func:`mlops_assets.training_set`; still callable as its function.

    See Also
    --------
    mlops_assets.training_set : Returns it.
    """

    function: UserFunction[P, R]
    features: tuple[Features, ...]
    columns: tuple[str, ...]
    label: str
    split: TimeSplit | GroupSplit
    event_timestamp: str | None = None
    label_known_at: str | None = None
    as_known: bool = True
    label_copies: tuple[str, ...] = ()
    block_length: timedelta | None = None
    options: AssetOptions = field(default=AssetOptions(), compare=False)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function that was decorated."""
        return self.function(*args, **kwargs)

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.name

    @property
    def key(self) -> str:
        """``training_set/<name>``."""
        return f"training_set/{self.name}"
