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
        times: of how many calls; afterwards all is well.
    """

    method: str
    pattern: str
    status: int | None = None
    headers: dict = field(default_factory=dict)
    cut: int | None = None
    hang: bool = False
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
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if self.fault.cut is None else body[: self.fault.cut])
        self.close_connection = True

    def read_body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)
