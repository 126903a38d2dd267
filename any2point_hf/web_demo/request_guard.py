"""What the server answers at all: closed routes, whose page may ask, how long an upload may be, and headers.

Unusual here: any page that a visitor has open can send requests to a server on the visitor's machine, and can have its
own name resolve to 127.0.0.1. So a server of this machine alone wants to be called by a name of this machine.
"""

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Ways of gradio to hand out files and addresses, none of which the page needs: uploads are read, never sent back.
CLOSED = re.compile(r"/(file|proxy)[=/]|/(process_recording|deep_link|component_server)\b")
UPLOAD = re.compile(r"/upload/?$")
AROUND_A_FILE = 100_000  # bytes of a request that are no file
LARGEST_BODY = 1_000_000  # bytes of a request that is no upload; gradio holds it in memory
THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
SHARED = ".gradio.live"
HEADERS = ((b"x-frame-options", b"DENY"), (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))

Refusal = tuple[int, str]
FULL: Refusal = (503, "Too many uploads at once: try again in some minutes.")


class RequestGuard:
    """ASGI middleware before gradio's app.

    Args:
        app: gradio's.
        is_local: whether the server listens on this machine alone.
        is_shared: whether it is reached through gradio.live as well.
        is_framed: whether another site shows it in a frame, as a Space.
        max_bytes: of all files of a request.
        uploads: their folder, which holds at most `max_uploads` such files at once.
    """

    def __init__(
        self,
        app: Any,
        is_local: bool,
        is_shared: bool,
        is_framed: bool,
        max_bytes: int,
        uploads: Path,
        max_uploads: int = 50,
    ) -> None:
        self.app, self.is_local, self.is_shared, self.is_framed = app, is_local, is_shared, is_framed
        self.max_bytes, self.uploads, self.max_uploads = max_bytes, uploads, max_uploads
        self.arriving = 0  # bytes that have come of the uploads that are not complete

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Handles one request (ASGI)."""
        if scope["type"] not in ("http", "websocket"):  # the server's own start and end
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        send = self._with_headers(send)
        refusal = self._refusal(scope, headers)
        if refusal is not None or scope["type"] == "websocket":  # of which the page has none
            await _answer(refusal or (403, "This server has no such connection."), scope, receive, send)
        elif scope["type"] == "http" and _is_upload(scope):
            await self._take_upload(scope, receive, send)
        else:
            await self._take(scope, receive, send)

    def _refusal(self, scope: dict[str, Any], headers: dict[str, str]) -> Refusal | None:
        if CLOSED.search(scope["path"]):
            return 403, "This server hands out no files."
        if self.is_local and not self._is_name(headers.get("host", "")):
            return 403, "This server is for its own machine: call it by 127.0.0.1."
        origin = headers.get("origin")
        if self.is_local and origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return 403, "This server answers its own page alone."
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._largest(scope):
            return self._too_large(scope)
        return None

    def _largest(self, scope: dict[str, Any]) -> int:
        return self.max_bytes + AROUND_A_FILE if _is_upload(scope) else LARGEST_BODY

    def _is_name(self, host: str) -> bool:
        """Whether this machine, or gradio.live, is called by that Host."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in THIS_MACHINE or (self.is_shared and name.endswith(SHARED))

    def _too_large(self, scope: dict[str, Any]) -> Refusal:
        if not _is_upload(scope):
            return 413, "The request is too large."
        return 413, f"The files exceed the maximum allowed size of {self.max_bytes / 1_000_000:g} MB in all."

    async def _take_upload(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Passes an upload on, as long as it is not too large and the folder not full."""
        if _size(self.uploads) > self.max_uploads * self.max_bytes:
            await _answer(FULL, scope, receive, send)
            return
        received = 0

        async def counted() -> dict[str, Any]:
            nonlocal received
            message = await receive()
            arrived = len(message.get("body", b""))
            received += arrived
            self.arriving += arrived
            if self.arriving > self.max_uploads * self.max_bytes:
                raise _RefusedError(FULL)
            return message

        try:
            await self._take(scope, counted, send)
        finally:
            self.arriving -= received

    async def _take(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Passes a request on, as long as it is not too large."""
        received, started = 0, False

        async def counted() -> dict[str, Any]:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._largest(scope):
                raise _RefusedError(self._too_large(scope))
            return message

        async def watched(message: dict[str, Any]) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, counted, watched)
        except _RefusedError as error:
            if not started:
                await _answer(error.refusal, scope, receive, send)

    def _with_headers(self, send: Any) -> Callable[[dict[str, Any]], Any]:
        async def send_with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                added = HEADERS[1:] if self.is_framed else HEADERS
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        return send_with_headers


async def _answer(refusal: Refusal, scope: dict[str, Any], receive: Any, send: Any) -> None:
    from starlette.responses import PlainTextResponse
    from starlette.websockets import WebSocketClose

    if scope["type"] == "websocket":
        await WebSocketClose()(scope, receive, send)
        return
    await PlainTextResponse(refusal[1], status_code=refusal[0])(scope, receive, send)


class _RefusedError(Exception):
    """While a request arrives, as it did not say how long it is, or said less."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal[1])
        self.refusal = refusal


def _is_upload(scope: dict[str, Any]) -> bool:
    return scope.get("method") == "POST" and UPLOAD.search(scope["path"]) is not None


def _size(folder: Path) -> int:
    """Bytes of the files in a folder, some of which may go meanwhile."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                size += os.stat(os.path.join(place, name)).st_size
    return size
