"""Original .pth files with flipped bits, zeroed or cut parts: how many are read, and do their weights differ?

python benchmarks/reliability/mutated_original_checkpoints.py [files]

Half of the files are of `torch.save`, half TorchScript archives. Every third bit is flipped in the last 4 KiB, where a
zip has its directory. All must be refused by a CheckpointError, or read with the weights that were written.
"""

import collections
import random
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from any2point_hf.conversion_scripts.original_checkpoint import read_original_checkpoint
from any2point_hf.conversion_scripts.torchscript_archive import is_torchscript_archive, read_torchscript_archive
from any2point_hf.modeling.errors import CheckpointError

SLOW = 5.0  # seconds of CPU time


def mutate(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """One damage, and its name."""
    kind = draw.choice(("bit flipped", "bit flipped", "part zeroed", "cut", "bytes put in"))
    start = draw.randrange(len(content))
    if kind == "bit flipped":
        if draw.random() < 1 / 3:
            start = draw.randrange(max(0, len(content) - 4096), len(content))
        flipped = content[start] ^ (1 << draw.randrange(8))
        return kind, content[:start] + bytes([flipped]) + content[start + 1 :]
    if kind == "part zeroed":
        length = min(draw.randrange(1, 4096), len(content) - start)
        return kind, content[:start] + bytes(length) + content[start + length :]
    if kind == "cut":
        return kind, content[:start]
    return kind, content[:start] + draw.randbytes(draw.randrange(1, 64)) + content[start:]


def read(path: Path) -> dict[str, Tensor]:
    """As the conversion scripts do."""
    reader = read_torchscript_archive if is_torchscript_archive(path) else read_original_checkpoint
    return reader(path).tensors


def outcome(path: Path, expected: dict[str, Tensor]) -> str:
    """What comes of a file."""
    start = time.process_time()
    try:
        tensors = read(path)
    except CheckpointError as error:
        result = "refused" if len(str(error)) < 1000 else "refused at length"
    except Exception as error:
        result = f"TRACEBACK {type(error).__name__}"
    else:
        same = tensors.keys() == expected.keys() and all(torch.equal(tensors[n], expected[n]) for n in expected)
        result = "read, same weights" if same else "READ, OTHER WEIGHTS"
    return "SLOW" if time.process_time() - start > SLOW else result


def main() -> None:
    """Prints the counts."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    draw = random.Random(0)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30), nn.Linear(30, 4)).eval()
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = [Path(folder, "saved.pth"), Path(folder, "script.pt")]
        torch.save({"model": module.state_dict(), "epoch": 3}, files[0])
        torch.jit.save(torch.jit.script(module), files[1])
        wholes = [(file.read_bytes(), read(file)) for file in files]
        damaged = Path(folder, "damaged.pth")
        for number in range(count):
            content, expected = wholes[number % 2]
            kind, mutated = mutate(content, draw)
            damaged.write_bytes(mutated)
            counts[f"{files[number % 2].suffix} {kind}: {outcome(damaged, expected)}"] += 1
    for name, times in sorted(counts.items()):
        print(f"{times:5d}  {name}")


if __name__ == "__main__":
    main()
