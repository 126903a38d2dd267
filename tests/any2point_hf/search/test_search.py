import json
import sys

import numpy as np
import pytest

from any2point_hf import trained_adapter
from any2point_hf.evaluation.frozen_features import pooled_features


@pytest.fixture(scope="module")
def scans(tmp_path_factory, two_classes):
    """A folder of files of both classes, one of which cannot be used."""
    folder = tmp_path_factory.mktemp("scans")
    arrays = two_classes.arrays()
    for number, (points, label) in enumerate(zip(arrays["points"], arrays["labels"], strict=True)):
        place = folder / str(arrays["class_names"][label])
        place.mkdir(exist_ok=True)
        np.save(place / f"{number:02d}.npy", points)
    np.save(folder / "a_broken.npy", np.full((80, 3), np.nan))
    return folder


@pytest.fixture(scope="module")
def index(tmp_path_factory, scans, adapter):
    from any2point_hf.cli import main

    out = tmp_path_factory.mktemp("indices") / "scans.index"
    assert main(["index", str(scans), "--model", str(adapter), "--out", str(out), "--skip-bad"]) == 0
    return out


def test_a_file_finds_itself_and_then_its_class(run_command, adapter, scans, index):
    queries = [scans / "ball" / "00.npy", scans / "disc" / "01.npy"]
    asked = ("search", *queries, "--index", index, "--model", adapter, "--top", 5)
    result = json.loads(run_command(*asked, "--json").out)
    for query, entry in zip(queries, result, strict=True):
        assert entry["file"] == str(query)
        assert entry["found"][0] == {
            "id": f"{query.parent.name}/{query.name}",
            "similarity": pytest.approx(1, abs=1e-5),
        }
        assert {hit["id"].split("/")[0] for hit in entry["found"]} == {query.parent.name}
    lines = run_command(*asked).out.splitlines()
    assert lines[:2] == [str(queries[0]), "   1.0000  ball/00.npy"]
    assert len(lines) == 2 * 6


def test_similarities_are_cosines_of_the_pooled_features(run_command, adapter, two_classes, tmp_path):
    out = tmp_path / "test.index"
    made = run_command("index", two_classes.path, "--model", adapter, "--out", out)
    assert made.out == f"8 clouds written to {out}\n"
    features = pooled_features(trained_adapter.open_split(str(adapter), str(two_classes.path)))
    np.save(tmp_path / "query.npy", two_classes.arrays()["points"][-1])
    asked = ("search", tmp_path / "query.npy", "--index", out, "--model", adapter, "--json")
    found = json.loads(run_command(*asked).out)[0]["found"]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for hit in found:
        assert hit["similarity"] == pytest.approx(unit[int(hit["id"])] @ unit[-1], abs=1e-4)
        assert hit["label"] == ("ball", "disc")[int(hit["id"]) % 2]
    assert [hit["similarity"] for hit in found] == sorted((hit["similarity"] for hit in found), reverse=True)
    assert len(found) == 8  # all there are


def test_the_page_shows_each_cloud_that_was_found(run_command, adapter, scans, index, tmp_path):
    page = tmp_path / "found.html"
    query = scans / "disc" / "03.npy"
    asked = ("search", query, "--index", index, "--model", adapter, "--top", 3, "--html", page)
    assert run_command(*asked).code == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("<figure") == 4
    assert text.count("<circle") == 4 * 80  # no picture is of the broken file, which the index skipped
    assert "disc/03.npy<br>1.000" in text
    assert run_command(*asked[:-1], tmp_path / "found.png").code == 2


def test_another_model_is_refused(run_command, tiny_adapter, adapter, scans, index, tmp_path):
    query = scans / "ball" / "00.npy"
    result = run_command("search", query, "--index", index, "--model", tiny_adapter.folder)
    assert result.code == 2
    assert "must be of the same model as the queries, and these differ: adapter" in result.err
    result = run_command("search", query, "--index", query, "--model", adapter)
    assert (result.code, "Make one with `any2point index`" in result.err) == (2, True)
    predicted = tmp_path / "classes.parquet"
    assert run_command("predict", scans / "ball", "--model", adapter, "--out", predicted).code == 0
    result = run_command("search", query, "--index", predicted, "--model", adapter)
    assert (result.code, "holds predictions, not features" in result.err) == (2, True)


def test_approximate_search_says_what_it_needs_before_any_work(run_command, adapter, scans, index, monkeypatch):
    asked = ("search", scans / "ball" / "00.npy", "--index", index, "--model", adapter, "--top", 1, "--approximate")
    monkeypatch.setitem(sys.modules, "faiss", None)
    refused = run_command(*asked, "--model", "no-such-model")
    assert refused.code == 2
    assert 'pip install "any2point-hf[search]"' in refused.err


def test_approximate_search_of_files(run_command, adapter, scans, index):
    pytest.importorskip("faiss", reason="approximate search needs the extra search")
    asked = ("search", scans / "ball" / "00.npy", "--index", index, "--model", adapter, "--top", 1, "--json")
    assert json.loads(run_command(*asked, "--approximate").out) == json.loads(run_command(*asked).out)
