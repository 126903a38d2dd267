"""A cloud of a million points through every way in, in one process whose peak of memory is read at its end."""

import json
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
import torch
from any2point_hf.trained_adapter import load
from any2point_hf.cli import main

from transformers import pipeline

torch.set_num_threads(1)
file, adapter = sys.argv[1:]
folder = Path(file).parent
model, processor = load(adapter)
expected = processor(file)["points"]
assert torch.equal(processor(np.load(file))["points"], expected)
assert torch.equal(processor(torch.from_numpy(np.load(file)))["points"], expected)
classify = pipeline("point-cloud-classification", model=model, processor=processor)
answers = [classify(file), classify(np.load(file))]
answers.append(next(iter(classify(cloud for cloud in [np.load(file)]))))
assert all(answer == answers[0] for answer in answers), answers
assert main(["predict", file, "--model", adapter]) == 0
assert main(["embed", str(folder), "--model", adapter, "--out", str(folder.parent / "features.parquet")]) == 0
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps({"peak": int(status["VmHWM"].split()[0]) * 1024}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_a_million_points_take_less_than_2_gib(tmp_path, tiny_adapter, subprocess_environment):
    (tmp_path / "clouds").mkdir()
    file = tmp_path / "clouds" / "million.npy"
    np.save(file, np.random.default_rng(0).normal(size=(1_000_000, 3)).astype(np.float32))
    command = [sys.executable, "-c", SCRIPT, str(file), str(tiny_adapter.folder)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=subprocess_environment).stdout
    assert json.loads(output.splitlines()[-1])["peak"] < 2 * 2**30
