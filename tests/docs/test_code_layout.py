"""The page that says where to open the code names what is there, and all of it."""

import re

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "code.md").read_text()
PATHS = re.findall(r"`(mlops_assets/[\w/.]*)`", PAGE)


def test_every_path_exists() -> None:
    assert [path for path in PATHS if not (ROOT / path).exists()] == []
    assert [path for path in PATHS if path.endswith("/") != (ROOT / path).is_dir()] == []


def test_a_file_named_without_its_folder_is_next_to_the_first_one_of_the_row() -> None:
    rows = [(row, names) for row in PAGE.splitlines() if (names := re.findall(r"`(\w+\.py)`", row))]
    assert len(rows) > 10
    for row, names in rows:
        first = re.search(r"`(mlops_assets/[\w/]+)/(?:\w+\.py)?`", row)
        assert first is not None, row
        assert [name for name in names if not (ROOT / first[1] / name).exists()] == [], row


def test_every_layer_and_room_is_on_the_page() -> None:
    package = ROOT / "mlops_assets"
    layers = [path for path in package.iterdir() if (path / "__init__.py").exists()]
    rooms = [room for layer in layers for room in layer.iterdir() if (room / "__init__.py").exists()]
    assert len(rooms) > 20
    assert [path for path in [*layers, *rooms] if f"{path.relative_to(ROOT).as_posix()}/" not in PATHS] == []
