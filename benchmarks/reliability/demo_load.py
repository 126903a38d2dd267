"""Predictions by eight visitors of the web demo at once: the server's memory, what it leaves on disk, what fails.

    python benchmarks/reliability/demo_load.py [PREDICTIONS]

Starts `any2point demo` over an untrained adapter on a small BERT, and asks as the page does: three shapes, then an
upload. PREDICTIONS is 400 by default. Memory is the server's resident set (Linux); it should stay within 10 % after the
first 200.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from pathlib import Path

import numpy as np

VISITORS = 8
SHAPES = ("chair", "mug", "lamp", "torus", "table")


def save_adapter(folder: Path) -> Path:
    """An untrained adapter of 15 classes on a BERT of six small blocks."""
    import torch
    from transformers import BertConfig, BertModel

    from any2point_hf import Any2PointConfig, Any2PointForPointCloudClassification, Any2PointProcessor

    torch.manual_seed(0)
    sizes = {"hidden_size": 96, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 192}
    BertModel(BertConfig(**sizes, vocab_size=50, max_position_embeddings=64)).save_pretrained(folder / "bert")
    config = Any2PointConfig(backbone=str(folder / "bert"), num_points=1024, num_labels=15)
    Any2PointForPointCloudClassification(config).save_pretrained(folder / "adapter")
    Any2PointProcessor(1024).save_pretrained(folder / "adapter")
    return folder / "adapter"


def start(adapter: Path, uploads: Path) -> tuple[subprocess.Popen, str]:
    """The server and its address; what it writes to temporary folders goes below `uploads`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "any2point_hf", "demo", "--model", str(adapter), "--port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TMPDIR": str(uploads)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in process.stdout:
        if line.startswith("serving"):
            return process, f"http://127.0.0.1:{port}"
    raise SystemExit("the server did not start")


def ask(url: str, body: bytes | None = None, **headers: str) -> bytes:
    """The answer to a request."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    with urllib.request.urlopen(urllib.request.Request(url, body, names), timeout=300) as answer:
        return answer.read()


def upload(address: str, content: bytes, name: str) -> str:
    """Uploads as the page does; the path on the server."""
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    kind = f"multipart/form-data; boundary={boundary}"
    return json.loads(ask(f"{address}/gradio_api/upload", body, Content_Type=kind))[0]


def predict(address: str, config: dict, session: str, shape: str, path: str | None, variation: int) -> bool:
    """One prediction as the page asks for it; whether it succeeded."""
    inputs = 6  # adapter, shape, which of its variations, category (none here), upload, block
    event = next(event for event in config["dependencies"] if len(event["inputs"]) == inputs)
    names = [part["props"]["value"] for part in config["components"] if part["props"].get("label") == "Adapter"]
    file = None if path is None else {"path": path, "meta": {"_type": "gradio.FileData"}}
    data = [names[0], shape, variation, None, file, 1]
    body = json.dumps({"data": data, "fn_index": event["id"], "session_hash": session}).encode()
    ask(f"{address}/gradio_api/queue/join", body, Content_Type="application/json")
    with urllib.request.urlopen(f"{address}/gradio_api/queue/data?session_hash={session}", timeout=300) as stream:
        completed = [json.loads(line[6:]) for line in stream if b"process_completed" in line]
    return completed[0]["success"] and completed[0]["output"]["data"][0] is not None


def megabytes(process: subprocess.Popen) -> int:
    """Resident memory of a process without its children."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) // 1024


def main() -> None:
    """Prints the memory as it goes, then what was lost and left."""
    predictions = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (uploads := folder / "uploads").mkdir()
        process, address = start(save_adapter(folder), uploads)
        config = json.loads(ask(f"{address}/config"))
        counts, lock, began = {"done": 0, "failed": 0}, threading.Lock(), time.monotonic()
        memory: list[int] = []

        def visit(number: int) -> None:
            chance, session = random.Random(number), uuid.uuid4().hex
            while True:
                with lock:
                    if counts["done"] >= predictions:
                        return
                    counts["done"] += 1
                    done = counts["done"]
                path = None
                if done % 4 == 0:
                    points = np.random.default_rng(done).normal(size=(chance.randrange(100, 20_000), 3))
                    text = "".join(f"{x:.5f} {y:.5f} {z:.5f}\n" for x, y, z in points)
                    path = upload(address, text.encode(), f"cloud {done}.xyz")
                succeeded = predict(address, config, session, chance.choice(SHAPES), path, done % 50)
                with lock:
                    counts["failed"] += not succeeded
                    if done % 100 == 0:
                        memory.append(megabytes(process))
                        print(f"{done} predictions, {memory[-1]} MB, {time.monotonic() - began:.0f} s", flush=True)

        visitors = [threading.Thread(target=visit, args=(number,)) for number in range(VISITORS)]
        for visitor in visitors:
            visitor.start()
        for visitor in visitors:
            visitor.join()
        left = [file for file in uploads.rglob("*") if file.is_file()]
        grown = 100 * (max(memory[1:], default=0) / memory[1] - 1) if len(memory) > 1 else float("nan")
        print(
            f"== {counts['done']} predictions, {counts['failed']} failed, at most {grown:.1f} % more memory than at 200"
        )
        print(f"== {len(left)} files left of uploads, {sum(file.stat().st_size for file in left) / 1e6:.1f} MB")
        process.send_signal(signal.SIGTERM)
        process.wait(60)


if __name__ == "__main__":
    main()
