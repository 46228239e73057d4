"""A client of a service, for tests."""

import json
import urllib.request
from collections.abc import Sequence


def predict(url: str, rows: Sequence[dict], timeout: float = 60) -> dict:
    """Send rows to a service and return its answer."""
    body = json.dumps(list(rows)).encode()
    request = urllib.request.Request(f"{url}/predict", body, {"content-type": "application/json"})  # noqa: S310  (our own server)
    with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310  (our own server)
        return json.loads(answer.read())
