"""Predictions in bfloat16 beside those in float32, of an adapter on the clouds it was not trained on.

python benchmarks/bfloat16_predictions.py --model ADAPTER --data modelnet10_1024.npz [--split test]

The whole model is in bfloat16, as for inference on a processor or GPU that has it; coordinates stay float32. Exit code
1 if the accuracies differ by more than half a percentage point.
"""

import argparse
import sys

import torch

from any2point_hf.data import load_point_cloud_dataset
from any2point_hf.trained_adapter import load
from any2point_hf.training.trainer import process_split

LARGEST_DIFFERENCE = 0.005


@torch.no_grad()
def main() -> int:
    """Prints accuracies, how many predictions differ, and how far logits are apart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or Hub id of an adapter")
    parser.add_argument("--data", required=True, help="as of any2point evaluate, with the model's classes")
    parser.add_argument("--backbone", help="instead of the recorded one")
    parser.add_argument("--split", default="test")
    options = parser.parse_args()
    dataset = load_point_cloud_dataset(options.data)[options.split]
    model, processor = load(options.model, options.backbone)
    clouds = process_split(dataset, processor, processor.num_points)
    labels = torch.tensor([model.config.label2id[dataset.features["label"].int2str(int(n))] for n in clouds["labels"]])
    logits, predictions, accuracies = {}, {}, {}
    for dtype in ("float32", "bfloat16"):
        model = model.to(getattr(torch, dtype))
        parts = [model(rows["points"].to(model.device)).logits.float().cpu() for rows in clouds.iter(64)]
        logits[dtype] = torch.cat(parts)
        predictions[dtype] = logits[dtype].argmax(dim=-1)
        accuracies[dtype] = (predictions[dtype] == labels).double().mean().item()
    differing = (predictions["float32"] != predictions["bfloat16"]).sum().item()
    apart = (logits["float32"] - logits["bfloat16"]).abs()
    print(f"clouds              {len(labels)}")
    print("accuracy            " + ", ".join(f"{dtype} {value:.4f}" for dtype, value in accuracies.items()))
    print(f"predictions differ  {differing} ({differing / len(labels):.2%})")
    print(f"logits differ       {apart.max():.3f} at most, {apart.mean():.4f} on average")
    print(f"logits' deviation   {logits['float32'].std():.3f}")
    return int(abs(accuracies["float32"] - accuracies["bfloat16"]) > LARGEST_DIFFERENCE)


if __name__ == "__main__":
    sys.exit(main())
