"""Loads adapters whose files were changed at random, and counts what comes of it.

    python benchmarks/reliability/mutated_adapters.py 1000

Each folder is loaded in a process of its own with 5 seconds of CPU and 6 GB of address space beyond what it began with.
What is counted: one error of ours, loaded (the change does not matter, or is a legal setting), or anything else:
another error, a process that was ended, a file of tensors whose changed bits were accepted. Needs Linux.
"""

import json
import os
import random
import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel
from transformers.utils import logging

from any2point_hf import Any2PointConfig, Any2PointForPointCloudClassification, Any2PointProcessor
from any2point_hf.modeling.errors import Any2PointError

SECONDS, BYTES = 5, 6 * 1024**3
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 1.5, -2.5, 10_000, 2**31, 10**9, 10**30, 1e300, float("nan"), float("inf")),
    *("", "x", "eager", "kernels-community/flash-attn", "../..", [], {}, [1], [10**9], ["x"], {"a": 1}, {"0": 5}),
)


def make_adapter(folder: Path) -> BertModel:
    """An untrained adapter in a folder, and its tiny backbone."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    backbone = BertModel(BertConfig(vocab_size=48, intermediate_size=64, **sizes))
    config = Any2PointConfig(num_points=64, num_neighbors=8, num_views=2, num_labels=3)
    Any2PointForPointCloudClassification(config, backbone=backbone).save_pretrained(folder)
    Any2PointProcessor(64).save_pretrained(folder)
    return backbone


def mutate(files: dict[str, bytes], chance: random.Random) -> tuple[str, dict[str, bytes]]:
    """Changes one of the files; returns what was done and the files."""
    kind = chance.choice(("field", "field", "field", "bits", "cut", "bytes"))
    name = chance.choice(("config.json", "preprocessor_config.json") if kind == "field" else sorted(files))
    content = bytearray(files[name])
    if kind == "field":
        values = json.loads(content)
        inner = values
        if isinstance(values.get("backbone_config"), dict) and chance.random() < 0.5:
            inner = values["backbone_config"]
        field = chance.choice([*inner, "auto_map", "num_labels", "return_dict", "quantization_config", "new_field"])
        inner[field] = chance.choice(VALUES)
        if name == "config.json" and chance.random() < 0.5:
            values.pop("checksums", None)
        content = bytearray(json.dumps(values).encode())
    elif kind == "bits":
        for _ in range(chance.choice((1, 1, 8))):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del content[chance.randrange(len(content)) :]
    else:
        start = chance.randrange(len(content))
        content[start : start + 8] = chance.randbytes(chance.choice((0, 8, 64)))
    return f"{kind} of {name}", files | {name: bytes(content)}


def load(folder: Path, backbone: BertModel) -> str:
    """Loads model and processor; says how it ended."""
    try:
        Any2PointForPointCloudClassification.from_pretrained(folder, backbone=backbone)
        Any2PointProcessor.from_pretrained(folder)
    except Any2PointError:
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    return "loaded"


def outcome(folder: Path, backbone: BertModel) -> str:
    """How loading ends in a process with limits."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + SECONDS, int(used) + SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (in_use + BYTES, in_use + BYTES))
        os.write(write, load(folder, backbone).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        result = said.read()
    _, status = os.waitpid(child, 0)
    return result or f"ended by {status}"


def main(num_folders: int) -> None:
    """Prints the counts, and an example of each that is not as it should be."""
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    chance, counts, wrong = random.Random(0), Counter[str](), {}
    with tempfile.TemporaryDirectory() as place:
        backbone = make_adapter(Path(place) / "adapter")
        files = {file.name: file.read_bytes() for file in (Path(place) / "adapter").iterdir() if file.name[0] != "."}
        folder = Path(place) / "mutated"
        folder.mkdir()
        for _ in range(num_folders):
            kind, mutated = mutate(files, chance)
            for name, content in mutated.items():
                (folder / name).write_bytes(content)
            result = outcome(folder, backbone)
            same_tensors = mutated["model.safetensors"] == files["model.safetensors"]
            if result == "loaded" and not same_tensors:
                result = "changed tensors accepted"
            counts[result if result in ("refused", "loaded") else "WRONG"] += 1
            if result not in ("refused", "loaded"):
                wrong[result] = kind
    print(f"{num_folders} folders: {dict(counts)}")
    for result, kind in wrong.items():
        print(f"  {kind}: {result}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
