"""Pulls an adapter from Hubs that drag answers out or send what no Hub sends; counts what hangs or is no HubError.

    python benchmarks/reliability/slow_hub.py [SECONDS]

A pull that has not ended after SECONDS (by default 100) counts as hung. Every pull is a new process, all at once, from
the Hub of the tests on localhost; its imports are not timed. The files are random bytes, since no
model is loaded from them.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

API, CONFIG, WEIGHTS = "/api/models", "config.json", "model.safetensors"
SLOW = {
    "the head of an answer, a byte in 3 s": ("GET", API, {"pause_head": 3}),
    "an answer, a byte in 3 s": ("GET", API, {"pause": 3}),
    "an endless answer in chunks": ("GET", API, {"endless": 0.5}),
    "an endless answer, as fast as it goes": ("GET", API, {"endless": 0}),
    "the head of a file, a byte in 3 s": ("HEAD", CONFIG, {"pause_head": 3}),
    "config.json, a byte in 3 s": ("GET", CONFIG, {"pause": 3}),
    "config.json without end": ("GET", CONFIG, {"endless": 0}),
    "weights, 20 bytes a second": ("GET", WEIGHTS, {"pause": 0.05}),
    "weights without end": ("GET", WEIGHTS, {"endless": 0}),
}
FILE = {"X-Repo-Commit": "0" * 40, "ETag": '"x"'}
ODD = {
    "null": ("GET", API, {"body": b"null"}),
    "a list": ("GET", API, {"body": b"[1]"}),
    "no commit": ("GET", API, {"body": b'{"sha": null}'}),
    "a commit that is a number": ("GET", API, {"body": b'{"sha": 5}'}),
    "a page": ("GET", API, {"body": b"<html>log in</html>"}),
    "100,000 brackets": ("GET", API, {"body": 100_000 * b"["}),
    "a config of 5 GB": ("HEAD", CONFIG, {"status": 200, "headers": FILE | {"Content-Length": 5 * 10**9}}),
    "weights of 1 TB": ("HEAD", WEIGHTS, {"status": 200, "headers": FILE | {"Content-Length": 10**12}}),
    "weights redirected to nowhere": ("*", WEIGHTS, {"status": 302, "headers": {"Location": "http://127.0.0.1:9/x"}}),
    "weights redirected to a file": (
        "*",
        WEIGHTS,
        {"status": 302, "headers": FILE | {"Location": "file:///etc/hosts"}},
    ),
    "weights redirected to no address": (
        "*",
        WEIGHTS,
        {"status": 302, "headers": FILE | {"Location": "http://[::1/x"}},
    ),
}
PULL = """
import resource, time
from any2point_hf.modeling.hub.names import pulled_folder
began = time.monotonic()
try:
    pulled_folder("me/adapter", ("config.json", "model.safetensors"))
    said = "ended without an error"
except Exception as error:
    said = f"{type(error).__name__}: {error}"
print(f"{time.monotonic() - began:.1f} s, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB, {said}")
"""


def test_hub(folder: Path):
    """A Hub of the tests with one adapter."""
    path = Path(__file__).parents[2] / "tests" / "hub_server" / "__init__.py"
    spec = importlib.util.spec_from_file_location("hub_server", path)
    sys.modules["hub_server"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    hub = module.Hub(folder)
    files = {CONFIG: json.dumps({"backbone": "x" * 900}).encode(), WEIGHTS: np.random.default_rng(0).bytes(400_000)}
    hub.store("me/adapter", files)
    hub.repositories["me/adapter"] = hub.repositories.pop("datasets/me/adapter")
    return hub


def pull(case: tuple[str, str, dict], limit: float) -> str:
    """What a new process says that pulls from a Hub with this fault."""
    method, pattern, fault = case
    with tempfile.TemporaryDirectory() as temporary:
        hub = test_hub(Path(temporary) / "xet")
        hub.fail(method, pattern, **fault)
        variables = {"HF_HOME": temporary, "HF_ENDPOINT": hub.url, "NO_PROXY": "*", "HF_HUB_DISABLE_XET": "1"}
        variables |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1"}
        try:
            result = subprocess.run(
                [sys.executable, "-c", PULL],
                env=os.environ | variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                timeout=limit,
            )
            said = (result.stdout.strip().splitlines() or [f"died with {result.returncode}"])[-1]
        except subprocess.TimeoutExpired:
            said = "hung"
        hub.close()
    return said


def main() -> None:
    """Prints a line for each case, then the counts."""
    limit = float(sys.argv[1]) if len(sys.argv) > 1 else 100.0
    for title, cases in (("slow or endless", SLOW), ("odd", ODD)):
        with ThreadPoolExecutor(len(cases)) as threads:
            said = list(threads.map(lambda case: pull(case, limit), cases.values()))
        for name, line in zip(cases, said, strict=True):
            print(f"{name}: {line[:230]}", flush=True)
        hung, refused = sum("hung" in line for line in said), sum(", HubError:" in line for line in said)
        print(
            f"== {title}: {len(said)} pulls, {hung} hung, {len(said) - hung - refused} ended otherwise than by HubError"
        )


if __name__ == "__main__":
    main()
