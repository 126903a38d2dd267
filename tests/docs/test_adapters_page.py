"""The Python of docs/adapters.md runs from top to bottom."""

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("peft")

PAGE = Path(__file__).parents[2] / "docs" / "adapters.md"


def save_adapter(folder, backbone, task="Classification", **settings):
    import any2point_hf
    from any2point_hf import Any2PointConfig, Any2PointProcessor

    config = Any2PointConfig(backbone=str(backbone), num_points=64, num_neighbors=8, **settings)
    getattr(any2point_hf, f"Any2PointForPointCloud{task}")(config).save_pretrained(folder)
    Any2PointProcessor(num_points=64).save_pretrained(folder)


def test_the_snippets_run(tmp_path, monkeypatch, bert, one_thread, capsys):
    monkeypatch.chdir(tmp_path)
    scan = {"id2label": {0: "chair", 1: "table", 2: "lamp"}}
    save_adapter("scan-adapter", bert, **scan)
    save_adapter("scan-adapter-2", bert, **scan)
    save_adapter("cad-adapter", bert, num_views=3, id2label=dict(enumerate(["bed", "car", "cup", "sofa"])))
    save_adapter("parts-adapter", bert, task="Segmentation", num_labels=5)
    for name in ("chair", "lamp", "table"):
        points = np.random.default_rng(0).normal(size=(80, 3))
        lines = "\n".join(" ".join(f"{value:.4f}" for value in point) for point in points)
        header = (
            "ply\nformat ascii 1.0\nelement vertex 80\nproperty float x\nproperty float y\nproperty float z\nend_header"
        )
        Path(f"{name}.ply").write_text(f"{header}\n{lines}\n")
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippets) == 7
    names = {}
    for snippet in snippets[:6]:
        exec(snippet, names)
    printed = capsys.readouterr().out
    assert printed.startswith("cad ['default', 'cad'] [")
    assert [line.split()[0] for line in printed.splitlines()[1:4]] == ["cad", "default", "cad"]
    assert names["segmenter"].any2point.cls_token.shape == names["classifier"].any2point.cls_token.shape
    shared = (names[name].backbone.get_parameter("embeddings.LayerNorm.weight") for name in ("classifier", "segmenter"))
    assert len({parameter.data_ptr() for parameter in shared}) == 1
    assert names["logits"].shape == (3, 4)
    assert names["logits"][1, 3] == float("-inf")
    assert names["model"].base_model.lora.lora_alpha == 16
    assert {path.name for path in Path("scan-adapter-lora").iterdir()} == {"config.json", "model.safetensors", "lora"}
    assert {path.name for path in Path("mean-adapter").iterdir()} == {"config.json", "model.safetensors"}
    exec(snippets[6], names)
    assert names["model"].config.unfrozen_blocks == 2
    assert Path("scan-adapter-tuned", "model.safetensors").stat().st_size > names["model"].any2point.num_parameters()
