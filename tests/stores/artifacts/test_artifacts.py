"""Artifacts are named by their bytes, in a folder and on S3, and changed bytes are never opened."""

import socket
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OutputCodeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeClassifier

from mlops_assets.errors import ArtifactError, DataError, InstallationError
from mlops_assets.serving.formats.packaging import OnDemandSource, pack, unpack
from mlops_assets.serving.predict.batch import score_rows, select_input
from mlops_assets.stores.artifacts.store import open_artifacts


@pytest.fixture(scope="module")
def s3():
    from moto.server import ThreadedMotoServer

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def artifacts(request, tmp_path, monkeypatch):
    if request.param == "folder":
        return open_artifacts(str(tmp_path / "artifacts"))
    endpoint = request.getfixturevalue("s3")
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    store = open_artifacts("s3://models/prefix")
    if not store._fs.exists("models"):
        store._fs.mkdir("models")
    return store


def test_bytes_come_back_verified(artifacts) -> None:
    name = artifacts.put(b"model")
    assert artifacts.put(b"model") == name
    assert artifacts.get(name) == b"model"
    assert artifacts.exists(name)
    assert not artifacts.exists("0" * 64)
    assert artifacts.url(name).endswith(f"sha256/{name[:2]}/{name}")


def test_missing_and_changed_bytes_are_refused(artifacts) -> None:
    name = artifacts.put(b"model")
    artifacts._fs.pipe_file(artifacts._path(name), b"other")
    with pytest.raises(ArtifactError, match="was changed after it was stored"):
        artifacts.get(name)
    assert artifacts.get(artifacts.put(b"model")) == b"model"  # storing again repairs
    artifacts._fs.rm_file(artifacts._path(name))
    with pytest.raises(ArtifactError, match="is missing at"):
        artifacts.get(name)


def test_a_folder_that_cannot_be_written_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InstallationError, match="cannot be written"):
        open_artifacts(str(tmp_path / "file")).put(b"x")


X = pl.DataFrame({"a": [float(i % 17) for i in range(200)], "b": [float(i % 5) for i in range(200)]})
Y = (X["a"] > 8).to_numpy()


def test_a_model_round_trips_with_its_functions(artifacts) -> None:
    estimator = HistGradientBoostingClassifier(max_iter=5).fit(X, Y)
    source = "import numpy as np\ndef twice(a):\n    return {'double': a * 2}\n"
    name = pack(artifacts, estimator, X=X, modules=[OnDemandSource(source, "twice")], facts={"model": "m"})
    bundle = unpack(artifacts, name)
    assert bundle.columns == ("a", "b")
    assert bundle.functions[0](a=X["a"].to_numpy())["double"][1] == 2
    scored = score_rows(bundle, X)
    assert (scored["__probability"].to_numpy() == estimator.predict_proba(X)[:, 1]).all()
    assert (scored["__prediction"].to_numpy() == estimator.predict(X)).all()
    assert scored["__input_hash"].n_unique() == X.n_unique()
    assert score_rows(bundle, X.clear()).schema["__prediction"] == pl.Boolean


def test_an_untrusted_type_is_refused_when_it_is_stored(tmp_path) -> None:
    artifacts = open_artifacts(str(tmp_path))
    estimator = make_pipeline(FunctionTransformer(str.upper), LogisticRegression())
    with pytest.raises(ArtifactError, match="which is not trusted.*\n.*trusted_types="):
        pack(artifacts, estimator, X=X, modules=[], facts={})


def test_a_changed_model_file_is_never_opened(tmp_path) -> None:
    artifacts = open_artifacts(str(tmp_path))
    name = pack(artifacts, LogisticRegression().fit(X, Y), X=X, modules=[], facts={})
    other = pack(artifacts, LogisticRegression(C=0.01).fit(X, Y), X=X, modules=[], facts={})
    import json

    one, two = (json.loads(artifacts.get(n))["estimator"] for n in (name, other))
    artifacts._fs.pipe_file(artifacts._path(one), artifacts.get(two))
    with pytest.raises(ArtifactError, match="was changed after it was stored"):
        unpack(artifacts, name)


def test_rows_that_do_not_fit_the_model_are_refused(tmp_path) -> None:
    artifacts = open_artifacts(str(tmp_path))
    bundle = unpack(artifacts, pack(artifacts, LogisticRegression().fit(X, Y), X=X, modules=[], facts={}))
    with pytest.raises(DataError, match="lacks the column 'b'"):
        select_input(bundle, X.drop("b"), "'predictions/p'")
    with pytest.raises(DataError, match="column 'a' is String, the model was trained on Float64"):
        select_input(bundle, X.with_columns(pl.col("a").cast(pl.String)), "'predictions/p'")


def test_what_is_stored_is_listed_and_removed_unless_it_was_stored_again(artifacts) -> None:
    begun = datetime.now(UTC) - timedelta(seconds=2)  # S3 tells whole seconds
    name = artifacts.put(b"listed")
    assert [(file.name, file.size) for file in artifacts.files() if file.name == name] == [(name, 6)]
    assert all(file.at >= begun for file in artifacts.files() if file.name == name)
    assert not artifacts.remove(name, before=begun)
    assert artifacts.get(name) == b"listed"
    assert artifacts.remove(name, before=datetime.now(UTC) + timedelta(seconds=2))
    assert not artifacts.exists(name)


@pytest.mark.parametrize(
    "estimator",
    [
        VotingClassifier([("a", LogisticRegression()), ("b", DecisionTreeClassifier())], voting="hard"),
        OutputCodeClassifier(LogisticRegression()),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_a_classifier_without_probabilities_predicts_text_labels_as_before(estimator, artifacts) -> None:
    labels = np.where(Y == 1, "yes", "no")
    name = pack(artifacts, estimator.fit(X, labels), X=X, modules=[], facts={})
    assert unpack(artifacts, name).estimator.predict(X).tolist() == estimator.predict(X).tolist()
