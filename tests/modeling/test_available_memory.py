import sys
from pathlib import Path

import pytest
import torch

from any2point_hf.modeling.batch_memory import _left_in_containers, available_memory

MIB = 2**20
CPU = torch.device("cpu")

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="known on Linux alone")


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(str(text) + "\n")


@pytest.fixture
def second_version(tmp_path):
    """A process in /pod/container; the pod allows more than the container, the root has no limit."""
    stat = f"anon 5\ninactive_file {2 * MIB}\nactive_file {MIB}"
    write(tmp_path / "root/pod/container", memory__max=50 * MIB, memory__current=40 * MIB, memory__stat=stat)
    write(tmp_path / "root/pod", memory__max=90 * MIB, memory__current=40 * MIB, memory__stat=stat)
    write(tmp_path, cgroup="0::/pod/container")
    return tmp_path


def test_limits_of_a_container_count_with_the_pages_of_files_that_it_can_have_back(second_version):
    left = _left_in_containers(second_version / "cgroup", second_version / "root")
    assert left == [13 * MIB, 53 * MIB]


def test_a_container_without_a_limit_or_over_it(second_version):
    write(second_version / "root/pod/container", memory__max="max")
    write(second_version / "root/pod", memory__max=10 * MIB)
    assert _left_in_containers(second_version / "cgroup", second_version / "root") == [0]


def test_a_container_that_sees_only_its_own_folder(second_version):
    # as Docker mounts it: the process' path is the host's, and the limit lies at the root
    write(second_version, cgroup="0::/docker/0123")
    write(second_version / "root", memory__max=MIB, memory__current=0, memory__stat="inactive_file 0\nactive_file 0")
    assert _left_in_containers(second_version / "cgroup", second_version / "root") == [MIB]


def test_control_groups_of_the_first_version(tmp_path):
    write(tmp_path, cgroup="4:memory:/job\n1:cpu:/other\n0::/")
    stat = f"inactive_file 1\ntotal_inactive_file {MIB}\ntotal_active_file {MIB}"
    files = {"memory__limit_in_bytes": 8 * MIB, "memory__usage_in_bytes": 5 * MIB, "memory__stat": stat}
    write(tmp_path / "root/memory/job", **files)
    assert _left_in_containers(tmp_path / "cgroup", tmp_path / "root") == [5 * MIB]


@linux
def test_this_machine_has_some_but_not_more_than_there_is():
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    swap = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("SwapTotal"))
    assert 0 < available_memory(CPU) <= total + int(swap.split()[1]) * 1024


@linux
def test_memory_that_malloc_keeps_counts_as_free():
    import subprocess

    script = """
import torch
from any2point_hf.modeling.tokenizer.fast.freed_memory import keep_freed_memory
from any2point_hf.modeling.batch_memory import available_memory
assert keep_freed_memory()
kept = torch.ones(100 * 2**18)  # 100 MiB
held = available_memory(kept.device)
del kept
print(available_memory(torch.device("cpu")) - held)
"""
    told = subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert int(told) > 50 * MIB  # other processes take and give at the same time


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_it_is_not_known_elsewhere(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    assert available_memory(CPU) is None


def test_it_is_not_known_of_other_devices():
    assert available_memory(torch.device("meta")) is None


@linux
def test_it_is_not_known_where_the_system_does_not_tell(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "")
    assert available_memory(CPU) is None
