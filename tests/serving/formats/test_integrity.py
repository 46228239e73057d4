"""What is stored is compared before it is opened, and what is opened runs nothing."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

from mlops_assets.compute.training.library_versions import find_library_changes
from mlops_assets.errors import ArtifactError
from mlops_assets.serving.formats.integrity import find_damage
from mlops_assets.serving.formats.packaging import pack, unpack
from mlops_assets.stores.artifacts.store import open_artifacts
from tests.serving.support import Stage


class Bomb:
    """A pickle that writes a file when it is opened."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


@pytest.fixture
def stored(tmp_path):
    """Where a small model is stored, and the sha256 of its manifest."""
    artifacts = open_artifacts(str(tmp_path / "artifacts"))
    X = pl.DataFrame({"x": np.linspace(-1, 1, 50)})
    return artifacts, pack(artifacts, LogisticRegression().fit(X, X["x"].to_numpy() > 0), X=X, modules=[], facts={})


def replaced(artifacts, manifest: str, **more) -> str:
    """Return a manifest that names other artifacts, as somebody who may write to the store can make it."""
    return artifacts.put(json.dumps(json.loads(artifacts.get(manifest)) | more).encode())


@pytest.mark.parametrize("part", ["manifest", "estimator", "probe"])
def test_one_flipped_bit_anywhere_is_found_and_named(stored, part) -> None:
    artifacts, manifest = stored
    assert find_damage(artifacts, manifest) == ""
    sha256 = manifest if part == "manifest" else json.loads(artifacts.get(manifest))[part]
    file = Path(artifacts.url(sha256).removeprefix("file://"))
    data = bytearray(file.read_bytes())
    data[3] ^= 4
    file.chmod(0o644)
    file.write_bytes(bytes(data))
    assert find_damage(artifacts, manifest).startswith(f"{part}: artifact {sha256} was changed after it was stored")
    file.unlink()
    assert f"artifact {sha256} is missing" in find_damage(artifacts, manifest)


def test_a_pickle_in_the_place_of_a_model_never_runs(stored, tmp_path) -> None:
    artifacts, manifest = stored
    target = tmp_path / "executed"
    bomb = pickle.dumps(Bomb(target))
    pickle.loads(bomb)  # noqa: S301  (our own)
    assert target.exists()  # it is a real one
    target.unlink()
    in_zip = io.BytesIO()
    with zipfile.ZipFile(in_zip, "w") as archive:
        archive.writestr("schema.json", bomb)
    for payload in (bomb, in_zip.getvalue()):
        with pytest.raises((ArtifactError, zipfile.BadZipFile, ValueError)):
            unpack(artifacts, replaced(artifacts, manifest, estimator=artifacts.put(payload)))
    assert not target.exists()


def test_a_type_that_the_artifact_itself_calls_trusted_is_refused(stored, tmp_path) -> None:
    import skops.io

    artifacts, manifest = stored
    target = tmp_path / "executed"
    payload = skops.io.dumps({"model": Bomb(target)})
    target.unlink(missing_ok=True)
    forged = replaced(artifacts, manifest, estimator=artifacts.put(payload), trusted_types=["tests.serving.formats.test_integrity.Bomb"])
    with pytest.raises(ArtifactError, match="which is not trusted"):
        unpack(artifacts, forged)
    assert not target.exists()


def test_other_libraries_are_named_with_both_versions() -> None:
    then = {"numpy": "2.1.0", "scikit-learn": "1.6.1", "polars": "1.30.0", "xgboost": "3.0", "scipy": "1.15"}
    now = {"numpy": "2.3.0", "scikit-learn": "1.7.0", "polars": "2.0.0", "scipy": "1.15"}
    found = find_library_changes(then, now)
    assert [(o.name, o.serious) for o in found] == [("polars", True), ("scikit-learn", True), ("xgboost", True), ("numpy", False)]
    assert str(found[1]) == "scikit-learn 1.6.1 then, 1.7.0 now"
    assert str(found[2]) == "xgboost 3.0 then, not installed now"


def test_an_on_demand_module_that_the_registered_manifest_does_not_name_is_never_run(tmp_path) -> None:
    stage = Stage(tmp_path / "home")
    version = stage.add(0)
    manifest = json.loads(stage.artifacts.get(stage.artifact(version)))
    ran = tmp_path / "ran"
    code = f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n\n\ndef clock(at):\n    return {{}}\n".encode()
    sha = manifest["modules"][0]["source"]
    folder = Path(stage.platform.artifacts) / "sha256"
    place = folder / sha[:2] / sha
    place.chmod(0o644)
    place.write_bytes(code)
    with pytest.raises(ArtifactError):
        unpack(stage.artifacts, stage.artifact(version))
    # Code that is stored under its own digest, in a manifest that is not the registered one.
    changed = json.dumps(manifest | {"modules": [{"source": stage.artifacts.put(code), "name": "clock"}]}).encode()
    registered = folder / stage.artifact(version)[:2] / stage.artifact(version)
    registered.chmod(0o644)
    registered.write_bytes(changed)
    with pytest.raises(ArtifactError):
        unpack(stage.artifacts, stage.artifact(version))
    assert not ran.exists()
