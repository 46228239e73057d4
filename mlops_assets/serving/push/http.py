"""``POST /features/<view>``: rows of one source over HTTP, refused without repeating a value."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import PlatformError
from mlops_assets.serving.predict.schema import RequestError, RequestSchema
from mlops_assets.serving.push.spec import kind_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_assets.serving.http.state import Limits
    from mlops_assets.serving.push.push import Pusher
    from mlops_assets.serving.push.spec import PushSpec

PATH = "/features/"


class PushGate:
    """Takes rows for the views of a service.

    Parameters
    ----------
    specs
        As text: see :class:`PushSpec`. They are read when the first row comes, because that imports a data-frame library.
    home, online
        Of the platform.
    limits
        Of one request.
    """

    def __init__(self, specs: Sequence[str], home: str, online: str, limits: Limits) -> None:
        self._specs, self._home, self._online, self._limits = tuple(specs), home, online, limits
        self._views: dict[str, tuple[RequestSchema, Pusher]] | None = None
        self._lock = threading.Lock()
        self.names = frozenset(name for text in specs for name, *_ in json.loads(text)["views"])

    def answer(self, view: str, body: bytes, call: str | None) -> tuple[int, bytes]:
        """Return status and reply of one request, which may wait for the disk: not for an event loop's thread.

        Parameters
        ----------
        view
            Its name.
        body
            One object or a list of objects.
        call
            Its id, from the header ``Idempotency-Key``.
        """
        from mlops_assets.serving.push.push import PushError

        try:
            schema, pusher = self._opened()[view]
            rows = schema.decode(body)
            pushed = pusher.push(_listed(rows.columns, rows.count, pusher.spec), call)
        except RequestError as error:
            return error.status, error.body
        except PushError as error:
            where = {"row": error.row, "field": error.field}
            told = {"error": error.told, "hint": "see the declaration of the source; nothing was pushed"}
            return 422, json.dumps(told | {k: v for k, v in where.items() if v not in (None, "")}).encode()
        except PlatformError as error:
            return 503, json.dumps(
                {"error": error.message.split(":")[0], "hint": "send the rows again with the same Idempotency-Key"}
            ).encode()
        return 200, json.dumps({"id": pushed.id, "rows": pushed.rows, "repeated": pushed.repeated}).encode()

    def _opened(self) -> dict[str, tuple[RequestSchema, Pusher]]:
        with self._lock:
            if self._views is None:
                self._views = dict(self._open())
            return self._views

    def _open(self) -> Any:  # noqa: ANN401  (pairs)
        from mlops_assets.serving.push.push import Pusher
        from mlops_assets.serving.push.spec import PushSpec

        for text in self._specs:
            spec = PushSpec.parsed(text)
            fields = list(_fields(spec, text))
            schema = RequestSchema(fields, {name: str(dtype) for name, dtype in spec.types}, self._limits.max_rows, "the source")
            for view in spec.views:
                yield view.name, (schema, Pusher(spec, self._home, self._online))


def _fields(spec: PushSpec, text: str) -> Any:  # noqa: ANN401  (mappings)
    nullable = {name: may for name, may, _ in json.loads(text)["columns"]}
    for name, dtype in spec.types:
        created = name == spec.table.created_timestamp
        role = "time" if created else "key" if nullable[name] else "column"
        yield {"name": name, "type": kind_of(dtype), "nullable": nullable[name], "role": role}


def _listed(columns: Any, count: int, spec: PushSpec) -> Any:  # noqa: ANN401  (a frame)
    import polars as pl

    series = []
    for name, dtype in spec.types:
        values = list(columns[name])[:count]
        given = pl.Series(name, values, dtype=pl.Int64 if isinstance(dtype, pl.Datetime) else dtype)
        series.append(given.cast(pl.Datetime("us", "UTC")).cast(dtype) if isinstance(dtype, pl.Datetime) else given)
    return pl.DataFrame(series)
