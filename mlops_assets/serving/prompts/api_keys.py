"""The API keys of a service's clients, read from an environment variable."""

from __future__ import annotations

import hashlib
import hmac
import os
import re

from mlops_assets.errors import ServiceError
from mlops_assets.serving.prompts.refusal import RefusalError
from mlops_assets.values.names import NAME

_CODE = 8  # hexadecimal digits at the end of a trace id
_BEARER = re.compile(r"Bearer +(\S+) *", re.IGNORECASE)


class ApiKeys:
    """Finds the name of a client's key. Only hashes of keys are stored.

    Parameters
    ----------
    variable
        The environment variable with ``name:key`` pairs between commas or spaces.

    Raises
    ------
    ServiceError
        The variable is not set or has another format. The message quotes no part of its value.
    """

    def __init__(self, variable: str) -> None:
        self._variable, self._names = variable, dict[str, str]()
        pairs = [pair.partition(":") for pair in re.split(r"[,\s]+", os.environ.get(variable, "")) if pair]
        if not pairs:
            raise ServiceError(f"the environment variable {variable} holds no API key", hint="set it to name:key pairs between commas")
        for number, (name, _, key) in enumerate(pairs, 1):
            if not NAME.fullmatch(name) or not key or _hash(key) in self._names or name in self._names.values():
                raise ServiceError(
                    f"pair {number} of the environment variable {variable} is not a valid name with a unique key",
                    hint="write name:key, with a name of lower-case letters, digits and underscores; use each name and key once",
                )
            self._names[_hash(key)] = name
        self._hashes = {name: digest for digest, name in self._names.items()}

    def sign(self, trace_id: str, name: str) -> str:
        """Return a trace id whose last digits prove that the client with a key received the trace, without a list of traces.

        Parameters
        ----------
        trace_id
            A new id, whose last digits are replaced.
        name
            The name of the key.
        """
        return trace_id[:-_CODE] + self._compute_code(trace_id, name)

    def owns(self, trace_id: str, name: str) -> bool:
        """Return whether the client with a key received a trace: whether :meth:`sign` signed the id with this key.

        Parameters
        ----------
        trace_id, name
            The id of the trace and the name of the key.
        """
        return hmac.compare_digest(trace_id[-_CODE:], self._compute_code(trace_id, name))

    def _compute_code(self, trace_id: str, name: str) -> str:
        return hmac.new(self._hashes[name].encode(), trace_id[:-_CODE].encode(), hashlib.sha256).hexdigest()[:_CODE]

    def find_name(self, authorization: str) -> str:
        """Return the name of the API key in a request.

        Parameters
        ----------
        authorization
            The value of the request's ``Authorization`` header; empty without one.

        Raises
        ------
        RefusalError
            401: the key is missing or unknown.
        """
        match = _BEARER.fullmatch(authorization)
        name = None if match is None else self._names.get(_hash(match[1]))
        if name is None:
            problem = "the API key is missing" if match is None else "the API key is unknown"
            raise RefusalError(problem, hint="send the header Authorization: Bearer KEY", status=401, code="invalid_api_key")
        return name


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
