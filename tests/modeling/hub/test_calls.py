"""Pulls from a Hub that refuses, breaks off, hangs or is dead (pushes to one: test_hub_push.py)."""

import os
import time
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import get_session

from any2point_hf.modeling import CheckpointError, HubError
from any2point_hf.modeling.hub.calls import hub_calls

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
    wrong = {"X-Repo-Commit": "0" * 40, "ETag": '"x"', "Content-Length": 9}
    hub.fail("HEAD", "model.safetensors", status=200, headers=wrong)
    with pytest.raises(HubError, match="arrived in part"):
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
    monkeypatch.setattr("any2point_hf.modeling.hub.calls.FIRST_ANSWER_SECONDS", 0.4)
    monkeypatch.setattr("any2point_hf.modeling.hub.calls.ANSWER_SECONDS", 0.4)
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


def test_an_endpoint_that_is_no_hub(hub, pull):
    hub.fail("GET", "/api/models", status=200)  # without a commit
    with pytest.raises(HubError, match=r"its answer is not that of a Hub.*Check HF_ENDPOINT"):
        pull("me/adapter")
