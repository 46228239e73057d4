"""Names of columns that nothing can carry are refused where they are declared and where a frame arrives."""

import polars as pl
import pytest

import mlops_assets as ml
from mlops_assets.compute.tables.frames import collect
from mlops_assets.errors import DefinitionError

REFUSED = ('a"b', "a\\b", "a\nb", "a\tb", "a\x00b", "a\x7fb", "a\u2028b", "", "__split", "__x")


@pytest.mark.parametrize("name", REFUSED)
def test_a_frame_with_such_a_column_is_refused(name):
    with pytest.raises(DefinitionError, match="has a column named"):
        collect(pl.DataFrame({"id": [1], name: [1]}), "'dataset/rows'")


@pytest.mark.parametrize("name", [name for name in REFUSED if name])
def test_a_declaration_of_such_a_column_is_refused_when_the_project_is_built(name, tmp_path):
    def rows() -> pl.DataFrame: ...

    with pytest.raises(DefinitionError, match="'dataset/rows' has a column named"):
        ml.build_definitions([ml.dataset(key=name)(rows)], platform=ml.Platform.at(tmp_path))


@pytest.mark.parametrize("name", ["_x", "a b", "größe", "a.b", "a'b", "a;b", "x__y", "100 %", "a{b}", "split"])
def test_other_names_are_taken(name):
    assert collect(pl.DataFrame({name: [1]}), "'dataset/rows'").columns == [name]
