"""The rooms of the house: no circles, no crowded folders, entry points that stay."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from mlops_assets import entry_points

ROOT = Path(__file__).parents[2]
MAX_FILES = 24  # in one folder
BENCH_OUT = ROOT / "bench" / "out"  # environments of peers, not ours


def _modules(top: str) -> dict[str, Path]:
    paths = sorted(path for path in (ROOT / top).rglob("*.py") if BENCH_OUT not in path.parents)
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def _is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _imports(node: ast.AST) -> Iterator[str]:
    """Yield what a module imports at run time, within functions too."""
    for child in ast.iter_child_nodes(node):
        if _is_for_types_only(child):
            continue
        if isinstance(child, ast.Import):
            yield from (name.name for name in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield from (f"{child.module}.{name.name}" for name in child.names)
        yield from _imports(child)


def _graph(modules: dict[str, Path]) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        found = {target if target in modules else target.rpartition(".")[0] for target in _imports(ast.parse(path.read_text()))}
        graph[name] = (found & set(modules)) - {name, "mlops_assets"}
    return graph


@pytest.mark.parametrize("top", ["mlops_assets", "bench", "tests"])
def test_no_modules_import_each_other_in_a_circle(top: str) -> None:
    modules = _modules(top)
    # The entry points are named by what they start; see their docstring.
    graph = {name: found - {"mlops_assets.entry_points"} for name, found in _graph(modules).items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_a_circle_is_found() -> None:
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()


def test_no_folder_is_crowded() -> None:
    folders = {path.parent for path in _modules("mlops_assets").values()}
    counts = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    assert {folder: count for folder, count in counts.items() if count > MAX_FILES} == {}


def test_every_room_states_its_purpose() -> None:
    rooms = [path.parent / "__init__.py" for path in _modules("mlops_assets").values()]
    assert [str(room) for room in set(rooms) if not ast.get_docstring(ast.parse(room.read_text()))] == []


def test_entry_points_that_are_written_into_artifacts_and_command_lines_stay() -> None:
    assert entry_points.MODULE == entry_points.__name__ == "mlops_assets.entry_points"
    assert (entry_points.SUPERVISOR, entry_points.WORKER) == ("supervisor", "worker")
    assert callable(entry_points.hosted)
    assert callable(entry_points._load_pyfunc)
