"""Kills a process while it saves an adapter over another of the same shape, and looks at what is left.

    python benchmarks/reliability/kills_while_saving.py 200

Two adapters differ in a setting (`adapter_scale`) and in all weights. A child saves one and the other in turn; it is
killed after a random time, and the folder is loaded. Needs a system with `fork`.
"""

import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from transformers import BertConfig, BertModel
from transformers.utils import logging

from any2point_hf import Any2PointConfig, Any2PointForPointCloudClassification
from any2point_hf.modeling.errors import Any2PointError

SCALES = (0.25, 0.5)
LONGEST = 0.15  # seconds until the kill


def make_adapters() -> list[Any2PointForPointCloudClassification]:
    """Two adapters on one tiny backbone, each with its scale in the config and in every bias of its head."""
    torch.manual_seed(0)
    bert = BertConfig(vocab_size=48, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    backbone = BertModel(bert)
    models = []
    for scale in SCALES:
        config = Any2PointConfig(adapter_scale=scale, num_points=64, num_neighbors=8, num_views=2, num_labels=3)
        models.append(Any2PointForPointCloudClassification(config, backbone=backbone))
        torch.nn.init.constant_(models[-1].classifier.output.bias, scale)
    return models


def save_in_turn(models: list[Any2PointForPointCloudClassification], folder: Path) -> None:
    """Saves until it is killed."""
    while True:
        for model in models:
            model.save_pretrained(folder)


def state(folder: Path, backbone: BertModel) -> str:
    """What a folder holds: one adapter, a mixture, or nothing that loads."""
    try:
        model = Any2PointForPointCloudClassification.from_pretrained(folder, backbone=backbone)
    except Any2PointError as error:
        return "refused as mixed" if "belong together" in str(error) else "lost"
    is_whole = bool((model.classifier.output.bias == model.config.adapter_scale).all())
    return "whole" if is_whole else "mixed in silence"


def main(num_kills: int) -> None:
    """Prints how often each state was left, and how many folders the next saving leaves."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    models, chance = make_adapters(), random.Random(0)
    counts, leftovers, before_next = Counter[str](), 0, 0
    with tempfile.TemporaryDirectory() as place:
        for index in range(num_kills):
            folder = Path(place) / str(index) / "adapter"
            models[0].save_pretrained(folder)
            child = os.fork()
            if child == 0:
                with contextlib.suppress(BaseException):
                    save_in_turn(models, folder)
                os._exit(1)
            time.sleep(chance.uniform(0, LONGEST))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            before_next += any(path.name.startswith(".") for path in folder.iterdir())
            counts[state(folder, models[0].backbone)] += 1
            models[1].save_pretrained(folder)
            leftovers += any(path.name.startswith(".") for path in [*folder.iterdir(), *folder.parent.iterdir()])
            assert state(folder, models[0].backbone) == "whole"
    print(f"{num_kills} kills: {dict(counts)}")
    print(f"a hidden folder was left by {before_next} of them, and is still there after the next saving: {leftovers}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
