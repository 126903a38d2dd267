"""Predictions in bfloat16 beside those in float32, of an adapter on the clouds it was not trained on.

python benchmarks/bfloat16_predictions.py --model ADAPTER --data modelnet10_1024.npz [--split test]

The whole model is in bfloat16, as for inference on a processor or GPU that has it; coordinates stay float32. Exit code
1 if the accuracies differ by more than half a percentage point.
"""

import argparse
import sys

import torch

from any2point_hf.commands import load
from any2point_hf.data import load_point_cloud_dataset
from any2point_hf.training import process_split

LARGEST_DIFFERENCE = 0.005


@torch.no_grad()
def main() -> int:
    """Prints accuracies, how many predictions differ, and how far logits are apart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or Hub id of an adapter")
    parser.add_argument("--data", required=True, help="as of any2point evaluate")
    parser.add_argument("--backbone", help="instead of the recorded one")
    parser.add_argument("--split", default="test")
    options = parser.parse_args()
    dataset = load_point_cloud_dataset(options.data)[options.split]
    logits = {}
    for dtype in (torch.float32, torch.bfloat16):
        model, processor = load(options.model, options.backbone)
        model = model.to(dtype)
        clouds = process_split(dataset, processor, processor.num_points)
        rows = clouds.iter(64)
        logits[dtype] = torch.cat([model(batch["points"].to(model.device)).logits.float().cpu() for batch in rows])
    names = dataset.features["label"].names
    known = {name: index for index, name in model.config.id2label.items()}
    labels = torch.tensor([known[names[int(label)]] for label in clouds["labels"]])
    predictions = {dtype: values.argmax(dim=-1) for dtype, values in logits.items()}
    accuracies = {dtype: (found == labels).double().mean().item() for dtype, found in predictions.items()}
    exact, short = logits.values()
    differing = (predictions[torch.float32] != predictions[torch.bfloat16]).sum().item()
    print(f"clouds              {len(labels)}")
    print(f"accuracy            float32 {accuracies[torch.float32]:.4f}, bfloat16 {accuracies[torch.bfloat16]:.4f}")
    print(f"predictions differ  {differing} ({differing / len(labels):.2%})")
    print(
        f"logits differ       {(exact - short).abs().max():.3f} at most, {(exact - short).abs().mean():.4f} on average"
    )
    print(f"logits' deviation   {exact.std():.3f}")
    return int(abs(accuracies[torch.float32] - accuracies[torch.bfloat16]) > LARGEST_DIFFERENCE)


if __name__ == "__main__":
    sys.exit(main())
