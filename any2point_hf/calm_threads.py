"""Lets torch's threads sleep while they wait for each other: `import any2point_hf.calm_threads`, before torch.

A training step is thousands of small operations, each split over all cores. By default a thread that is done early
spins until the last one is, and where another program has that one's core, the spinning lasts until the system takes
turns: a step can then take twenty times as long. Here a thread spins for some microseconds, which is how long another
one is usually behind on a quiet machine, and then sleeps.

The variables are read once, when the OpenMP library is loaded with torch: GNU's (torch's builds for Linux) reads
OMP_WAIT_POLICY and GOMP_SPINCOUNT; Intel's and LLVM's read KMP_BLOCKTIME as well. What is set already stays as it is,
and processes that are started from here inherit all of it.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if os.environ["OMP_WAIT_POLICY"].lower() == "passive":
    os.environ.setdefault("GOMP_SPINCOUNT", "500")  # without any, a step alone takes a fifth longer
    os.environ.setdefault("KMP_BLOCKTIME", "0")  # milliseconds; the policy alone leaves it at 200
