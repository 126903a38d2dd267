"""The web page in a real browser (Debian's Chromium), served by the command as its users start it."""

import base64
import http.client
import importlib.util
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
import uuid
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import pytest

from any2point_hf import trained_adapter as commands

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
for module in ("gradio", "playwright"):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed (pip install -e .[dev])", allow_module_level=True)
if CHROMIUM is None:
    pytest.skip("no chromium to look at the page with (apt-get install chromium)", allow_module_level=True)

from PIL import Image  # noqa: E402 - which gradio needs
from playwright.sync_api import expect, sync_playwright  # noqa: E402 - only where it is installed

CHROMIUM_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",  # WebGL without a GPU
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
MARKUP = "<img src=x onerror=window.sprung=1>"
ODD_NAME = "<i onclick=x>odd"
PATIENCE = 120_000  # milliseconds, for a machine that does much else
FIGURE = 'document.querySelector("#cloud .js-plotly-plot")'
SCENE = f"{FIGURE}._fullLayout.scene._scene"
WIDE = "return [r.width, r.height];"
CHOSEN = "input[type=radio]:checked"
VISIBLE = f"() => JSON.stringify({FIGURE}.data.map((trace) => trace.visible))"

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def server(adapter, tmp_path_factory, subprocess_environment):
    """`any2point demo` with two adapters, uploads of at most one megabyte, on a free port; stopped as by Ctrl-C."""
    other = shutil.copytree(adapter, tmp_path_factory.mktemp("second") / "renamed")
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    config |= {"id2label": {"0": "globe", "1": "plate"}, "label2id": {"globe": 0, "plate": 1}}
    (other / "config.json").write_text(json.dumps(config), encoding="utf-8")
    odd = shutil.copytree(other, other.parent / ODD_NAME)
    config |= {"id2label": {"0": MARKUP, "1": f"1{MARKUP}"}, "label2id": {MARKUP: 0, f"1{MARKUP}": 1}}
    (odd / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "any2point_hf", "demo", "--share", "no", "--port", str(port)]
    command += ["--model", str(adapter), "--model", str(other), "--model", str(odd), "--max-megabytes", "1"]
    process = subprocess.Popen(
        command, env=subprocess_environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    printed = []
    for line in process.stdout:
        printed.append(line)
        if line.startswith("serving"):
            break
    else:
        pytest.fail(f"the server did not start: {''.join(printed)}")
    yield SimpleNamespace(port=port, url=f"http://127.0.0.1:{port}", line=printed[-1], process=process)
    if process.poll() is None:
        process.terminate()
    process.communicate(timeout=60)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(CHROMIUM_ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def visit(server, browser):
    """Opens the page as a new visitor; `page.requests` are the addresses that it asked for."""
    contexts = []

    def open_page():
        contexts.append(browser.new_context(viewport={"width": 1000, "height": 800}))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.requests = []
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(server.url)
        expect(page.locator("#message [role=status]")).to_contain_text("built-in chair", timeout=PATIENCE)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def clouds(tmp_path_factory, two_classes):
    """A new cloud of each class in a file."""
    folder = tmp_path_factory.mktemp("clouds")
    for kind, name in enumerate(("ball", "disc")):
        np.save(folder / f"{name}.npy", two_classes.cloud(kind, np.random.default_rng(5)))
    return folder


def upload(page, path):
    page.locator("input[type=file]").set_input_files(path)


def expect_class(page, name, file):
    expect(page.locator("#message [role=status]")).to_contain_text(file, timeout=PATIENCE)
    expect(page.locator("#classes h2")).to_have_text(name, timeout=PATIENCE)


def test_an_example_is_classified_and_nothing_leaves_the_machine(visit, adapter, server):
    assert f"{adapter.name}, renamed, {ODD_NAME} on {server.url}" in server.line
    page = visit()
    expect(page.locator("#cloud canvas").first).to_be_visible(timeout=PATIENCE)
    hosts = {urlsplit(url).netloc for url in page.requests if urlsplit(url).scheme not in ("data", "blob")}
    assert hosts == {f"127.0.0.1:{server.port}"}
    assert sum("Plotly" in url for url in page.requests) == 1


def test_an_upload_gets_its_classes_from_the_chosen_adapter(visit, adapter, clouds):
    page = visit()
    upload(page, clouds / "disc.npy")
    expect_class(page, "disc", f"{adapter.name}: disc.npy, 80 points of which the model sees 64")
    (expected,) = commands.predict(str(adapter), [str(clouds / "disc.npy")])
    assert not page.locator("#upload a:visible").count()  # nothing is sent back
    shown = page.locator("#classes").inner_text()
    for entry in expected["classes"]:
        assert f"{entry['label']}\n{round(100 * entry['probability'])}%" in shown
    page.get_by_label("Adapter").fill("renamed")
    page.get_by_label("Adapter").press("Enter")
    expect_class(page, "plate", "renamed: disc.npy")
    page.get_by_label("torus").press("Space")  # an example takes the upload's place
    expect(page.locator("#message")).to_contain_text("renamed: built-in torus", timeout=PATIENCE)


def test_the_chosen_shape_is_the_one_that_is_shown(visit, clouds):
    page = visit()
    page.get_by_label("torus").press("Space")
    expect(page.locator("#message")).to_contain_text("built-in torus", timeout=PATIENCE)
    expect(page.locator(CHOSEN)).to_have_count(1)
    upload(page, clouds / "disc.npy")
    expect_class(page, "disc", "disc.npy")
    expect(page.locator(CHOSEN)).to_have_count(0)
    page.get_by_label("Clear").click()
    expect(page.locator("#message")).to_contain_text("built-in chair", timeout=PATIENCE)
    expect(page.get_by_label("chair")).to_be_checked()
    upload(page, clouds / "disc.npy")
    expect(page.locator(CHOSEN)).to_have_count(0, timeout=PATIENCE)
    page.get_by_label("torus").press("Space")
    expect(page.locator("#message")).to_contain_text("built-in torus", timeout=PATIENCE)
    expect(page.get_by_label("torus")).to_be_checked()


@pytest.mark.parametrize("size", [(1000, 800), (390, 700), (1500, 420)])
def test_the_cloud_is_never_cut_at_the_edge(visit, size):
    page = visit()
    page.set_viewport_size({"width": size[0], "height": size[1]})
    for shape in ("box", "lamp"):
        page.get_by_label(shape).press("Space")
        expect(page.locator("#message")).to_contain_text(f"built-in {shape}", timeout=PATIENCE)
        page.wait_for_function(f"() => {FIGURE}?._fullLayout?.scene?._scene", timeout=PATIENCE)
        page.wait_for_timeout(1000)
        width, height = page.evaluate(f"() => {{const r = {SCENE}.container.getBoundingClientRect(); {WIDE}}}")
        assert width >= height
        for eye in ((0.9, -1.5, 0.7), (1.09, 1.09, 1.09), (1.88, 0.02, 0.02)):
            eye = json.dumps(dict(zip("xyz", eye, strict=True)))
            page.evaluate(f"() => window.Plotly.relayout({FIGURE}, {{'scene.camera.eye': {eye}}})")
            drawn = page.evaluate(f"() => {SCENE}.toImage('png')").partition(",")[2]
            alpha = np.asarray(Image.open(io.BytesIO(base64.b64decode(drawn))).convert("RGBA"))[..., 3]
            rows, columns = np.nonzero(alpha)
            assert 0 < rows.min() < rows.max() < len(alpha) - 1
            assert 0 < columns.min() < columns.max() < alpha.shape[1] - 1
            assert rows.max() - rows.min() > len(alpha) / 3  # and not made tiny instead


def test_bad_uploads_are_told_why(visit, clouds, tmp_path):
    page = visit()
    (tmp_path / "<b>cut.ply").write_text("ply\nformat ascii 1.0\n")
    upload(page, tmp_path / "<b>cut.ply")
    alert = page.locator("#message [role=alert]")
    expect(alert).to_contain_text("cut.ply cannot be read as .ply", timeout=PATIENCE)
    expect(alert).to_contain_text("Check that the file is complete")
    expect(page.locator(CHOSEN)).to_have_count(0)
    assert not alert.locator("b").count()
    assert "Traceback" not in page.content()
    assert "any2point-demo-" not in alert.inner_text()
    page.get_by_label("mug").press("Space")
    expect(page.locator("#message [role=status]")).to_contain_text("built-in mug", timeout=PATIENCE)
    (tmp_path / "mesh.glb").write_bytes(b"glTF\2\0\0\0\x20\0\0\0\x0c\0\0\0JSON{a parser")
    upload(page, tmp_path / "mesh.glb")
    expect(alert).to_have_text(
        "mesh.glb cannot be read as .glb: it is damaged, cut off or of another format. Check that the file is complete "
        "and of the format that its extension names.",
        timeout=PATIENCE,
    )


def test_a_file_that_is_too_large_is_refused(visit, server, tmp_path):
    page = visit()
    np.save(tmp_path / "large.npy", np.zeros((100_000, 3)))
    upload(page, tmp_path / "large.npy")
    expect(page.get_by_text("exceed the maximum allowed size of 1.0 Mb")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#message [role=status]")).to_contain_text("built-in chair")
    status, _ = send_upload(server, b"0 0 0\n" * 300_000)  # past the page
    assert status == 413


def test_names_are_text_and_never_markup(visit, clouds, tmp_path):
    page = visit()
    page.get_by_label("Adapter").fill(ODD_NAME)
    page.get_by_label("Adapter").press("Enter")
    expect(page.locator("#message [role=status]")).to_contain_text(f"{ODD_NAME}: built-in chair", timeout=PATIENCE)
    expect(page.locator("#classes h2")).to_contain_text(MARKUP, timeout=PATIENCE)
    file = shutil.copy(clouds / "disc.npy", tmp_path / f"{MARKUP}.npy")
    upload(page, file)
    expect(page.locator("#message [role=status]")).to_contain_text("80 points", timeout=PATIENCE)
    page.wait_for_timeout(500)
    assert page.evaluate("() => window.sprung") is None
    assert not page.locator("img[src=x], i[onclick]").count()


def test_two_visitors_at_once_get_their_own_answers(visit, clouds):
    first, second = visit(), visit()
    upload(first, clouds / "ball.npy")
    upload(second, clouds / "disc.npy")
    expect_class(first, "ball", "ball.npy")
    expect_class(second, "disc", "disc.npy")
    first.get_by_label("cone").press("Space")
    second.get_by_label("lamp").press("Space")
    expect(second.locator("#message")).to_contain_text("built-in lamp", timeout=PATIENCE)
    expect(first.locator("#message")).to_contain_text("built-in cone", timeout=PATIENCE)


def test_the_slider_shows_another_block_of_the_cloud_as_it_was_turned(visit):
    page = visit()
    expect(page.locator("#cloud canvas").first).to_be_visible(timeout=PATIENCE)
    assert page.evaluate(VISIBLE) == "[false,true]"
    page.evaluate(f"() => window.Plotly.relayout({FIGURE}, {{'scene.camera.eye.x': 2}})")
    slider = page.locator("#block input[type=range]")
    slider.press("ArrowLeft")
    page.wait_for_function(f"() => ({VISIBLE})() == '[true,false]'", timeout=PATIENCE)
    assert slider.input_value() == "0"  # blocks are counted as in the pictures
    assert page.evaluate(f"() => {FIGURE}.layout.scene.camera.eye.x") == 2
    colors = f"() => {FIGURE}.data.map((trace) => JSON.stringify(trace.marker.color))"
    assert len(set(page.evaluate(colors))) == 2
    page.get_by_label("table").press("Space")  # another cloud is shown in the block that was chosen
    expect(page.locator("#message")).to_contain_text("built-in table", timeout=PATIENCE)
    page.wait_for_function(f"() => ({VISIBLE})() == '[true,false]'", timeout=PATIENCE)


def send_upload(server, content, name="a.xyz", headers=None):
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return ask(server, "/gradio_api/upload", body, kind | (headers or {}))


def ask(server, path, body=None, headers=None):
    """A request whose path is sent as it is; its status and its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE / 1000)
    try:
        connection.request("GET" if body is None else "POST", path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file={secret}",
        "/gradio_api/file/{secret}",
        "/gradio_api/file%3D{secret}",
        "/gradio_api/file=../../../../../../..{secret}",
        "/gradio_api/file={uploaded}",
        "/gradio_api/file=http://127.0.0.1:{port}/config",
        "/gradio_api/proxy=http://127.0.0.1:{port}/config",
        "/file={secret}",
        "/static/../../../../../../../../../../..{secret}",
        "/static/%2e%2e/%2e%2e/%2e%2e/routes.py",
        "/assets/..%2f..%2f..%2froutes.py",
        "/svelte/..%2f..%2froutes.py",
        "/gradio_api/custom_component/x/client/component/..%2froutes.py",
        "/gradio_api/deep_link",
        "/gradio_api/vibe-code",
        "/monitoring/summary",
    ],
)
def test_no_file_of_the_server_is_reachable(server, adapter, path):
    secret = (adapter / "config.json").as_posix()
    _, answer = send_upload(server, b"0 0 0\n")
    filled = path.format(secret=secret, port=server.port, uploaded=json.loads(answer)[0])
    status, answer = ask(server, filled)
    assert status in (403, 404)
    assert len(answer) < 200


def test_who_may_ask(server):
    own, other = f"127.0.0.1:{server.port}", "evil.example"
    for headers, expected in (({}, 200), ({"Host": other}, 403), ({"Origin": f"http://{other}"}, 403)):
        assert ask(server, "/config", headers=headers)[0] == expected
    assert ask(server, "/config", headers={"Origin": f"http://{own}", "Host": own})[0] == 200
    status, _ = send_upload(server, b"0 0 0\n", headers={"Origin": f"http://{other}"})
    assert status == 403
    with urllib.request.urlopen(server.url, timeout=PATIENCE / 1000) as answer:
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_files_that_are_too_large_together_are_refused(server):
    name = b'Content-Disposition: form-data; name="files"; filename="a.xyz"'
    part = b"--b\r\n" + name + b"\r\n\r\n" + b"0 0 0\n" * 100_000 + b"\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    assert ask(server, "/gradio_api/upload", part + b"--b--\r\n", kind)[0] == 200
    assert ask(server, "/gradio_api/upload", 3 * part + b"--b--\r\n", kind)[0] == 413


def predict_past_the_page(server, path):
    """Asks for the classes of `path` as if the page had uploaded it."""
    config = json.loads(ask(server, "/config")[1])
    show = next(event for event in config["dependencies"] if len(event["inputs"]) == 6)
    names = [component["props"] for component in config["components"] if component["props"].get("label") == "Adapter"]
    data = [names[0]["value"], "chair", None, None, {"path": path, "meta": {"_type": "gradio.FileData"}}, 1]
    session = uuid.uuid4().hex
    body = json.dumps({"data": data, "fn_index": show["id"], "session_hash": session}).encode()
    ask(server, "/gradio_api/queue/join", body, {"Content-Type": "application/json"})
    address = f"{server.url}/gradio_api/queue/data?session_hash={session}"
    with urllib.request.urlopen(address, timeout=PATIENCE / 1000) as stream:
        (line,) = [line for line in stream if b"process_completed" in line]
    return json.loads(line.removeprefix(b"data: "))


def test_only_uploads_are_read(server, clouds):
    _, uploaded = send_upload(server, (clouds / "disc.npy").read_bytes(), "disc.npy")
    completed = predict_past_the_page(server, json.loads(uploaded)[0])
    assert completed["success"] is True
    assert completed["output"]["data"][0]["label"] == "disc"
    completed = predict_past_the_page(server, str(clouds / "ball.npy"))
    assert completed["success"] is False
    assert "ball" not in json.dumps(completed)
    completed = predict_past_the_page(server, "https://example.org/cloud.npy")
    assert completed["success"] is False
    assert completed["output"]["error"] == "only uploaded files are read."


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without a signal")
def test_the_end_leaves_no_uploads(server):
    """The last test: it stops the server."""
    _, answer = send_upload(server, b"0 0 0\n")
    uploaded = Path(json.loads(answer)[0])
    assert uploaded.is_file()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=60) == 0
    assert not uploaded.parents[1].exists()
