"""Runs the sampling kernel in Triton's interpreter: `python interpreted_sampling.py INPUT.npz OUTPUT.npz`.

A process of its own, because Triton reads TRITON_INTERPRET when it is first imported, and torch imports it by itself.
The input holds NAME.points [B, N, 3], NAME.samples and maybe NAME.excluded [B, N]; the output NAME [B, samples].
"""

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch

from any2point_hf.modeling.tokenizer import point_ops


def main(input_file, output_file):
    point_ops._kernel_takes = lambda x: True  # as if there were a GPU
    compiled = torch.compile(point_ops.farthest_point_sampling, backend="aot_eager", fullgraph=True, dynamic=False)
    given, found = np.load(input_file), {}
    for name in {key.partition(".")[0] for key in given}:
        excluded = torch.from_numpy(given[f"{name}.excluded"]) if f"{name}.excluded" in given else None
        arguments = (torch.from_numpy(given[f"{name}.points"]), int(given[f"{name}.samples"]), excluded)
        function = compiled if name.startswith("compiled") else point_ops.farthest_point_sampling
        found[name] = function(*arguments).numpy()
    np.savez(output_file, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
