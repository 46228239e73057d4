"""Files that are whole whenever somebody reads them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write beside, then rename: whoever reads ``path`` sees what was there before or all of this, whatever is killed meanwhile.

    Parameters
    ----------
    path
        Its folder is made when missing.
    data
        Forced to the disk before the name is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)
