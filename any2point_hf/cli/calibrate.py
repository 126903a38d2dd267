"""`any2point calibrate`."""

import argparse
from typing import Any

from .options import add_backbone, add_batch_size, add_data, add_json, add_model

HELP = "make an adapter's probabilities true, by a temperature fitted to held-out clouds"
DESCRIPTION = """
Fits one number, by which logits are divided, so that answers of a probability of 0.9 are right nine times in ten, and
writes it into the adapter's config.json. Answers stay the same. The clouds must be ones that the adapter was neither
trained on nor will be tested on.
"""
EXAMPLES = """
  any2point calibrate --model my-adapter --data scans.npz --split validation
  any2point calibrate --model my-adapter --data shapes-held-out/ --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this command."""
    add_model(parser)
    add_data(parser)
    add_backbone(parser)
    parser.add_argument("--split", default="validation", metavar="NAME", help="held-out split (default validation)")
    add_batch_size(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> dict[str, Any] | None:
    """Calls one function and prints what it returns, or returns it for `--json`."""
    from ..evaluation.temperature import calibrate

    result = calibrate(
        options.model, options.data, options.backbone, options.split, options.batch_size, options.drop_invalid
    )
    if options.json:
        return result
    print(
        f"temperature {result['temperature']:.4f}, fitted to {result['num_clouds']} clouds; expected calibration error "
        f"{result['before']:.4f} before, {result['after']:.4f} after. Written to {options.model}."
    )
    return None
