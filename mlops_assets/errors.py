"""The exceptions of the package.

::

    MlopsError
    ├── DefinitionError      the project file declares something invalid
    ├── DataError            data broke a declared rule; nothing was committed
    ├── LakeError            the lake cannot perform an operation
    ├── ArtifactError        an artifact is missing, or its bytes are not those that were stored
    ├── RegistryError        the registry has no such entry, or the entry is in the wrong state
    │   └── GateError        registration or promotion refused: a gate result is missing, failed, or about another candidate
    ├── ServiceError         a service cannot start, or does not reach the requested state
    ├── ProviderError        an endpoint of a language model fails, or sends a reply that cannot be used
    └── InstallationError    what the platform needs is missing, damaged, unreachable or not writable
        └── MissingExtraError    an optional dependency is not installed

Every message names the asset, partition, column or value at fault, and ends in a hint with the next step.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ArtifactError",
    "DataError",
    "DefinitionError",
    "GateError",
    "InstallationError",
    "LakeError",
    "MissingExtraError",
    "MlopsError",
    "ProviderError",
    "RegistryError",
    "ServiceError",
]


class MlopsError(Exception):
    """Base of every error raised on purpose by this package.

    Parameters
    ----------
    message
        The problem, with the name of the asset, partition, column or value.
    hint
        The next step for the user, in one sentence.

    See Also
    --------
    DefinitionError : The project is wrong.
    DataError : The data is wrong.
    RegistryError : The registry refuses.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> try:
    ...     ml.Gate("roc_auc")
    ... except ml.MlopsError as error:
    ...     print(type(error).__name__)
    DefinitionError
    """

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(f"{message}\nHint: {hint}")
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the hint when the error crosses a process boundary."""
        return _rebuild, (type(self), self.message, self.hint)


def _rebuild(kind: type[MlopsError], message: str, hint: str) -> MlopsError:
    return kind(message, hint=hint)


class DefinitionError(MlopsError):
    """The project file declares something invalid.

    See Also
    --------
    MlopsError : The base of all errors.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.Entity("Ship")
    Traceback (most recent call last):
    mlops_assets.errors.DefinitionError: an entity cannot be named 'Ship'
    Hint: use lower-case letters, digits and underscores, a letter first, at most 63 characters
    """


class DataError(MlopsError):
    """Data broke a declared rule; nothing was committed.

    See Also
    --------
    MlopsError : The base of all errors.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.training_frame(None, [])
    Traceback (most recent call last):
    mlops_assets.errors.DataError: ...
    """


class LakeError(MlopsError):
    """The lake cannot perform an operation.

    See Also
    --------
    mlops_assets.read_table : Raises this error for an unknown table.
    """


class ArtifactError(MlopsError):
    """An artifact is missing, or its bytes are not those that were stored.

    See Also
    --------
    mlops_assets.load_model : Raises this error for damaged bytes.
    """


class RegistryError(MlopsError):
    """The registry has no such entry, or the entry is in the wrong state.

    See Also
    --------
    GateError : Registration or promotion is refused.
    MlopsError : The base of all errors.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.runs.log_metric("loss", 0.5)
    Traceback (most recent call last):
    mlops_assets.errors.RegistryError: log_metric was called outside of a run
    Hint: ...
    """


class GateError(RegistryError):
    """Registration or promotion refused: a gate result is missing, failed, or about another candidate; or an approval is missing.

    See Also
    --------
    RegistryError : The base class.
    """


class ServiceError(MlopsError):
    """A service cannot start, or does not reach the requested state.

    See Also
    --------
    mlops_assets.Service : Declares a service.
    """


class ProviderError(MlopsError):
    """An endpoint of a language model fails, or sends a reply that cannot be used.

    Neither the message nor an attribute contains the API key, the prompt or the reply.

    Parameters
    ----------
    message
        The problem; for a failed request with endpoint, model, status and attempt.
    hint
        The next step for the user, in one sentence.
    kind
        ``"configuration"``, ``"connection"``, ``"timeout"``, ``"status"``, ``"reply"``, ``"busy"`` or ``"embedded"`` (the server of the
        embedded model does not start).
    endpoint, model
        The model that failed last, and its endpoint. A model that cannot be called, for lack of its key or its server, is named only if no
        model could be called.
    status
        The HTTP status of the model's last reply; None without a reply.
    code
        The error code in that reply, e.g. ``context_length_exceeded``; empty when the client does not know the code.
    attempts
        Number of requests of this call, over all models.
    may_be_billed
        Number of these requests that the provider may have billed: all that were sent, except those that got an error status. The statuses
        of a gateway that stopped waiting (408, 502, 504, 520 to 524) count as maybe billed.

    See Also
    --------
    ServiceError : A service of this platform fails.
    """

    def __init__(  # noqa: PLR0913  (facts of one failure)
        self,
        message: str,
        *,
        hint: str,
        kind: str = "",
        endpoint: str = "",
        model: str = "",
        status: int | None = None,
        code: str = "",
        attempts: int = 0,
        may_be_billed: int = 0,
    ) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind
        self.endpoint = endpoint
        self.model = model
        self.status = status
        self.code = code
        self.attempts = attempts
        self.may_be_billed = may_be_billed

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the facts when the error crosses a process boundary."""
        return (*super().__reduce__(), vars(self))


class InstallationError(MlopsError):
    """Something that the platform needs fails: a file, database, server, process or package.

    It is missing, damaged, replaced by another program, unreachable, not writable, or of a version that this program does not
    know. The online store also raises this error for a type that it cannot hold.

    See Also
    --------
    MissingExtraError : An optional dependency is missing.
    """


class MissingExtraError(InstallationError):
    """An optional dependency is not installed.

    See Also
    --------
    InstallationError : The base class.
    """

    @classmethod
    def from_extra(cls, package: str, extra: str) -> MissingExtraError:
        """Return the error for a missing package, with the command that installs the extra of ``mlops_assets`` that needs it."""
        return cls(f"{package} is not installed", hint=f"pip install 'mlops_assets[{extra}]'")


def find_public_class(error: MlopsError) -> type[MlopsError]:
    """Return the class of an error if this module defines it, else its nearest base class here, which every process can import."""
    return next(cls for cls in type(error).__mro__ if issubclass(cls, MlopsError) and cls.__module__ == __name__)


def suggest_name(name: str, known: Iterable[str]) -> str:
    """Return the start of a hint, ``did you mean 'x'? ``, with the known name most similar to ``name``; empty when none is similar."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean '{match[0]}'? " if match else ""
