"""One run at a time in a folder: who is refused, and whose lock is taken over."""

import json
import os
import platform
import subprocess
import sys

import psutil
import pytest

from any2point_hf.modeling.errors import Any2PointError
from any2point_hf.training.output_lock import LOCK_FILE, output_lock

HOLDER = """
import sys, time
from pathlib import Path
from any2point_hf.training.output_lock import output_lock
with output_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def record(**changes):
    own = {"pid": os.getpid(), "host": platform.node(), "name": psutil.Process().name(), "id": "earlier"}
    return json.dumps(own | changes)


@pytest.fixture
def output(tmp_path):
    (tmp_path / "output").mkdir()
    return tmp_path / "output"


def test_a_second_run_is_refused_and_the_first_keeps_its_lock(output):
    with output_lock(output):
        held = (output / LOCK_FILE).read_text()
        message = rf"one run at a time, and process {os.getpid()} on {platform.node()} is at work .* delete .*lock"
        with pytest.raises(Any2PointError, match=message), output_lock(output):
            pass
        assert (output / LOCK_FILE).read_text() == held
    assert list(output.iterdir()) == []


def test_another_process_is_refused_until_it_is_killed(output, subprocess_environment):
    command = [sys.executable, "-c", HOLDER, str(output)]
    holder = subprocess.Popen(command, env=subprocess_environment, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(Any2PointError, match=f"process {holder.pid} on"), output_lock(output):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert (output / LOCK_FILE).exists()
    with output_lock(output):
        assert json.loads((output / LOCK_FILE).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize(
    "changes",
    [{"pid": 2**30}, {}, {"pid": os.getppid(), "name": "of another program"}],
    ids=["gone", "of this number before", "number given to another program"],
)
def test_a_stale_lock_is_taken_over(output, changes):
    (output / LOCK_FILE).write_text(record(**changes))
    with output_lock(output):
        assert json.loads((output / LOCK_FILE).read_text())["id"] != "earlier"
    assert list(output.iterdir()) == []


def test_of_a_process_on_another_machine_nothing_is_known(output):
    (output / LOCK_FILE).write_text(record(host="another", pid=2**30))
    with pytest.raises(Any2PointError, match="on another is at work there"), output_lock(output):
        pass


def test_an_empty_lock_is_being_written_or_of_a_kill_long_ago(output):
    (output / LOCK_FILE).touch()
    with pytest.raises(Any2PointError, match="one run at a time"), output_lock(output):
        pass
    os.utime(output / LOCK_FILE, (0, 0))
    with output_lock(output):
        pass


def test_a_folder_that_was_not_there_and_is_not_written_to_goes_again(tmp_path):
    with output_lock(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
    assert list(tmp_path.iterdir()) == []
    with output_lock(tmp_path / "new"):
        (tmp_path / "new" / "file").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]
