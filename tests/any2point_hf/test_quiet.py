"""What the command line says besides its results, in a process of its own, whose libraries are not loaded yet."""

import os
import pty
import re
import subprocess
import sys

import pytest

LINE = r"epoch {}/{}  loss \d+\.\d\d  accuracy [01]\.\d\d\d  (\d\.\d|0\.0\d\d?|0\.\d\d|\d\d+) s/step"
LEFT = r"  \d+ (s|min) left"


@pytest.fixture
def environment(subprocess_environment):
    switches = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")  # an earlier test may have set one
    return {name: value for name, value in subprocess_environment.items() if name not in switches}


@pytest.fixture
def command(two_classes, bert, tmp_path):
    size = ("--num-points", "96", "--num-neighbors", "8", "--batch-size", "8")
    folders = ("--data", str(two_classes.path), "--backbone", str(bert), "--output", str(tmp_path / "trained"))
    return [sys.executable, "-m", "any2point_hf", "train", *folders, *size]


def run(command, environment):
    process = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert process.returncode == 0, process.stderr
    return process.stdout, process.stderr


def on_a_terminal(command, environment):
    """Standard error of a command, where it is a terminal of 40 lines and 100 columns."""
    ours, theirs = pty.openpty()
    subprocess.run(["stty", "rows", "40", "cols", "100"], stdin=theirs, check=True)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 1 << 16):
            said += part
    except OSError:  # how Linux says that the other end is closed
        pass
    finally:
        os.close(ours)
    assert process.wait() == 0, said
    return said.decode()


def test_a_training_in_a_pipe_says_a_line_an_epoch_and_its_warnings(command, environment, tmp_path):
    out, err = run([*command, "--epochs", "2"], environment)
    said = err.splitlines()
    few = "clouds have fewer than 96 points; theirs are repeated."
    assert said[:2] == [f"warning: 16 of 16 {few}", f"warning: 8 of 8 {few}"]
    assert said[2].startswith("recipe small-data (16 clouds, 2 classes): 2 epochs of 2 steps")
    assert said[3].startswith("linear probe before training: accuracy ")
    assert re.fullmatch(LINE.format(1, 2) + LEFT, said[4]), said[4]
    assert re.fullmatch(LINE.format(2, 2), said[5]), said[5]
    assert len(said) == 6
    accuracy = re.match(r"accuracy (\d\.\d{4}) \(last epoch, test split\), adapter ", out)
    assert out.count("\n") == 1
    assert f"accuracy {float(accuracy[1]):.3f} " in said[5]

    resumed = on_a_terminal([*command, "--epochs", "3", "--resume"], environment)
    lines = [line.rpartition("\r")[2] for line in resumed.replace("\r\n", "\n").split("\n")]
    (line,) = (line for line in lines if line.startswith("epoch"))
    assert re.fullmatch(LINE.format(3, 3), line), line
    assert "training:  67%|" in resumed  # the bar goes on where the epochs of before ended
    assert not re.findall("Loading|Writing|Sampling|'loss'", resumed)

    saved = ["--model", str(tmp_path / "trained"), "--data", command[command.index("--data") + 1]]
    assert run([*command[:3], "evaluate", *saved], environment)[1] == f"warning: 8 of 8 {few}\n"


def test_verbose_brings_the_rest_back(command, environment):
    out, err = run([*command, "--epochs", "1", "--verbose"], environment)
    for bar in ("Loading weights: 100%", "Writing model shards: 100%", "Sampling points: 100%"):
        assert bar in err
    assert "{'loss': " in out
    assert "{'eval_loss': " in out
    assert "epoch 1/1" not in out + err
