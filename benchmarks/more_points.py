"""Goes on with a trained adapter on more points a cloud: the second half of the ModelNet10 result in docs/results.md.

python benchmarks/more_points.py --data DATA --model ADAPTER --output FOLDER [--num-points 512] [--epochs 4]

An adapter takes any number of points, but learned its neighbourhoods at one density; a few epochs at a low rate fit it
to another. Prints the accuracy of the last epoch on the test split.
"""

import argparse

from transformers import set_seed

from any2point_hf import Any2PointProcessor, load_point_cloud_dataset, make_trainer
from any2point_hf.data.augmentation import Augmentation
from any2point_hf.modeling.tokenizer.fast.freed_memory import keep_freed_memory
from any2point_hf.trained_adapter import load


def main() -> None:
    """Trains, saves and prints one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--num-points", type=int, default=512)
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    options = parser.parse_args()
    keep_freed_memory()
    set_seed(0)
    model, _ = load(options.model)
    model.config.num_points = options.num_points
    processor = Any2PointProcessor(options.num_points)
    trainer = make_trainer(
        model,
        processor,
        load_point_cloud_dataset(options.data),
        options.output,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        augmentation=Augmentation(scale=(0.9, 1.1), shift=0.1),
    )
    trainer.train()
    accuracy = trainer.evaluate()["eval_accuracy"]
    model.save_pretrained(options.output)
    processor.save_pretrained(options.output)
    print(f"accuracy {accuracy:.4f} (last epoch, test split) with {options.num_points} points")


if __name__ == "__main__":
    main()
