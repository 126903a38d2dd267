"""The whole job for parts in one command: `python -m any2point_hf.example --task segmentation`.

Fine-tunes a frozen MiniLM on the built-in shapes that know their parts. Fresh processes then load the saved adapter:
one labels all points of the held-out shapes and measures the answers, one those of a new chair's file. CPU only, no
download.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from .data.augmentation import Augmentation
from .data.parts.shapes import PARTS_OF_SHAPES
from .data.shapes import SHAPE_NAMES, make_cloud
from .training.recipe import changed, read_recipe
from .training.run import train

OUTPUT = Path("demo_output") / "parts"
EPOCHS = 8
NUM_POINTS = 512
# The shapes' proportions tell them apart, and their heading means nothing.
AUGMENTATION = Augmentation(scale=(0.9, 1.1), shift=0.1, rotation_axis="z")
CATEGORY = "chair"
SEED = 0


def run_part_example(backbone: str) -> None:
    """Runs the demo; its last line reads `demo: instance mIoU 0.8xx, adapter x.xx MB, nnn s`.

    Args:
        backbone: folder of the frozen transformer.
    """
    start = time.perf_counter()
    shutil.rmtree(OUTPUT, ignore_errors=True)  # of an earlier demo
    recipe = changed(read_recipe("segmentation"), epochs=EPOCHS, augmentation=AUGMENTATION)
    metrics = train("shapes-parts", backbone, OUTPUT, {"num_points": NUM_POINTS}, recipe, seed=SEED)
    evaluated = _in_a_fresh_process("evaluate", "--data", "shapes-parts")
    for name, iou in evaluated["per_part"].items():
        print(f"{name:>16}  {iou:.4f}")
    file, labelled = OUTPUT / f"{CATEGORY}.xyz", OUTPUT / f"{CATEGORY}-parts.ply"
    index = SHAPE_NAMES.index(CATEGORY)
    np.savetxt(file, make_cloud("test", index, 4096, seed=SEED + 1), fmt="%.6f")  # the model has not seen it
    (answer,) = _in_a_fresh_process("predict", str(file), "--category", CATEGORY, "--out", str(labelled))
    shares = ", ".join(f"{part['name']} {part['share']:.0%}" for part in answer["parts"])
    print(f"{file.name}: {answer['points']} points: {shares}; a colour for each part in {labelled}")
    seconds = time.perf_counter() - start
    print(
        f"demo: instance mIoU {evaluated['instance_miou']:.3f} on {evaluated['num_clouds']} held-out shapes of "
        f"{len(PARTS_OF_SHAPES)} categories, adapter {metrics['adapter_megabytes']:.2f} MB, {seconds:.0f} s",
        flush=True,
    )


def _in_a_fresh_process(command: str, *arguments: str) -> Any:
    """What a command of the saved adapter answers with `--json`."""
    typed = [sys.executable, "-m", "any2point_hf", command, *arguments, "--model", str(OUTPUT), "--json"]
    return json.loads(subprocess.run(typed, check=True, stdout=subprocess.PIPE, text=True).stdout)
