"""Loads an adapter from a Hub whose head moves all the time, and looks whether its parts are of one commit.

    python benchmarks/reliability/moving_head.py 15

Runs against the Hub of the tests on localhost, which gets a new commit every few milliseconds; the number of the commit
stands in the config, in the weights and in the processor. Each run is one of three ways to load both.
"""

import importlib.util
import json
import os
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS_BETWEEN_COMMITS = 0.01
TESTS = Path(__file__).resolve().parents[2] / "tests"


def start_hub(folder: Path) -> Any:
    """The Hub of the tests; the client must not have been imported yet."""
    spec: Any = importlib.util.spec_from_file_location("hub_server", TESTS / "hub_server" / "__init__.py")
    sys.modules["hub_server"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    hub = module.Hub(folder)
    os.environ |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "NO_PROXY": "127.0.0.1,localhost"}
    os.environ |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "token-of-me"}
    return hub


def make_adapter(folder: Path) -> None:
    """A tiny backbone, and an untrained adapter for it."""
    import torch
    from transformers import BertConfig, BertModel

    from any2point_hf import Any2PointConfig, Any2PointForPointCloudClassification, Any2PointProcessor

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    BertModel(BertConfig(vocab_size=48, intermediate_size=64, **sizes)).save_pretrained(folder / "bert")
    config = Any2PointConfig(backbone=folder / "bert", num_points=64, num_neighbors=8, num_views=2, num_labels=3)
    Any2PointForPointCloudClassification(config).save_pretrained(folder / "adapter")
    Any2PointProcessor(64).save_pretrained(folder / "adapter")


def move_head(hub: Any, adapter: Path, moves: threading.Event, ends: threading.Event) -> None:
    """Commits one version after the other."""
    from hub_server.repositories import Repository, StoredFile  # type: ignore[import-not-found]
    from safetensors.torch import load_file, save

    repository = hub.repositories["me/adapter"] = Repository("me/adapter")
    tensors = load_file(adapter / "model.safetensors")
    config, processor = (json.loads((adapter / f"{name}config.json").read_text()) for name in ("", "preprocessor_"))
    config.pop("checksums", None)  # each commit has other weights
    version = 0
    while not ends.wait(SECONDS_BETWEEN_COMMITS):
        version += 1
        tensors["classifier.output.bias"].fill_(version)
        files = {
            "config.json": json.dumps(config | {"adapter_scale": version}).encode(),
            "model.safetensors": save(tensors, metadata={"format": "pt"}),
            "preprocessor_config.json": json.dumps(processor | {"seed": version}).encode(),
        }
        repository.add("main", {name: StoredFile.of(content) for name, content in files.items()}, f"{version}")
        moves.set()


def ways() -> dict[str, Callable[[], tuple[Any, Any]]]:
    """The ways to load model and processor."""
    from transformers import pipeline

    from any2point_hf import AutoModelForPointCloudClassification
    from any2point_hf.trained_adapter import load

    def by_pipeline(model: Any) -> tuple[Any, Any]:
        made = pipeline("point-cloud-classification", model)
        return made.model, made.feature_extractor

    return {
        "command line": lambda: load("me/adapter"),
        "pipeline": lambda: by_pipeline("me/adapter"),
        "pipeline of a model": lambda: by_pipeline(AutoModelForPointCloudClassification.from_pretrained("me/adapter")),
    }


def main(num_runs: int) -> None:
    """Prints how many runs were of one commit."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hub = start_hub(folder / "xet")
        make_adapter(folder)
        moves, ends = threading.Event(), threading.Event()
        mover = threading.Thread(target=move_head, args=(hub, folder / "adapter", moves, ends))
        mover.start()
        moves.wait()
        counts: Counter[str] = Counter()
        for index in range(num_runs):
            way, load = list(ways().items())[index % 3]
            model, processor = load()
            found = {model.config.adapter_scale, processor.seed, *model.classifier.output.bias.tolist()}
            counts[f"{way}: {'one commit' if len(found) == 1 else 'MIXED'}"] += 1
        ends.set()
        mover.join()
        hub.close()
    print(
        f"{num_runs} runs: {dict(counts)}; the head moved {len(hub.repositories['me/adapter'].branches['main'])} times"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6)
