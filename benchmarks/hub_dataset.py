"""What a data set on the Hub costs: pulled for the first time, from the cache, offline, and beside `load_from_disk`.

    python benchmarks/hub_dataset.py

Runs against the Hub of the tests on localhost, with the built-in shapes. A new process for each figure; what it takes
to import is left out.
"""

import os
import socket
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from hub import test_hub

PROCESS = """
import sys, time
from any2point_hf import load_point_cloud_dataset
from any2point_hf.modeling import Any2PointError
from datasets import load_from_disk
began = time.perf_counter()
try:
    said = str({call}.num_rows)
except Any2PointError as error:
    said = str(error)
print(f"{{time.perf_counter() - began:.2f}} s: {{said}}")
"""
LOAD = "load_point_cloud_dataset('me/shapes')"


def seconds(call: str, home: Path, **environment: str) -> str:
    """What a new process says of one call."""
    variables = {"HF_HOME": str(home), "HF_TOKEN": "token-of-me", "NO_PROXY": "*", "HF_HUB_DISABLE_XET": "1"}
    variables |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", PROCESS.format(call=call)],
        env=os.environ | variables | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return result.stdout.strip().splitlines()[-1]


def main() -> None:
    """Prints a line for each figure."""
    silent = socket.create_server(("127.0.0.1", 0), backlog=16)  # takes connections and never answers
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        hub = test_hub(home / "xet")
        os.environ |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": "token-of-me", "NO_PROXY": "*", "HF_HUB_DISABLE_XET": "1"}
        os.environ["HF_HUB_OFFLINE"] = "0"
        from any2point_hf import load_point_cloud_dataset

        shapes = load_point_cloud_dataset("shapes")
        shapes.save_to_disk(home / "saved")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shapes.push_to_hub("me/shapes")
        size = sum(file.size for file in hub.repositories["datasets/me/shapes"].files().values())
        print(f"{sum(shapes.num_rows.values())} clouds, {size / 1e6:.1f} MB")
        for name, extra in (("first pull", {}), ("from the cache", {}), ("offline", {"HF_HUB_OFFLINE": "1"})):
            print(f"{name}: {seconds(LOAD, home, **extra)}", flush=True)
        print(f"saved folder: {seconds(LOAD.replace('me/shapes', str(home / 'saved')), home)}")
        saved = f"load_from_disk({str(home / 'saved')!r})"
        print(f"load_from_disk of it: {seconds(saved, home)}")
        dead = {
            "refused": "http://127.0.0.1:9",
            "no such host": "http://no-such-host.invalid",
            "no answer": f"http://127.0.0.1:{silent.getsockname()[1]}",
        }
        for name, endpoint in dead.items():
            for cache, place in (("in the cache", home), ("not in the cache", home / "empty")):
                print(f"{name}, {cache}: {seconds(LOAD, place, HF_ENDPOINT=endpoint)}", flush=True)
        hub.close()


if __name__ == "__main__":
    main()
