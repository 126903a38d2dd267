"""Pulls from a Hub that refuses, breaks off, hangs or is dead (pushes to one: test_hub_push.py)."""

import gzip
import json
import os
import threading
import time
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import get_session

from any2point_hf.data.hub_dataset import pinned
from any2point_hf.modeling import BackboneLoadError, CheckpointError, HubError
from any2point_hf.modeling.backbones.loading import load_backbone_config
from any2point_hf.modeling.hub.calls import hub_calls
from any2point_hf.modeling.publishing.push import push_files

CALLS = ["GET /api/models", "HEAD model.safetensors", "GET model.safetensors"]
# Each ends soon, says what to do, and leaves the cache such that the next try succeeds
STATUSES = {
    401: "401: not there, or private, or a wrong token",
    403: r"answered 403 .*ask the repository's owner",
    404: r"answered 404.*Check the spelling",
    409: r"answered 409.*do the same again",
    429: r"answered 429.*Too many calls.*Wait 60 s",
    500: r"answered 500.*fault of its own",
    503: r"answered 503.*fault of its own",
}


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("call", CALLS)
def test_refusals(hub, push, pull, hub_waits, status, call):
    push("me/adapter")
    hub.fail(*call.split(), status=status, headers={"Retry-After": "60"} if status == 429 else {})
    with pytest.raises((CheckpointError, HubError), match=STATUSES[status]):
        pull("me/adapter")
    assert sum(hub_waits) < 10
    hub.faults.clear()
    pull("me/adapter")


@pytest.mark.parametrize(("file", "sent"), [("config.json", 0), ("config.json", 100), ("model.safetensors", 50_000)])
def test_half_sent_files(hub, push, pull, hub_waits, file, sent):
    push("me/adapter")
    hub.fail("GET", f"resolve/.*{file}", cut=sent)
    with pytest.raises(HubError, match=r"connection broke off.*Nothing is half written"):
        pull("me/adapter")
    assert not list(Path(constants.HF_HUB_CACHE).glob(f"*/snapshots/*/{file}"))
    hub.faults.clear()
    pull("me/adapter")


def test_a_connection_that_breaks_off_once_is_resumed(hub, push, pull, hub_waits):
    push("me/adapter")
    hub.fail("GET", "model.safetensors", cut=50_000, times=1)
    pull("me/adapter")
    assert hub_waits == [1]


def test_a_half_sent_answer_of_the_api(hub, push, pull):
    push("me/adapter")
    hub.fail("GET", "/api/models", cut=20)
    with pytest.raises(HubError, match="connection broke off"):
        pull("me/adapter")
    hub.faults.clear()
    pull("me/adapter")


def test_a_file_of_another_size_is_not_taken(hub, push, pull, hub_waits):
    push("me/adapter")
    for length, said in ((9, r"model\.safetensors has at most 9 bytes, and more arrive"), (10**6, "arrived in part")):
        wrong = {"X-Repo-Commit": "0" * 40, "ETag": '"x"', "Content-Length": length}
        hub.fail("HEAD", "model.safetensors", status=200, headers=wrong)
        with pytest.raises(HubError, match=said):
            pull("me/adapter")
        hub.faults.clear()
    pull("me/adapter")


def test_waiting_is_bounded_where_the_hub_asks_for_it(hub, push, pull, hub_waits):
    push("me/adapter")
    hub.fail("GET", "model.safetensors", status=429, headers={"Retry-After": "2"}, times=2)
    pull("me/adapter")
    assert hub_waits == [3, 3]  # the client adds a second


@pytest.mark.parametrize("headers", [{"Retry-After": "60"}, {"RateLimit": '"api";r=0;t=60'}])
def test_a_longer_wait_is_told(hub, push, pull, hub_waits, headers):
    push("me/adapter")
    hub.fail("GET", "model.safetensors", status=429, headers=headers)
    with pytest.raises(HubError, match=r"answered 429.*Wait 60 s\."):
        pull("me/adapter")
    assert hub_waits == []


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_a_dead_endpoint_fails_at_once(hub, pull, hub_waits, monkeypatch, endpoint):
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    with pytest.raises(HubError, match=rf"the Hub \({endpoint}\).*cannot be reached.*HF_ENDPOINT.*HF_HUB_OFFLINE"):
        pull("me/adapter")
    assert hub_waits == []


@pytest.mark.parametrize("call", CALLS)
def test_an_endpoint_that_does_not_answer(hub, push, pull, hub_waits, monkeypatch, call):
    push("me/adapter")
    monkeypatch.setattr("any2point_hf.modeling.hub.hooks.FIRST_ANSWER_SECONDS", 0.4)
    monkeypatch.setattr("any2point_hf.modeling.hub.hooks.ANSWER_SECONDS", 0.4)
    hub.fail(*call.split(), hang=True)
    began = time.monotonic()
    with pytest.raises(HubError, match=r"does not answer.*Check the network"):
        pull("me/adapter")
    assert time.monotonic() - began < 5
    hub.faults.clear()
    pull("me/adapter")


@pytest.mark.parametrize("status", [429, 500])
def test_the_cache_helps_while_the_hub_fails(hub, push, pull, status):
    push("adapter")
    pull("adapter")
    hub.fail("GET", "/api/", status=status)
    pull("adapter")
    with pytest.raises(HubError, match=f"answered {status}"):
        pull("adapter", force_download=True)


def test_the_cache_helps_without_a_network(hub, push, pull, monkeypatch):
    push("adapter")
    pull("adapter")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    pull("adapter")
    with pytest.raises(HubError, match="cannot be reached"):
        pull("other")


def test_hooks_are_gone_after_a_call(hub, push, pull):
    before = {name: list(hooks) for name, hooks in get_session().event_hooks.items()}
    push("me/adapter")
    hub.fail("GET", "/api/models", status=500)
    with pytest.raises(HubError):
        pull("me/adapter")
    assert get_session().event_hooks == before


def test_limits_of_hf_xet_hold_while_any_call_runs_and_no_longer(monkeypatch):
    monkeypatch.setenv("HF_XET_CLIENT_READ_TIMEOUT", "7s")  # a user's own
    before, first = dict(os.environ), hub_calls("first")
    first.__enter__()
    with hub_calls("second"):  # as of another thread
        first.__exit__(None, None, None)
        assert os.environ["HF_XET_CLIENT_CONNECT_TIMEOUT"] == "5s"
        assert os.environ["HF_XET_CLIENT_READ_TIMEOUT"] == "7s"
    assert dict(os.environ) == before


@pytest.fixture
def impatient(monkeypatch):
    """Half a second instead of fifteen or thirty."""
    for limit in ("hooks.FIRST_ANSWER_SECONDS", "hooks.ANSWER_SECONDS", "limits.WHOLE_ANSWER_SECONDS"):
        monkeypatch.setattr(f"any2point_hf.modeling.hub.{limit}", 0.5)
    monkeypatch.setattr("any2point_hf.modeling.hub.limits.WINDOW_SECONDS", 0.5)


SLOW = [
    ("GET /api/models", {"pause_head": 0.05}, r"does not answer within 0\.5 s.*ANY2POINT_HUB_SECONDS"),
    ("GET /api/models", {"pause": 0.05}, r"does not answer within 0\.5 s"),
    ("GET /api/models", {"endless": 0.05}, r"does not answer within 0\.5 s"),
    ("GET /api/models", {"endless": 0.0}, r"does not answer within 0\.5 s|an answer has at most 67,108,864 bytes"),
    ("HEAD config.json", {"pause_head": 0.05}, r"does not answer within 0\.5 s"),
    ("GET config.json", {"pause": 0.05}, r"bytes passed in 0\.5 s, fewer than 500\..*ANY2POINT_HUB_BYTES_PER_SECOND"),
    ("GET model.safetensors", {"pause": 0.05}, r"bytes passed in 0\.5 s, fewer than 500\."),
    ("GET model.safetensors", {"pause_head": 0.05}, r"does not answer within 0\.5 s"),
    ("GET model.safetensors", {"endless": 0.0}, r"model\.safetensors has at most \d+,\d+ bytes, and more arrive"),
    ("GET model.safetensors", {"endless": 5.0}, r"bytes passed in 0\.5 s|does not answer"),
]


@pytest.mark.parametrize(("call", "fault", "said"), SLOW)
def test_bytes_that_drip_in_do_not_start_the_time_anew(hub, push, pull, hub_waits, impatient, call, fault, said):
    push("me/adapter")
    hub.fail(*call.split(), **fault)
    began = time.monotonic()
    with pytest.raises(HubError, match=said) as refused:
        pull("me/adapter")
    assert time.monotonic() - began < 5
    assert len(str(refused.value)) < 500
    hub.faults.clear()
    pull("me/adapter")


def test_a_slow_upload_is_given_up(hub, push, impatient, monkeypatch):
    push("me/adapter")
    push_files({"a.json": b"{}"}, "me/adapter", commit_message="put")
    monkeypatch.setattr(hub.RequestHandlerClass, "read_body", lambda self: self.server.closing.wait(20))
    with pytest.raises(HubError, match=r"bytes passed in 0\.5 s|does not answer"):
        push_files({"large.json": bytes(50_000_000)}, "me/adapter", commit_message="put")


def test_the_limits_are_set_by_the_environment(hub, push, pull, impatient, monkeypatch):
    push("me/adapter")
    hub.fail("GET", "/api/models", pause=0.004)  # a second or more in all
    with pytest.raises(HubError, match="does not answer"):
        pull("me/adapter")
    monkeypatch.setenv("ANY2POINT_HUB_SECONDS", "60")
    pull("me/adapter")
    hub.faults.clear()
    hub.fail("GET", "config.json", pause=0.001)
    monkeypatch.setenv("ANY2POINT_HUB_BYTES_PER_SECOND", "2000")
    with pytest.raises(HubError, match="bytes passed"):
        pull("me/adapter", force_download=True)
    monkeypatch.setenv("ANY2POINT_HUB_BYTES_PER_SECOND", "100")
    pull("me/adapter", force_download=True)
    for text in ("fast", "-1", "nan", "inf", ""):
        monkeypatch.setenv("ANY2POINT_HUB_BYTES_PER_SECOND", text)
        with pytest.raises(HubError, match=f"ANY2POINT_HUB_BYTES_PER_SECOND must be a number.*got '{text}'"):
            pull("me/adapter", force_download=True)


def test_files_that_are_too_large_are_not_loaded(hub, push, pull, monkeypatch):
    push("me/adapter")
    for name, size, limit in (("config.json", 2**20 + 1, "1,048,576"), ("model.safetensors", 2**40, "2,147,483,648")):
        headers = {"X-Repo-Commit": "0" * 40, "ETag": '"x"', "Content-Length": size}
        hub.fail("HEAD", name, status=200, headers=headers)
        with pytest.raises(HubError, match=rf"{name} has at most {limit} bytes, and it announces {size:,}\."):
            pull("me/adapter")
        hub.faults.clear()
    without_length = {"X-Repo-Commit": "0" * 40, "ETag": '"x"', "X-Linked-Size": "many"}
    hub.fail("HEAD", "config.json", status=200, headers=without_length)
    hub.fail("GET", "config.json", endless=0.0)
    with pytest.raises(HubError, match=r"config\.json has at most 1,048,576 bytes, and more arrive"):
        pull("me/adapter")
    with hub_calls("to load something else"):  # only adapters are small
        config = HfApi().hf_hub_download("me/adapter", "model.safetensors")
    assert Path(config).is_file()


ODD = {
    "null": b"null",
    "list": b"[1]",
    "word": b'"main"',
    "no commit": b'{"sha": null}',
    "number": b'{"sha": 5}',
    "page": b"<html>log in</html>",
    "nothing": b"",
    "binary": b"\xff\xfe\x00",
    "nested": 100_000 * b"[",
}


@pytest.mark.parametrize("body", ODD.values(), ids=ODD)
def test_odd_answers(hub, push, pull, body):
    push("me/adapter")
    hub.fail("GET", "/api/models", body=body)
    with pytest.raises(HubError, match=r"its answer is not that of a Hub.*Check HF_ENDPOINT"):
        pull("me/adapter")
    hub.fail("GET", "/api/whoami", body=body)
    hub.fail("POST", "/api/repos/create", body=body)
    if body != ODD["no commit"]:
        with pytest.raises(HubError, match=r"its answer is not that of a Hub"):
            push("me/adapter")


@pytest.mark.parametrize("sha", ["main", "../../elsewhere", "0" * 39, "A" * 40, "0" * 40 + "\n"])
def test_a_commit_that_is_none(hub, push, pull, sha):
    push("me/adapter")
    hub.store("me/data", {"a/train/0.xyz": b"0 0 0\n1 1 1\n"})
    hub.fail("GET", "/api/(models|datasets)", body=json.dumps({"id": "me/adapter", "sha": sha}).encode())
    for load in (lambda: pull("me/adapter"), lambda: load_backbone_config("me/adapter"), lambda: pinned("me/data")):
        with pytest.raises(
            (HubError, BackboneLoadError), match=r"its answer is not that of a Hub .*is no commit.*Check HF_ENDPOINT"
        ):
            load()
    hub.faults.clear()
    pull("me/adapter")


NAMES_ELSEWHERE = [
    ("ETag", '"{folder}/written"'),
    ("X-Linked-Etag", '"{folder}/written"'),
    ("ETag", 'W/"../../../../written"'),
    ("X-Repo-Commit", "../../../written"),
    ("X-Repo-Commit", "main"),
]


@pytest.mark.parametrize(("header", "value"), NAMES_ELSEWHERE)
def test_nothing_is_written_outside_of_the_cache(hub, push, pull, tmp_path, header, value):
    commit, content = push("me/adapter").oid, b"key of somebody"
    names = {"X-Repo-Commit": commit, "ETag": '"a"', header: value.format(folder=tmp_path)}
    hub.fail("HEAD", "config.json", status=200, headers={"Content-Length": len(content)} | names)
    hub.fail("GET", "config.json", status=200, body=content)
    with pytest.raises(HubError, match=rf"not that of a Hub \({header.lower()}: .*Check HF_ENDPOINT"):
        pull("me/adapter")
    assert not list(tmp_path.rglob("written*"))
    hub.faults.clear()
    pull("me/adapter")


def test_a_backbone_that_gets_odd_answers(hub, bert):
    hub.fail("GET", "/api/models", body=b"null")
    with pytest.raises((HubError, BackboneLoadError), match="its answer is not that of a Hub"):
        load_backbone_config("me/backbone")


REDIRECTS = {
    "nowhere": "http://127.0.0.1:9/weights",
    "a file": "file:///etc/hostname",
    "no address": "http://[::1/weights",
    "in a circle": "{url}/me/adapter/resolve/main/model.safetensors",
    "another host": "http://localhost:{port}/me/adapter/resolve/main/model.safetensors",
}


@pytest.mark.parametrize("target", REDIRECTS.values(), ids=REDIRECTS)
@pytest.mark.parametrize("method", ["HEAD", "GET", "*"])
@pytest.mark.parametrize("names_commit", [False, True])
def test_redirected_weights(hub, push, pull, hub_waits, target, method, names_commit):
    push("me/adapter")
    headers = {"Location": target.format(url=hub.url, port=hub.server_address[1])}
    headers |= {"X-Repo-Commit": "0" * 40, "ETag": '"x"'} if names_commit else {}
    hub.fail(method, "model.safetensors", status=302, headers=headers)
    with pytest.raises(HubError):
        pull("me/adapter")
    hub.faults.clear()
    pull("me/adapter")


def test_weights_may_lie_at_another_address(hub, push, pull):
    commit = push("me/adapter").oid
    weights = hub.repositories["me/adapter"].files()["model.safetensors"]
    address = f"http://localhost:{hub.server_address[1]}/me/adapter/resolve/main/model.safetensors"
    headers = {"Location": address, "X-Repo-Commit": commit, "ETag": f'"{weights.etag}"'}
    hub.fail("HEAD", "model.safetensors", status=302, headers=headers | {"X-Linked-Size": weights.size}, times=1)
    pull("me/adapter")
    hub.fail("HEAD", "model.safetensors", status=302, headers=headers | {"X-Linked-Size": 9}, times=1)
    with pytest.raises(HubError, match=r"has at most 9 bytes"):
        pull("me/adapter", force_download=True)


def test_compressed_answers_are_not_unpacked(hub, push, pull):
    push("me/adapter")
    bomb = gzip.compress(b'{"sha": "' + bytes(10**7) + b'"}')
    hub.fail("GET", "/api/models", status=200, body=bomb, headers={"Content-Encoding": "gzip"})
    with pytest.raises(HubError, match="compressed though it was asked not to be"):
        pull("me/adapter")


def test_calls_of_another_thread_have_their_own_limits(hub, push, pull):
    push("me/adapter")
    content = bytes(2**20 + 1)
    push_files({"large.json": content}, "me/other", commit_message="put")
    inside, done = threading.Event(), threading.Event()

    def stay_inside():
        with hub_calls("to pull", {".json": 10}):
            inside.set()
            done.wait(60)

    other = threading.Thread(target=stay_inside)
    other.start()
    assert inside.wait(60)
    try:
        with hub_calls("to load"):
            assert Path(HfApi().hf_hub_download("me/other", "large.json")).read_bytes() == content
    finally:
        done.set()
        other.join()
