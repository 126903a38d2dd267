"""What harms the web demo: files that take all memory or all time, too large or cut uploads, pages of other sites.

    python benchmarks/reliability/demo_abuse.py [ROUNDS]

Each round (3 by default) sends every attack to one server, and counts what got through. Linux.
"""

import contextlib
import http.client
import json
import socket
import sys
import tempfile
import threading
import time
import urllib.error
import uuid
from pathlib import Path

from demo_load import ask, megabytes, predict, save_adapter, start, upload

PATIENCE = 15.0  # seconds in which a shape is to be answered while a slow file is read
GROWTH = 300  # megabytes that the server may grow by while it reads a file
SWEPT = 100.0  # seconds after which a cut upload is to be gone


def memory_bomb() -> bytes:
    """A .npy file of 168 bytes, whose 4.5 billion texts of no characters numpy would copy into a byte each."""
    head = "{'descr': '|S0', 'fortran_order': False, 'shape': (1500000000, 3), }".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00v\x00" + head.encode() + bytes(40)


def slow_mesh() -> bytes:
    """An OBJ whose one face goes on over 80,000 lines, of which each is read with all before it."""
    return b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 \\\n" + b"1 2 3 \\\n" * 80_000 + b"1\n"


def status(address: str, method: str = "GET", path: str = "/config", body: bytes | None = None, **headers: str) -> int:
    """The status of an answer to a request with these headers, `_` for `-`."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        return connection.getresponse().status


def large_request(address: str) -> None:
    """Sends 500 MB, which are no upload, without saying how long they are."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    parts, kind = (bytes(1_000_000) for _ in range(500)), {"Content-Type": "application/json"}
    with contextlib.closing(connection), contextlib.suppress(OSError):  # refused before all was sent
        connection.request("POST", "/gradio_api/queue/join", parts, kind, encode_chunked=True)
        connection.getresponse().read()


def cut_upload(address: str) -> None:
    """Sends half of an upload and goes away."""
    host, port = address.removeprefix("http://").split(":")
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 2000000\r\n"
    head += "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    head += '--b\r\nContent-Disposition: form-data; name="files"; filename="cut.xyz"\r\n\r\n'
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + b"0 0 0\n" * 100_000)
        time.sleep(0.5)


def largest_growth(process: object, action: object) -> int:
    """By how many megabytes the server grew while an action ran, at most."""
    before, seen, done = megabytes(process), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            seen.append(megabytes(process) - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    action()
    done.set()
    watcher.join()
    return max(seen)


def main() -> None:
    """Prints a count for each attack."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (uploads := folder / "uploads").mkdir()
        process, address = start(save_adapter(folder), uploads)
        config = json.loads(ask(f"{address}/config"))

        def classify(content: bytes | None, name: str) -> bool:
            path = None if content is None else upload(address, content, name)
            return predict(address, config, uuid.uuid4().hex, "chair", path, 0)

        classify(None, "")
        counts: dict[str, int] = {}

        def count(attack: str, got_through: bool) -> None:
            counts[attack] = counts.get(attack, 0) + got_through

        for _ in range(rounds):
            grown = largest_growth(process, lambda: classify(memory_bomb(), "bomb.npy"))
            count("a file of 168 bytes that takes 4.5 GB", grown > GROWTH)
            grown = largest_growth(process, lambda: large_request(address))
            count("a request of 500 MB that is no upload", grown > GROWTH)
            slow = threading.Thread(target=classify, args=(slow_mesh(), "slow.obj"))
            slow.start()
            time.sleep(1)
            waited = []
            for _ in range(3):
                began = time.monotonic()
                classify(None, "")
                waited.append(time.monotonic() - began)
            count("a shape that waits for a slow file", max(waited) > PATIENCE)
            began = time.monotonic()
            slow.join()
            count("a file that is read for more than 30 s", time.monotonic() - began + sum(waited) > 30)
            part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.xyz"\r\n\r\n' + bytes(18_000_000)
            body, kind = (part + b"\r\n") * 3 + b"--b--\r\n", "multipart/form-data; boundary=b"
            try:
                refused = status(address, "POST", "/gradio_api/upload", body, Content_Type=kind) == 413
            except (OSError, urllib.error.URLError):  # refused before all was sent
                refused = True
            count("three files of 18 MB", not refused)
            count("another Host", status(address, Host="evil.example") == 200)
            small = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.xyz"\r\n\r\n0 0 0\r\n--b--\r\n'
            other = {"Origin": "http://evil.example", "Content_Type": kind}
            count("an upload of another site", status(address, "POST", "/gradio_api/upload", small, **other) == 200)
            cut_upload(address)
        with contextlib.closing(http.client.HTTPConnection(address.removeprefix("http://"))) as connection:
            connection.request("GET", "/")
            counts["a page without X-Frame-Options"] = int(connection.getresponse().headers["X-Frame-Options"] is None)
        time.sleep(SWEPT)
        counts["files left of uploads"] = sum(file.is_file() for file in uploads.rglob("*"))
        for attack, got_through in counts.items():
            print(f"{attack}: {got_through} of {rounds}", flush=True)
        process.terminate()
        process.wait(60)


if __name__ == "__main__":
    main()
