"""Damaged files of a finished training, which is then resumed with more epochs: what comes of it?

python benchmarks/reliability/damaged_training_state.py [files]

Each of the checkpoint's files and the run's record is removed, filled with zeros and cut in half: 27 states. The
training must end with the weights of an undamaged one, or be refused by an Any2PointError; nothing may be resumed in
silence to other weights.
"""

import collections
import contextlib
import io
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertModel

from any2point_hf.modeling.errors import Any2PointError
from any2point_hf.training.run import RUN_FILE, train

FILES = (
    "checkpoint-4/trainer_state.json",
    "checkpoint-4/optimizer.pt",
    "checkpoint-4/scheduler.pt",
    "checkpoint-4/rng_state.pth",
    "checkpoint-4/model.safetensors",
    "checkpoint-4/config.json",
    "checkpoint-4/preprocessor_config.json",
    "checkpoint-4/training_args.bin",
    RUN_FILE,
)
DAMAGES: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "zeroed": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
}


def make_inputs(folder: Path) -> tuple[str, str]:
    """An .npz of 16 + 8 clouds of two classes, and a tiny BERT with random weights."""
    generator, labels = np.random.default_rng(0), np.arange(24) % 2
    points = generator.normal(size=(24, 80, 3)).astype(np.float32)
    points[labels == 1, :, 2] *= 0.05
    splits = {"split": (np.arange(24) >= 16).astype(np.int64), "class_names": np.array(["ball", "disc"])}
    np.savez(folder / "clouds.npz", points=points, labels=labels, **splits)
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(**sizes, vocab_size=50, max_position_embeddings=24)).save_pretrained(folder / "bert")
    return str(folder / "clouds.npz"), str(folder / "bert")


def outcome(work: Callable[[], object], adapter: Path, expected: bytes) -> str:
    """What comes of a resumed training."""
    try:
        work()
    except Any2PointError as error:
        return "refused in one line" if "\n" not in str(error) else "REFUSED IN MANY LINES"
    except Exception as error:
        return f"TRACEBACK {type(error).__name__}"
    return "same weights" if adapter.read_bytes() == expected else "OTHER WEIGHTS"


def main() -> None:
    """Prints the counts."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else len(FILES)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data, backbone = make_inputs(folder)
        fields = {"num_points": 64, "num_neighbors": 8}

        def run(output: Path, epochs: int, resume: bool = False) -> None:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                train(data, backbone, output, fields, epochs=epochs, batch_size=8, resume=resume)

        run(folder / "two epochs", epochs=2)
        run(Path(shutil.copytree(folder / "two epochs", folder / "expected")), epochs=3, resume=True)
        expected = (folder / "expected" / "model.safetensors").read_bytes()
        for name in FILES[:count]:
            for damage, change in DAMAGES.items():
                output = Path(shutil.copytree(folder / "two epochs", folder / "damaged"))
                change(output / name)
                result = outcome(partial(run, output, 3, resume=True), output / "model.safetensors", expected)
                print(f"{name} {damage}: {result}", flush=True)
                counts[result] += 1
                shutil.rmtree(output)
    print(", ".join(f"{times} {name}" for name, times in sorted(counts.items())))


if __name__ == "__main__":
    main()
