"""How torch's threads wait: set where the process is ours, before torch is loaded; what a user has set stays."""

import subprocess
import sys

import pytest

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def variables_after(code, environment, **given):
    """The variables of a fresh process after it has run the code, and whether torch was loaded before they were set."""
    unset = {name: value for name, value in environment.items() if name not in NAMES}
    watch = (
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name == 'torch': print('torch', [os.environ.get(name) for name in " + repr(NAMES) + "])\n"
        "sys.meta_path.insert(0, Watch)\n"
    )
    command = [sys.executable, "-c", watch + code]
    process = subprocess.run(command, env={**unset, **given}, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


@pytest.mark.parametrize("module", ["any2point_hf.calm_threads", "any2point_hf.cli", "any2point_hf.example"])
def test_it_is_set_when_torch_is_loaded(module, subprocess_environment):
    said = variables_after(f"import {module}, torch", subprocess_environment)
    assert said == "torch ['passive', '500', '0']"


def test_what_a_user_has_set_stays(subprocess_environment):
    code = "import any2point_hf.cli, torch"
    assert variables_after(code, subprocess_environment, OMP_WAIT_POLICY="active") == "torch ['active', None, None]"
    assert variables_after(code, subprocess_environment, KMP_BLOCKTIME="50") == "torch ['passive', '500', '50']"
    assert variables_after(code, subprocess_environment, GOMP_SPINCOUNT="7") == "torch ['passive', '7', '0']"


def test_the_package_alone_sets_nothing(subprocess_environment):
    assert variables_after("import any2point_hf, torch", subprocess_environment) == "torch [None, None, None]"


@pytest.mark.skipif(sys.platform != "linux", reason="torch's builds for Linux use GNU's OpenMP library")
def test_the_openmp_library_reads_it(subprocess_environment):
    unset = {name: value for name, value in subprocess_environment.items() if name not in NAMES}
    environment = {**unset, "OMP_DISPLAY_ENV": "verbose"}
    for code, spins in (("import torch", "300000"), ("import any2point_hf.calm_threads, torch", "500")):
        process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        if "GOMP_SPINCOUNT" not in process.stderr:
            pytest.skip("this torch has another OpenMP library")
        assert f"GOMP_SPINCOUNT = '{spins}'" in process.stderr
