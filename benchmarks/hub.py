"""How long a dead Hub takes to be an error, and a pulled adapter to be loaded from the cache in a new process.

    python benchmarks/hub.py --backbone FOLDER

Runs against the Hub of the tests on localhost. A new process for each figure; what it takes to import is left out.
"""

import argparse
import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

PULL = "Any2PointForPointCloudClassification.from_pretrained('me/adapter', backbone=sys.argv[1])"
PUSH = "push_files({'config.json': b'{}'}, 'me/adapter', commit_message='m')"
PROCESS = """
import sys, time
from any2point_hf.modeling import Any2PointError, Any2PointForPointCloudClassification
from any2point_hf.modeling.publishing.push import push_files
import transformers.models.auto.modeling_auto
began = time.perf_counter()
try:
    {call}
    said = "fine"
except Any2PointError as error:
    said = str(error)
print(f"{{time.perf_counter() - began:.2f}} s: {{said}}")
"""


def seconds(call: str, backbone: str, home: Path, **environment: str) -> str:
    """What a new process says of one call."""
    variables = {"HF_HOME": str(home), "HF_TOKEN": "token-of-me", "NO_PROXY": "*", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", PROCESS.format(call=call), backbone]
    result = subprocess.run(
        command, env=os.environ | variables | environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    return result.stdout.strip().splitlines()[-1]


def test_hub(folder: Path):
    """The Hub of the tests."""
    path = Path(__file__).parents[1] / "tests" / "hub_server" / "__init__.py"
    spec = importlib.util.spec_from_file_location("hub_server", path)
    sys.modules["hub_server"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Hub(folder)


def main() -> None:
    """Prints a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", required=True, help="folder of the backbone")
    options = parser.parse_args()
    silent = socket.create_server(("127.0.0.1", 0), backlog=16)  # takes connections and never answers
    dead = {
        "refused": "http://127.0.0.1:9",
        "no such host": "http://no-such-host.invalid",
        "no answer": f"http://127.0.0.1:{silent.getsockname()[1]}",
    }
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        for name, endpoint in dead.items():
            for verb, call in (("pull", PULL), ("push", PUSH)):
                print(f"{name}, {verb}: {seconds(call, options.backbone, home, HF_ENDPOINT=endpoint)}", flush=True)

        from any2point_hf import Any2PointConfig, Any2PointForPointCloudClassification
        from any2point_hf.modeling.publishing.push import push_files, pushed_files

        hub = test_hub(home / "xet")
        model = Any2PointForPointCloudClassification(Any2PointConfig(backbone=options.backbone, num_labels=15))
        model.save_pretrained(home / "adapter")
        from huggingface_hub import constants

        constants.ENDPOINT, os.environ["HF_TOKEN"], os.environ["NO_PROXY"] = hub.url, "token-of-me", "*"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            push_files(pushed_files(home / "adapter"), "me/adapter", commit_message="m")
        print(f"adapter of {(home / 'adapter' / 'model.safetensors').stat().st_size / 1e6:.2f} MB")
        for name, extra in (("first pull", {}), ("from the cache", {}), ("offline", {"HF_HUB_OFFLINE": "1"})):
            print(f"{name}: {seconds(PULL, options.backbone, home, HF_ENDPOINT=hub.url, **extra)}", flush=True)
        local = PULL.replace("'me/adapter'", repr(str(home / "adapter")))
        print(f"from a local folder: {seconds(local, options.backbone, home)}")
        hub.close()


if __name__ == "__main__":
    main()
