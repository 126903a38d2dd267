"""Writes a backbone of the same shape as another, with random weights: the control of docs/results.md.

python benchmarks/random_backbone.py ID_OR_FOLDER OUTPUT [SEED]
"""

import sys

from transformers import AutoConfig, AutoModel, set_seed


def main(backbone: str, output: str, seed: str = "0") -> None:
    """Builds it from the config alone."""
    set_seed(int(seed))
    AutoModel.from_config(AutoConfig.from_pretrained(backbone)).save_pretrained(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
