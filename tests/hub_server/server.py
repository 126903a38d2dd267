"""A small Hub on localhost that speaks the HTTP API as huggingface_hub 2.4 calls it, and fails on request.

    hub = Hub(folder)                               # on a free port; its users are hub.users: token -> name
    hub.fail("PUT", "/lfs/", status=500, times=2)   # the next two calls that match answer 500

Every call is listed in `hub.calls` as "METHOD path".
"""

import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from .answers import ROUTES, Answers, Stop
from .repositories import Repository, StoredFile, XetStorage

LARGE = (".safetensors", ".png", ".bin", ".pt", ".pth", ".parquet")  # what goes by LFS or Xet


@dataclass
class Fault:
    """What goes wrong with the calls of a method whose path matches a pattern.

    Args:
        status: of the answer, instead of the right one.
        headers: of that answer.
        cut: break the connection off after so many bytes of the answer's body, or of the request's for an upload.
        hang: never answer.
        body: of the answer, instead of the right one; with the right one's headers, if there is no status.
        pause: seconds before each byte of the answer's body.
        pause_head: seconds before each byte of what precedes it.
        endless: send chunks without end, one in so many seconds.
        times: of how many calls; afterwards all is well.
    """

    method: str
    pattern: str
    status: int | None = None
    headers: dict = field(default_factory=dict)
    cut: int | None = None
    hang: bool = False
    body: bytes | None = None
    pause: float = 0
    pause_head: float = 0
    endless: float | None = None
    times: int = 10**6


class Hub(ThreadingHTTPServer):
    """See above."""

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.users = {"token-of-me": "me", "token-of-other": "other"}
        self.xet = XetStorage(folder)
        self.reset()
        self.closing = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def reset(self):
        """Forgets everything."""
        self.repositories, self.large_files, self.parts = {}, {}, {}
        self.calls, self.faults = [], []
        self.large_suffixes = LARGE
        self.part_size = None  # of multipart uploads; None for single ones

    def fail(self, method, pattern, **fault):
        """Lets matching calls fail."""
        self.faults.append(Fault(method, pattern, **fault))

    def store(self, name, files):
        """Makes a data set of these files, path -> content; returns its commit."""
        self.repositories[f"datasets/{name}"] = repository = Repository(f"datasets/{name}")
        return repository.add("main", {path: StoredFile.of(content) for path, content in files.items()}, "files")

    def fault_of(self, method, path):
        for fault in self.faults:
            if fault.method in (method, "*") and fault.times > 0 and re.search(fault.pattern, path):
                fault.times -= 1
                return fault
        return None

    def close(self):
        self.closing.set()
        self.shutdown()
        self.server_close()


class _Slow:
    """A file that writes a byte at a time."""

    def __init__(self, file, pause, closing):
        self.file, self.pause, self.closing, self.closed = file, pause, closing, False

    def write(self, data):
        for byte in data:
            self.closing.wait(self.pause)
            self.file.write(bytes([byte]))
            self.file.flush()

    def flush(self):
        self.file.flush()

    def close(self):
        self.file.close()


class _Answer(Answers, BaseHTTPRequestHandler):
    def handle_one_request(self):
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def answer(self):
        path = unquote(urlsplit(self.path).path)
        self.query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        self.server.calls.append(f"{self.command} {path}")
        self.fault = self.server.fault_of(self.command, path) or Fault("", "")
        if self.fault.hang:
            self.server.closing.wait(120)
            return
        is_upload = self.command in ("PUT", "POST")
        if is_upload and self.fault.cut is not None:
            self.rfile.read(min(self.fault.cut, int(self.headers.get("Content-Length", self.fault.cut))))
            self.connection.close()
            return
        body = self.read_body() if is_upload or self.command == "DELETE" else b""
        try:
            if self.fault.status:
                raise Stop(self.fault.status, "made to fail", headers=self.fault.headers)
            routed = path.replace("/api/datasets/", "/api/models/datasets/", 1)
            for method, pattern, answer in ROUTES:
                found = re.fullmatch(pattern, routed)
                if found and self.command in method.split():
                    result = answer(self, body, *found.groups())
                    break
            else:
                raise Stop(404, f"no route for {self.command} {path}")
        except Stop as stop:
            self.send(stop.status, json.dumps({"error": stop.message}).encode(), **stop.headers)
            return
        if not isinstance(result, tuple):
            result = (200, json.dumps(result).encode(), {"Content-Type": "application/json"})
        self.send(result[0], result[1], **result[2])

    def send(self, status, body, **headers):
        fault, file = self.fault, self.wfile
        body = body if fault.body is None else fault.body
        length = {"Content-Length": len(body)} if fault.endless is None else {"Transfer-Encoding": "chunked"}
        if fault.pause_head:
            self.wfile = _Slow(file, fault.pause_head, self.server.closing)
        self.send_response(status)
        for name, value in (length | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.close_connection = True
        self.wfile = _Slow(file, fault.pause, self.server.closing) if fault.pause else file
        if self.command == "HEAD":
            return
        while fault.endless is not None and not self.server.closing.wait(fault.endless):
            self.wfile.write(b"1000\r\n" + 4096 * b" " + b"\r\n")
        self.wfile.write(body if fault.cut is None else body[: fault.cut])

    def read_body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)
