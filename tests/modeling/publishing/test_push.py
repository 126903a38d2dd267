"""Pushing to the Hub on localhost (tests/hub_server) over every transport, whole and with every fault."""

import json
import os
import subprocess
import sys
import warnings

import pytest
import torch
from huggingface_hub import constants

from any2point_hf.modeling import Any2PointForPointCloudClassification, HubError
from any2point_hf.modeling.publishing.model_card import GENERATED, model_card
from any2point_hf.modeling.publishing.push import push_files, pushed_config, pushed_files

# huggingface_hub's own way of uploading by LFS
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

TRANSPORTS = ["regular", "lfs", "multipart", "xet"]


@pytest.fixture(params=TRANSPORTS)
def transport(request, hub, monkeypatch):
    use_transport(request.param, hub, monkeypatch)
    return request.param


def use_transport(name, hub, monkeypatch):
    if name == "regular":
        hub.large_suffixes = ()
    if name == "multipart":
        hub.part_size = 100_000
    if name == "xet":
        pytest.importorskip("hf_xet")
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)


@pytest.fixture
def push(hub, tiny_adapter):
    """Pushes the whole adapter's folder."""

    def put(name="me/adapter", **options):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*folder of this machine")
            files = pushed_files(tiny_adapter.folder)
        return push_files(files, name, commit_message="put", **options)

    return put


FRESH_PROCESS = """
import json, sys, torch
from any2point_hf import Any2PointForPointCloudClassification, Any2PointProcessor
backbone, points, names = sys.argv[1], torch.load(sys.argv[2], weights_only=True), sys.argv[3:]
for name in names:
    model = Any2PointForPointCloudClassification.from_pretrained(name, backbone=backbone)
    processor = Any2PointProcessor.from_pretrained(name)
    with torch.no_grad():
        print(json.dumps([processor.num_points, *model(points).logits.flatten().tolist()]))
"""


@torch.no_grad()
def test_a_fresh_process_pulls_what_was_pushed(hub, push, tiny_adapter, bert, tmp_path, monkeypatch):
    suffixes = hub.large_suffixes
    for name in TRANSPORTS:
        with monkeypatch.context() as patch:
            use_transport(name, hub, patch)
            push(f"me/by-{name}")
        hub.large_suffixes, hub.part_size = suffixes, None
    torch.save(tiny_adapter.points, tmp_path / "points.pt")
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    environment.pop("HF_HUB_OFFLINE", None)
    names = [f"by-{name}" for name in TRANSPORTS]
    command = [sys.executable, "-c", FRESH_PROCESS, str(bert), str(tmp_path / "points.pt"), *names]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    expected = [64, *tiny_adapter.model(tiny_adapter.points).logits.flatten().tolist()]
    assert [json.loads(line) for line in result.stdout.splitlines()] == [expected] * len(TRANSPORTS)
    assert any("xet-read-token" in call for call in hub.calls)


def test_each_transport_is_the_one_meant(hub, push, transport):
    push()
    calls = {
        "regular": "POST /api/models/me/adapter/commit/main",
        "lfs": "PUT /lfs/",
        "multipart": "/complete",
        "xet": "GET /api/models/me/adapter/xet-write-token/main",
    }
    for name, call in calls.items():
        used = any(call in listed for listed in hub.calls)
        assert used == (name in (transport, "regular") or (transport, name) == ("multipart", "lfs")), name
    assert hub.repositories["me/adapter"].messages == ["initial commit", "put"]


# What is pushed


def test_exactly_the_adapters_files_in_one_commit(hub, push, tiny_adapter, tmp_path):
    push()
    assert set(hub.repositories["me/adapter"].files()) == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "any2point.py",
    }
    for name in (
        "training_args.bin",
        "notes.txt",
        "images/plot.svg",
        "images/curve.png",
        "checkpoint-1/model.safetensors",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("---\n---\n")
    assert set(pushed_files(tmp_path)) == {"config.json", "any2point.py", "README.md", "images/curve.png"}


def test_no_path_of_this_machine_is_pushed(tiny_adapter, tmp_path):
    def config_of(backbone):
        values = json.loads((tiny_adapter.folder / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(values | {"backbone": backbone}))
        return json.loads(pushed_config(tmp_path))

    for folder in (str(tmp_path), "/home/somebody/bert", r"C:\Users\somebody\bert"):
        with pytest.warns(UserWarning, match="folder of this machine"):
            config = config_of(folder)
        assert config["backbone"] == f"./{tmp_path.name if folder == str(tmp_path) else 'bert'}"
        assert "somebody" not in json.dumps(config)
        assert str(tmp_path) not in json.dumps(config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert config_of("org/bert")["backbone"] == "org/bert"
        cached = config_of(f"/home/somebody/hub/models--org--bert/snapshots/{'a' * 40}")
    assert (cached["backbone"], cached["backbone_revision"]) == ("org/bert", "a" * 40)
    assert config_of(None)["backbone"] is None


def test_a_backbone_of_another_machine_has_to_be_given(hub, push):
    from any2point_hf.modeling import CheckpointError

    push()
    with pytest.raises(CheckpointError, match=r"backbone is a folder, 'bert'.*Pass the same backbone as backbone="):
        Any2PointForPointCloudClassification.from_pretrained("me/adapter")


def test_nothing_new_makes_no_commit(hub, push, transport):
    first = push()
    hub.calls.clear()
    assert push().oid == first.oid
    assert not any("/commit/" in call or call.startswith("PUT") for call in hub.calls)
    assert len(hub.repositories["me/adapter"].commits) == 2


def test_private_branches_and_pull_requests(hub, push, monkeypatch):
    push("me/adapter", private=True, revision="trial")
    repository = hub.repositories["me/adapter"]
    assert repository.private
    assert repository.files("main") == {}
    assert "model.safetensors" in repository.files("trial")
    push("me/public")
    proposal = push_files(
        {"README.md": b"---\n---\nbetter"}, "me/public", commit_message="m", create_pr=True, token="token-of-other"
    )
    assert proposal.pr_url == f"{hub.url}/me/public/discussions/1"
    public = hub.repositories["me/public"]
    assert "README.md" not in public.files("main")
    assert "README.md" in public.files("refs/pr/1")
    with pytest.raises(HubError, match="against the main branch"):
        push(create_pr=True, revision="trial")
    for name in ("a/b/c", "with space", ""):
        with pytest.raises(HubError, match="called name or user/name"):
            push(name)


# The card


def readme(hub, name="me/adapter"):
    return hub.repositories[name].files()["README.md"].content.decode()


def test_the_card_of_a_pushed_model(hub, tiny_adapter):
    with pytest.warns(UserWarning, match="folder of this machine"):
        tiny_adapter.model.push_to_hub("adapter")
    assert set(hub.repositories["me/adapter"].files()) == {
        "config.json",
        "model.safetensors",
        "any2point.py",
        "README.md",
    }
    assert 'from_pretrained("me/adapter"' in readme(hub)
    assert GENERATED in readme(hub)


@pytest.mark.parametrize(
    ("on_hub", "kept"),
    [
        ("---\n---\nwritten by hand", True),
        (f"---\n---\n{GENERATED} with the metrics of a training", True),
        (
            "---\n---\nThis model card has been generated automatically according to the information the Trainer had",
            False,
        ),
        ("---\n---\nThis model card has been automatically generated.", False),
    ],
)
def test_a_card_that_says_more_is_kept(hub, tiny_adapter, on_hub, kept):
    push_files({"README.md": on_hub.encode()}, "me/adapter", commit_message="card")
    with pytest.warns(UserWarning, match="folder of this machine"):
        tiny_adapter.model.push_to_hub("me/adapter")
    assert (readme(hub) == on_hub) == kept


def test_the_card_of_a_folder(hub, tiny_adapter):
    generated = str(model_card(tiny_adapter.model, "trained")).encode()
    push_files({"README.md": generated}, "me/adapter", commit_message="card")
    assert readme(hub) == generated.decode().replace('"trained"', '"me/adapter"').replace(
        "# trained", "# adapter"
    ).replace("--model trained", "--model me/adapter")
    push_files({"README.md": b"---\n---\nby hand"}, "me/adapter", commit_message="card")
    assert readme(hub) == "---\n---\nby hand"
    push_files({"README.md": generated}, "me/adapter", commit_message="card")
    assert readme(hub) == "---\n---\nby hand"


# Failures: each says what to do, and leaves the repository as it was and such that the next push succeeds

CALLS = {
    "create": "POST /api/repos/create",
    "preupload": "POST preupload",
    "batch": "POST batch",
    "upload": "PUT /lfs/",
    "complete": "POST /complete",
    "verify": "POST /verify",
    "token": "GET xet-write-token",
    "commit": "POST /commit/",
}
CALLS_OF = {
    "regular": ("create", "preupload", "commit"),
    "lfs": ("batch", "upload", "verify"),
    "multipart": ("upload", "complete"),
    "xet": ("token", "commit"),
}
STATUSES = {
    401: "Log in",
    403: "right to do this",
    404: "spelling",
    409: "do the same again",
    429: "Wait 60 s",
    500: "later",
}
POINTS = [(transport, call) for transport, calls in CALLS_OF.items() for call in calls]
REFUSALS = [(*point, status) for point in POINTS for status in STATUSES if (point[1], status) != ("create", 409)]
HANGS = [point for point in POINTS if point != ("xet", "token")]  # hf_xet's own limit is a minute


@pytest.fixture
def push_fails(hub, push, hub_waits, monkeypatch):
    """A push that must fail, and one afterwards that must not."""

    def check(call, match, **fault):
        if call != "create":
            before = push_files({"notes": b"before"}, "me/adapter", commit_message="before").oid
        hub.fail(*CALLS[call].split(), **fault)
        with pytest.raises(HubError, match=match) as refused:
            push()
        assert "to push to me/adapter" in str(refused.value)
        assert call == "create" or hub.repositories["me/adapter"].commit_of("main") == before
        assert sum(hub_waits) < 15
        hub.faults.clear()
        push()
        assert "model.safetensors" in hub.repositories["me/adapter"].files()

    return check


@pytest.mark.parametrize(("transport", "call", "status"), REFUSALS)
def test_refusals(hub, push_fails, monkeypatch, transport, call, status):
    use_transport(transport, hub, monkeypatch)
    headers = {"Retry-After": "60"} if status == 429 else {}
    advice = "Too many calls" if call == "token" and status == 429 else STATUSES[status]  # hf_xet drops the header
    push_fails(call, rf"answered {status}.*{advice}", status=status, headers=headers)


@pytest.mark.parametrize(("transport", "call"), POINTS)
def test_connections_that_break_off(hub, push_fails, monkeypatch, transport, call):
    use_transport(transport, hub, monkeypatch)
    push_fails(call, r"connection broke off.*Nothing is half written", cut=20)


@pytest.mark.parametrize(("transport", "call"), HANGS)
def test_a_hub_that_does_not_answer(hub, push_fails, monkeypatch, transport, call):
    use_transport(transport, hub, monkeypatch)
    monkeypatch.setattr("any2point_hf.modeling.hub.hooks.FIRST_ANSWER_SECONDS", 0.3)
    monkeypatch.setattr("any2point_hf.modeling.hub.hooks.ANSWER_SECONDS", 0.3)
    push_fails(call, "does not answer.*Check the network", hang=True)


def test_what_has_arrived_is_not_sent_twice(hub, push, hub_waits):
    hub.fail("POST", "/commit/", cut=0)
    with pytest.raises(HubError):
        push()
    hub.faults.clear()
    hub.calls.clear()
    push()
    assert not any(call.startswith("PUT") for call in hub.calls)


def test_waiting_is_bounded_where_the_hub_asks_for_it(hub, push, hub_waits):
    hub.fail("POST", "preupload", status=429, headers={"Retry-After": "2"}, times=2)
    push()
    assert hub_waits == [3, 3]  # the client adds a second


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_a_dead_endpoint_fails_at_once(hub, push, hub_waits, monkeypatch, endpoint):
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    with pytest.raises(HubError, match=rf"the Hub \({endpoint}\).*cannot be reached.*HF_ENDPOINT"):
        push()
    assert hub_waits == []


def test_a_push_without_a_login(hub, push, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "nowhere")
    with pytest.raises(HubError, match=r"answered 401.*hf auth login"):
        push()
    assert hub.repositories == {}


def test_a_push_offline(hub, push, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"to push to me/adapter.*offline mode.*Unset HF_HUB_OFFLINE"):
        push()
    assert hub.calls == []
