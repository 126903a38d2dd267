"""Mistakes in names and paths are found before torch is imported: what takes no seconds to find takes none."""

import subprocess
import sys

import pytest

# In the folder: file.txt, empty; folder/, empty.
MISTAKES = {
    "train --preset nope --data shapes --output out": "a preset must be one of",
    "train --data shapes --output out": "--backbone is needed",
    "train --data none.npz --backbone b --output out": "none.npz does not exist",
    "train --data file.txt --backbone b --output out": "is a file of no kind that is read",
    "train --data shapes --backbone ./none --output out": "'./none' is neither",
    "train --data shapes --backbone b --output file.txt": "--output must be a folder",
    "train --data shapes --backbone b --recipe modelnt --output out": "Did you mean modelnet?",
    "train --data shapes --backbone b --features rgb, --output out": "features of points must have names",
    "train --data shapes --backbone b --epochs x --output out": "invalid positive float value",
    "train --data shapes --backbone b --set adapter_dmi=8 --output out": "Did you mean adapter_dim?",
    "train --data shapes --backbone b --set backbone=c --output out": "--set takes FIELD=VALUE with a field",
    "info --backbone b --set num_channels=3": "Did you mean num_point_features?",
    "reproduce --table 4 --data shapes --backbone-1d a --set-1d plnae=[8,8] --output out": "Did you mean plane?",
    "evaluate --model ./none --data shapes": "'./none' is neither",
    "evaluate --model folder --data none/": "does not exist",
    "predict none.ply --model folder": "none.ply does not exist",
    "predict file.txt --model folder": "file.txt is empty",
    "predict folder --model folder": "Give --out FILE.parquet",
    "predict folder --model folder --out c.csv": "Give --out FILE.parquet",
    "predict a.ply b.ply --model folder --out c.parquet": "--out takes one folder or dataset, got 2",
    "predict a.ply --model folder --skip-bad": "--skip-bad needs --out",
    "embed folder --model folder --out c.csv": "--out must be a file that ends in .parquet",
    "embed none --model folder --out c.parquet": "does not exist",
    "index folder --model folder --out c.csv": "--out must be a file that ends in .parquet or .index",
    "search none.ply --index a.index --model folder": "none.ply does not exist",
    "search file.txt --index a.index --model folder": "file.txt is empty",
    "calibrate --model ./none --data shapes": "'./none' is neither",
    "info --preset nope": "a preset must be one of",
    "info --preset clip-text-scan --model folder": "got both",
    "info --model ./none": "'./none' is neither",
    "info --model folder --diagnose none.npz": "none.npz does not exist",
    "push none": "there is no folder none",
    "push folder a/b/c": "a repository is called",
    "export --model folder --format onnx --output c.pt2": "--output must end in .onnx",
    "convert --checkpoint none.pth --backbone b --output out": "--checkpoint must be a file",
    "convert --checkpoint file.txt --backbone b --output file.txt": "--output must be a folder",
    "reproduce --table 11 --data shapes --output out": "--table must be one of",
    "reproduce --table 4 --data shapes --output out": "table 4 needs --backbone-1d and --backbone-2d",
    "reproduce --figures --data shapes --output out": "--figures needs --model",
    "few-shot --data none.npz --backbone b --output out": "none.npz does not exist",
    "few-shot --data shapes --backbone b --output file.txt": "--output must be a folder",
    "visualize none.ply --model folder --kind tokens": "none.ply does not exist",
    "visualize shapes:teapot --model folder --kind tokens": "names no built-in shape",
    "visualize shapes:chair --model folder --kind tokens --block 1": "--block belongs to",
    "visualize shapes:chair --model folder --kind tokens --out c.csv": "--out takes a file ending in",
    "demo --model ./none": "'./none' is neither",
}

PROGRAM = """
import sys
from any2point_hf.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as stop:  # of argparse
    code = stop.code
print(code, [name for name in ("torch", "transformers", "datasets", "matplotlib", "plotly") if name in sys.modules])
"""


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_found_before_heavy_imports(command, subprocess_environment, tmp_path):
    (tmp_path / "file.txt").touch()
    (tmp_path / "folder").mkdir()
    arguments = [sys.executable, "-c", PROGRAM, *command.split()]
    process = subprocess.run(arguments, cwd=tmp_path, env=subprocess_environment, capture_output=True, text=True)
    assert process.stdout == "2 []\n"
    assert process.stderr.count("\n") == 1
    assert process.stderr.startswith("error: ")
    assert MISTAKES[command] in process.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"file.txt", "folder"}


@pytest.mark.parametrize("code", ["import any2point_hf", "import any2point_hf.cli; any2point_hf.cli.make_parser()"])
def test_the_package_and_the_help_import_nothing_heavy(code, subprocess_environment):
    heavy = ("torch", "transformers", "datasets", "huggingface_hub", "numpy", "matplotlib", "plotly")
    code += f"; import sys; print([name for name in {heavy} if name in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], env=subprocess_environment, capture_output=True, text=True)
    assert process.stdout == "[]\n", process.stderr
