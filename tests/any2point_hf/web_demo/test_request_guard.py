"""Which requests reach gradio, with a small app in its place."""

import asyncio
from types import SimpleNamespace

import pytest

pytest.importorskip("starlette", reason="the page needs the extra web")

from any2point_hf.web_demo.request_guard import RequestGuard

UPLOAD = "/gradio_api/upload"


async def app(scope, receive, send):
    """Reads the whole request and answers 200."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def ask(folder, path="/config", method="GET", parts=(b"",), kind="http", guard=None, **headers):
    """Asks the guard; `headers` with _ for -."""
    options = {"is_local": True, "is_shared": False, "is_framed": False, "max_bytes": 1_000_000, "uploads": folder}
    guarded = RequestGuard(app, **options | (guard or {}))
    headers = {"host": "127.0.0.1:7860"} | headers
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages[-1]["more_body"] = False
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    asyncio.run(guarded({"type": kind, "path": path, "method": method, "headers": raw}, receive, send))
    if kind == "websocket":
        return sent[0]["type"]
    return SimpleNamespace(status=sent[0]["status"], headers=dict(sent[0]["headers"]), body=sent[1]["body"])


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860"])
def test_names_of_this_machine(tmp_path, host):
    assert ask(tmp_path, host=host).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "", "[::1", "x.gradio.live"]
)
def test_other_names_are_refused_on_this_machine(tmp_path, host):
    assert ask(tmp_path, host=host).status == 403
    assert ask(tmp_path, host=host, guard={"is_local": False}).status == 200


def test_the_public_address_of_a_shared_page(tmp_path):
    assert ask(tmp_path, host="x.gradio.live", guard={"is_shared": True}).status == 200
    assert ask(tmp_path, host="gradio.live.evil.example", guard={"is_shared": True}).status == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:8000", "http://localhost:7860", "null"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_pages_are_refused_on_this_machine(tmp_path, origin, method):
    assert ask(tmp_path, UPLOAD, method, origin=origin).status == 403
    assert ask(tmp_path, UPLOAD, method, origin="http://127.0.0.1:7860").status == 200
    assert ask(tmp_path, UPLOAD, method).status == 200


@pytest.mark.parametrize(
    "path", ["/gradio_api/file=/etc/passwd", "/file/x", "/proxy=http://x", "/gradio_api/deep_link"]
)
def test_closed_routes(tmp_path, path):
    assert ask(tmp_path, path).status == 403


def test_headers_are_on_every_answer(tmp_path):
    for path, status in (("/config", 200), ("/file=x", 403)):
        answer = ask(tmp_path, path)
        assert answer.status == status
        assert answer.headers[b"x-frame-options"] == b"DENY"
        assert answer.headers[b"x-content-type-options"] == b"nosniff"
    assert b"x-frame-options" not in ask(tmp_path, guard={"is_framed": True}).headers


@pytest.mark.parametrize("says_length", [True, False])
def test_the_files_of_a_request_together_are_limited(tmp_path, says_length):
    parts = [bytes(400_000)] * 3
    length = {"content_length": "1200000"} if says_length else {}
    refused = ask(tmp_path, UPLOAD, "POST", parts, **length)
    assert refused.status == 413
    assert b"maximum allowed size of 1 MB in all" in refused.body
    assert ask(tmp_path, UPLOAD, "POST", parts[:2]).status == 200


def test_a_full_folder_takes_no_more(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "large.npy").write_bytes(bytes(3_000_000))
    guard = {"max_uploads": 2}
    assert ask(tmp_path, UPLOAD, "POST", guard=guard).status == 503
    (tmp_path / "a" / "large.npy").unlink()
    assert ask(tmp_path, UPLOAD, "POST", guard=guard).status == 200


@pytest.mark.parametrize("says_length", [True, False])
@pytest.mark.parametrize("method", ["POST", "GET", "PUT"])
def test_other_requests_are_small(tmp_path, method, says_length):
    length = {"content_length": "1200000"} if says_length else {}
    guard = {"max_bytes": 10**9}
    refused = ask(tmp_path, "/gradio_api/queue/join", method, [bytes(400_000)] * 3, guard=guard, **length)
    assert (refused.status, refused.body) == (413, b"The request is too large.")
    assert ask(tmp_path, "/gradio_api/queue/join", method, [bytes(400_000)] * 2, guard=guard).status == 200


def test_uploads_that_arrive_together_are_limited(tmp_path):
    options = {"is_local": False, "is_shared": False, "is_framed": False, "max_bytes": 1_000_000, "uploads": tmp_path}
    guard, sent = RequestGuard(app, **options, max_uploads=2), []

    async def upload(size, then):
        """Sends so much, and the end of the request when it is told to."""
        first, answer = True, []

        async def receive():
            nonlocal first
            if first:
                first = False
                return {"type": "http.request", "body": bytes(size), "more_body": True}
            await then.wait()
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            answer.append(message)

        await guard({"type": "http", "path": UPLOAD, "method": "POST", "headers": []}, receive, send)
        sent.append(answer[0]["status"])

    async def four_at_once():
        then = asyncio.Event()
        slow = [asyncio.create_task(upload(900_000, then)) for _ in range(4)]
        await asyncio.sleep(0.01)
        assert sent == [503, 503]  # before any of the others is complete
        then.set()
        await asyncio.gather(*slow)
        await upload(900_000, then)

    asyncio.run(four_at_once())
    assert sent == [503, 503, 200, 200, 200]
    assert guard.arriving == 0


def test_files_that_go_while_they_are_counted(tmp_path, vanishing_folder):
    assert ask(tmp_path, UPLOAD, "POST").status == 200


def test_there_are_no_web_sockets(tmp_path):
    assert ask(tmp_path, kind="websocket") == "websocket.close"
