"""``POST /features/<view>``: push rows of one source over HTTP. Errors repeat no value."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import InstallationError
from mlops_assets.serving.predict.request_schema import RequestError, RequestSchema
from mlops_assets.serving.push.spec import json_type

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_assets.serving.http.service_folder import RequestLimits
    from mlops_assets.serving.push.push import Pusher
    from mlops_assets.serving.push.spec import PushSpec

PUSH_PATH = "/features/"


class PushEndpoint:
    """Answers requests that push rows to the views of a service; ``names`` are the names of these views.

    Parameters
    ----------
    specs
        The push sources as text: see :class:`PushSpec`. The first request parses them, because parsing imports a data-frame library.
    home, online
        Home and online store of the platform.
    limits
        Limits of one request.
    """

    def __init__(self, specs: Sequence[str], home: str, online: str, limits: RequestLimits) -> None:
        self._specs, self._home, self._online, self._limits = tuple(specs), home, online, limits
        self._views: dict[str, tuple[RequestSchema, Pusher]] | None = None
        self._lock = threading.Lock()
        self.names = frozenset(name for text in specs for name, *_ in json.loads(text)["views"])

    def answer(self, view: str, body: bytes, call: str | None) -> tuple[int, bytes]:
        """Return the status and reply of one request. This may wait for the disk, so do not call it in an event loop.

        Parameters
        ----------
        view
            Name of the view, one of ``names``.
        body
            JSON: one object or a list of objects.
        call
            Id of the call, from the header ``Idempotency-Key``; None without the header.
        """
        from mlops_assets.serving.push.push import PushError

        try:
            schema, pusher = self._open_views()[view]
            rows = schema.decode(body)
            pushed = pusher.push(_make_frame(rows.columns, rows.count, pusher.spec), call)
        except RequestError as error:
            return error.status, error.body
        except PushError as error:
            where = {"row": error.row, "field": error.field}
            reply = {"error": error.public_message, "hint": "see the declaration of the source; nothing was pushed"}
            return 422, json.dumps(reply | {k: v for k, v in where.items() if v not in (None, "")}).encode()
        except InstallationError as error:
            return 503, json.dumps(
                {"error": error.message.split(":")[0], "hint": "send the rows again with the same Idempotency-Key"}
            ).encode()
        return 200, json.dumps({"id": pushed.id, "rows": pushed.rows, "repeated": pushed.repeated}).encode()

    def _open_views(self) -> dict[str, tuple[RequestSchema, Pusher]]:
        with self._lock:
            if self._views is None:
                self._views = dict(self._iterate_views())
            return self._views

    def _iterate_views(self) -> Any:  # noqa: ANN401  (pairs)
        """Yield each view's name, with its request schema and its pusher."""
        from mlops_assets.serving.push.push import Pusher
        from mlops_assets.serving.push.spec import PushSpec

        for text in self._specs:
            spec = PushSpec.from_json(text)
            fields = list(_describe_fields(spec, text))
            schema = RequestSchema(fields, {name: str(dtype) for name, dtype in spec.types}, self._limits.max_rows, "the source")
            for view in spec.views:
                yield view.name, (schema, Pusher(spec, self._home, self._online))


def _describe_fields(spec: PushSpec, text: str) -> Any:  # noqa: ANN401  (mappings)
    """Yield the fields of a request, in the order of the schema; a row may omit the created time and nullable columns."""
    nullable = {name: may for name, may, _ in json.loads(text)["columns"]}
    for name, dtype in spec.types:
        created = name == spec.table.created_timestamp
        role = "time" if created else "key" if nullable[name] else "column"  # a request may omit fields of the roles time and key
        yield {"name": name, "type": json_type(dtype), "nullable": nullable[name], "role": role}


def _make_frame(columns: Any, count: int, spec: PushSpec) -> Any:  # noqa: ANN401  (a frame)
    import polars as pl

    series = []
    for name, dtype in spec.types:
        values = list(columns[name])[:count]
        column = pl.Series(name, values, dtype=pl.Int64 if isinstance(dtype, pl.Datetime) else dtype)
        series.append(column.cast(pl.Datetime("us", "UTC")).cast(dtype) if isinstance(dtype, pl.Datetime) else column)
    return pl.DataFrame(series)
