"""Projects that a process imports."""

from mlops_assets.cli.project import load

TEXT = """
import mlops_assets as ml
import polars as pl


@ml.dataset(key="id")
def {name}() -> pl.DataFrame:
    return pl.DataFrame({{"id": [1]}})


defs = ml.build_definitions([{name}], platform=ml.Platform.at({home!r}))
"""


def test_a_project_is_not_mixed_with_those_that_the_process_imported_before(tmp_path) -> None:
    loaded = []
    for name in ("first", "second", "first"):
        folder = tmp_path / f"{name}_{len(loaded)}"
        folder.mkdir()
        (folder / "definitions.py").write_text(TEXT.format(name=name, home=str(folder / "home")))
        loaded.append(load(str(folder / "definitions.py")))
    assert [project.platform.home for project in loaded] == [str(tmp_path / f"{name}/home") for name in ("first_0", "second_1", "first_2")]
    assert [[value.name for part in project.parts for value in part.project.declarations] for project in loaded] == [
        ["first"],
        ["second"],
        ["first"],
    ]
