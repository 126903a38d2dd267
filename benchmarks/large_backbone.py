"""Memory of one training step on a large backbone in bfloat16, beside the backbone's own.

python benchmarks/large_backbone.py [--batch-size 2] [--num-points 512]

A random backbone of Qwen3-0.6B's shape. Peak memory of the process is compared with the weights of the backbone and
the tensors that autograd keeps; what is left over must stay under 0.3 of the backbone.
"""

import argparse
import resource
import sys
import time

import any2point_hf.calm_threads  # noqa: F401  # isort: skip
import torch
from transformers import Qwen3Config

from any2point_hf.modeling import Any2PointConfig, Any2PointForPointCloudClassification
from any2point_hf.modeling.backbones.loading import build_backbone

QWEN3_0_6B = {
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "dtype": "bfloat16",
}
GIB = 2**30


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes (Linux counts in KiB, macOS in bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class KeptTensors:
    """Counts the bytes of the storages that autograd keeps for the backward pass."""

    def __init__(self, weights: set[int]) -> None:
        self.weights, self.storages = weights, {}

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        """Notes a tensor that autograd keeps."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.weights:
            self.storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def total(self) -> int:
        """Bytes of all of them."""
        return sum(self.storages.values())


def main() -> None:
    """Builds, trains one step, and compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--num-points", type=int, default=512)
    options = parser.parse_args()
    torch.manual_seed(0)
    before = peak_memory()
    backbone = build_backbone(Qwen3Config(**QWEN3_0_6B))
    weights = sum(p.numel() * p.element_size() for p in backbone.parameters())
    built = peak_memory()
    config = Any2PointConfig(num_points=options.num_points, num_neighbors=16, num_labels=10)
    start = time.perf_counter()
    model = Any2PointForPointCloudClassification(config, backbone=backbone).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    attached = peak_memory()
    kept = KeptTensors({p.untyped_storage().data_ptr() for p in model.parameters()})
    points = torch.randn(options.batch_size, options.num_points, 3) / 3
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        loss = model(points, labels=torch.arange(options.batch_size)).loss
    loss.backward()
    optimizer.step()
    peak = peak_memory()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(f"backbone {weights / GIB:.2f} GiB, {sum(p.numel() for p in backbone.parameters()) / 1e6:.0f} M parameters")
    print(f"trained: {trained:,} parameters; loss {loss.item():.3f}; {time.perf_counter() - start:.1f} s")
    print(
        f"peak above the start: built {(built - before) / GIB:.2f}, attached {(attached - before) / GIB:.2f}, ", end=""
    )
    print(f"after a step {(peak - before) / GIB:.2f} GiB; kept for the backward pass {kept.total / GIB:.2f} GiB")
    ratio = (peak - before - kept.total) / weights
    print(f"(peak - kept) / backbone = {ratio:.2f}, to stay under 1.3")
    sys.exit(ratio >= 1.3)


if __name__ == "__main__":
    main()
