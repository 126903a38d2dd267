"""The tools of assistants, called as functions and, where the package mcp is installed, over the protocol itself."""

import asyncio
import base64
import http.client
import importlib.util
import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

gr = pytest.importorskip("gradio", reason="gradio is not installed")

from any2point_hf import label_points  # noqa: E402 - only where it is installed
from any2point_hf import trained_adapter as commands  # noqa: E402
from any2point_hf.data.shapes import make_cloud  # noqa: E402
from any2point_hf.modeling.errors import PointCloudError  # noqa: E402
from any2point_hf.web_demo import inference, server  # noqa: E402
from any2point_hf.web_demo.app import build_page  # noqa: E402
from any2point_hf.web_demo.reader_process import Readers  # noqa: E402
from any2point_hf.web_demo.tools import write_content  # noqa: E402

HAS_MCP = importlib.util.find_spec("mcp") is not None
OVER_MCP = pytest.mark.skipif(not HAS_MCP, reason="mcp is not installed (pip install -e .[mcp])")
NAMES = ["classify", "embed", "segment"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def models(tiny_adapter, segmenter_with_categories):
    return tiny_adapter, segmenter_with_categories


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tools")


@pytest.fixture(scope="module")
def tools(models, folder):
    """The functions behind a page's tools, by name."""
    readers = Readers(seconds=30, number=1)
    page = build_page(inference.load_adapters([str(model.folder) for model in models]), 20, readers, folder)
    endpoints = {function.api_name: function.fn for function in page.fns.values()}
    yield SimpleNamespace(page=page, **{name: endpoints[name] for name in NAMES})
    readers.close()


@pytest.fixture(scope="module")
def text():
    return "\n".join(" ".join(f"{value:.6f}" for value in point) for point in make_cloud("test", 3, 300, seed=5))


@pytest.fixture(scope="module")
def file(text, tmp_path_factory):
    file = tmp_path_factory.mktemp("clouds") / "cloud.xyz"
    file.write_text(text, encoding="utf-8")
    return file


def in_base64(content):
    return "data:;base64," + base64.b64encode(content).decode()


def test_only_the_tools_are_offered_and_only_where_they_are_asked_for(tools, models):
    assert sorted(tools.page.get_api_info()["named_endpoints"]) == [f"/{name}" for name in NAMES]
    page = build_page(inference.load_adapters([str(models[0].folder)]), 20, None)
    assert page.get_api_info()["named_endpoints"] == {}


def test_classify_gives_what_predict_gives(tools, models, text, file):
    answer = json.loads(tools.classify(text))
    (expected,) = commands.predict(str(models[0].folder), [str(file)])
    assert (answer["adapter"], answer["points"]) == ("adapter", 300)
    for ours, theirs in zip(answer["classes"], expected["classes"], strict=True):
        assert ours["label"] == theirs["label"]
        assert ours["probability"] == pytest.approx(theirs["probability"], abs=2e-6)


def test_embed_gives_what_the_command_writes(tools, models, file, run_command, tmp_path):
    np.save(file.with_name("cloud.npy"), np.loadtxt(file))
    answer = json.loads(tools.embed(in_base64(file.with_name("cloud.npy").read_bytes()), "cloud.NPY"))
    out = tmp_path / "out.parquet"
    (tmp_path / "clouds").mkdir()
    (tmp_path / "clouds" / "a.xyz").write_bytes(file.read_bytes())
    assert run_command("embed", tmp_path / "clouds", "--model", models[0].folder, "--out", out).code == 0
    (expected,) = pq.read_table(out)["embedding"].to_pylist()
    np.testing.assert_allclose(answer["embedding"], expected, atol=2e-5)


def test_segment_labels_the_points(tools, models, text, file):
    answer = json.loads(tools.segment(text, category="ant"))
    expected = label_points(models[1].model, models[1].processor, np.loadtxt(file), "ant")
    assert answer["labels"] == expected.parts.tolist()
    assert (answer["adapter"], answer["category"], answer["step"]) == ("with_categories", "ant", 1)
    assert [part["name"] for part in answer["parts"]] == [part["name"] for part in expected.summary()["parts"]]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("classify", ("/etc/passwd",), "cloud.xyz cannot be read as .xyz: it has no line of three numbers"),
        ("classify", ("file:///etc/passwd", "cloud.npy"), "cloud.npy cannot be read as .npy: it is damaged, cut"),
        ("classify", ("0 0 0", "/etc/passwd"), "file_name must end in one of .ply"),
        ("classify", ("data:;base64,?", "a.ply"), "Encode the whole file, without line breaks."),
        ("classify", ("data:;base64,é", "a.ply"), "Encode the whole file, without line breaks."),
        ("classify", ("\ud800", "a.ply"), "Encode the whole file, without line breaks."),
        ("classify", ("0 0 0\n1 1 1", "a.xyz", "adaptr"), "Did you mean adapter?"),
        ("classify", ("0 0 0\n1 1 1", "a.xyz", "with_categories"), "must be one that classifies clouds (adapter)"),
        ("segment", ("0 0 0\n1 1 1", "a.xyz", "ants"), "be one of zebra, ant, got ants. Did you mean ant?"),
        ("embed", ("nan 0 0\n1 1 1",), "finite"),
    ],
)  # fmt: skip
def test_mistakes_are_told(tools, name, arguments, message):
    with pytest.raises(gr.Error) as told:
        getattr(tools, name)(*arguments)
    assert message in told.value.message
    assert not told.value.print_exception


def test_a_server_without_such_an_adapter_says_so(models, folder):
    page = build_page(inference.load_adapters([str(models[0].folder)]), 20, None, folder)
    (segment,) = (function.fn for function in page.fns.values() if function.api_name == "segment")
    with pytest.raises(gr.Error) as told:
        segment("0 0 0")
    assert "no adapter of this server labels points" in told.value.message


def test_of_the_name_only_the_ending_reaches_the_folder(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    for name in ("../../a.XYZ", "/etc/cron.d/a.xyz", "a\0b.xyz", "~/.xyz.xyz"):
        assert write_content("0 0 0", name, own) == own / "cloud.xyz"
    assert [path.name for path in tmp_path.rglob("*")] == ["own", "cloud.xyz"]
    with pytest.raises(PointCloudError, match="got no ending"):
        write_content("0 0 0", "..", own)


def test_nothing_is_left_of_what_was_sent(tools, text, folder):
    tools.classify(text)
    assert not list(folder.iterdir())


@pytest.mark.skipif(HAS_MCP, reason="mcp is installed")
def test_a_missing_package_is_told_before_anything_is_loaded(run_command, tmp_path):
    result = run_command("demo", "--model", tmp_path, "--mcp")
    assert result.code == 2
    assert 'pip install "any2point-hf[mcp]"' in result.err


def test_without_the_option_there_is_no_server_of_tools(monkeypatch, tmp_path):
    asked = {}
    page = SimpleNamespace(launch=lambda **options: asked.update(options) or (None, "http://here/", None))
    monkeypatch.setenv("GRADIO_MCP_SERVER", "True")  # gradio's own way to switch it on
    for mcp in (False, True):
        server._launch(page, "127.0.0.1", 1, False, 20, tmp_path, mcp)
        assert asked["mcp_server"] is mcp


# Over the protocol


@pytest.fixture(scope="module")
def served(models, subprocess_environment):
    """`any2point demo --mcp` on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "any2point_hf", "demo", "--mcp", "--port", str(port)]
    command += [word for model in models for word in ("--model", str(model.folder))]
    process = subprocess.Popen(
        command, env=subprocess_environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if not any(line.startswith("serving") for line in process.stdout):
        pytest.fail("the server did not start")
    yield port
    process.terminate()
    process.communicate(timeout=60)


def over_protocol(port, ask):
    """What `ask(session)` answers in a session of a client."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async def run():
        connected = streamable_http_client(f"http://127.0.0.1:{port}/gradio_api/mcp/")
        async with connected as (read, write, _), ClientSession(read, write) as session:
            await session.initialize()
            return await ask(session)

    return asyncio.run(run())


@OVER_MCP
def test_a_client_sees_three_tools_with_typed_arguments(served):
    listed = over_protocol(served, lambda session: session.list_tools()).tools
    assert sorted(tool.name for tool in listed) == NAMES
    for tool in listed:
        assert tool.description.endswith(("first).", "numbers.", "dropped"))
        assert tool.inputSchema["required"] == ["content"]
        for schema in tool.inputSchema["properties"].values():
            assert schema["type"] == "string"
            assert len(schema["description"]) > 30
        assert tool.inputSchema["properties"]["content"]["description"].endswith("its bytes in base64.")


@OVER_MCP
def test_a_client_gets_the_answers_of_the_functions(served, tools, text):
    calls = {"classify": {}, "embed": {}, "segment": {"category": "ant"}}

    async def ask(session):
        return {name: await session.call_tool(name, {"content": text, **more}) for name, more in calls.items()}

    for name, answer in over_protocol(served, ask).items():
        assert not answer.isError
        assert json.loads(answer.content[0].text) == json.loads(getattr(tools, name)(text, **calls[name]))


@OVER_MCP
def test_a_client_is_told_its_mistakes_and_reads_no_file_of_the_server(served, file):
    asked = [
        ("classify", {"content": str(file)}),
        ("classify", {"content": file.as_uri(), "file_name": str(file)}),
        ("classify", {"content": {"path": str(file), "meta": {"_type": "gradio.FileData"}}}),
        ("show", {"upload": str(file)}),
        ("segment", {"content": "0 0 0"}),
    ]

    async def ask(session):
        return [await session.call_tool(name, arguments) for name, arguments in asked]

    answers = over_protocol(served, ask)
    assert all(answer.isError for answer in answers)
    told = [answer.content[0].text for answer in answers]
    assert told[0].startswith("cloud.xyz cannot be read as .xyz: it has no line of three numbers")
    assert told[1] == told[0]
    assert "show" in told[3]
    assert told[4] == "category must be one of zebra, ant, got none."
    assert os.fspath(file) not in told[0] + told[1]


@OVER_MCP
@pytest.mark.parametrize(
    ("headers", "size", "status"),
    [({}, 1_100_000, 413), ({"Host": "evil.example"}, 100, 403), ({"Origin": "http://evil.example"}, 100, 403)],
)
def test_requests_have_the_limits_of_all_others(served, headers, size, status):
    connection = http.client.HTTPConnection("127.0.0.1", served, timeout=60)
    kind = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    connection.request("POST", "/gradio_api/mcp/", b" " * size, kind | headers)
    assert connection.getresponse().status == status
    connection.close()
