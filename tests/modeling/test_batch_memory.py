import weakref
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import BertConfig, BertModel

from any2point_hf.modeling import BatchTooLargeError, batch_memory
from any2point_hf.modeling.batch_memory import ROOM, check_memory, is_out_of_memory

NUM_POINTS = 128


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors made under it that are alive, and the most of them: the same on every machine."""

    def __init__(self):
        super().__init__()
        self.now, self.peak, self.storages = 0, 0, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
        }
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in given and storage._cdata not in self.storages:
                    self._count(storage, storage._cdata, storage.nbytes())
        return result

    def _count(self, storage, key, size):
        def gone(_):
            self.now -= size
            del self.storages[key]

        self.storages[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def peak_of(model, points):
    with LiveBytes() as live:
        model(points)
    return live.peak


def in_mode(model, mode):
    model.train(mode in ("train", "checkpointing"))
    if mode == "checkpointing":
        model.activation_checkpointing_enable()
    return model


def assert_estimated(model, points):
    """What a forward takes lies between its estimate and what errors leave room for."""
    estimate, peak = len(points) * model.bytes_of_cloud(NUM_POINTS), peak_of(model, points)
    assert estimate <= peak, f"recalibrate batch_memory.py: {estimate / peak:.2f} of what is taken"
    room = ROOM["a training step" if torch.is_grad_enabled() else "inference"]
    assert peak <= room * estimate, f"a batch that an error names would not fit: {peak / estimate:.1f} estimates"


@pytest.fixture
def model(make):
    return make.model("bert")


@pytest.fixture
def free(monkeypatch):
    """What the system says is free; every batch is large enough to ask it."""
    told = SimpleNamespace(bytes=None)
    monkeypatch.setattr(batch_memory, "available_memory", lambda device: told.bytes)
    monkeypatch.setattr(batch_memory, "SMALL", 0)
    return told


@pytest.mark.parametrize("settings", [{}, {"aggregation": "none", "adapter_blocks": 0}], ids=["adapted", "bare"])
@pytest.mark.parametrize("family", ["bert", "clip_text", "dinov2", "llama"])
@pytest.mark.parametrize("mode", ["inference", "eval", "train", "checkpointing"])
def test_a_forward_takes_at_least_the_estimate_and_not_many_times_it(make, family, settings, mode):
    model = in_mode(make.model(family, **settings), mode)
    with torch.set_grad_enabled(mode != "inference"):
        assert_estimated(model, make.points(32, NUM_POINTS))


@pytest.mark.parametrize("settings", [{}, {"aggregation": "none", "adapter_blocks": 0}], ids=["adapted", "bare"])
@pytest.mark.parametrize("mode", ["inference", "autocast", "eval", "train", "checkpointing"])
def test_the_estimate_holds_for_segmentation(make, settings, mode):
    model = in_mode(make.segmenter("bert", num_labels=50, **settings), mode)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast")
    with autocast, torch.set_grad_enabled(mode not in ("inference", "autocast")):
        assert_estimated(model, make.points(32, NUM_POINTS))


@torch.no_grad()
def test_states_that_the_segmentation_head_waits_for_are_in_its_estimate(make):
    size = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 4, "intermediate_size": 64}
    model = make.segmenter(BertModel(BertConfig(vocab_size=30, **size)))
    assert model.bytes_of_cloud(NUM_POINTS) > 12 * (NUM_POINTS // 8) * 384 * 4
    assert_estimated(model, make.points(4, NUM_POINTS))


def test_the_estimate_grows_with_what_a_forward_holds(make, model):
    with torch.no_grad():
        inference = model.bytes_of_cloud(NUM_POINTS)
        assert model.bytes_of_cloud(2 * NUM_POINTS) > 1.9 * inference
        with torch.autocast("cpu", torch.bfloat16):
            assert inference / 2 <= model.bytes_of_cloud(NUM_POINTS) < inference
    model.train()
    step = model.bytes_of_cloud(NUM_POINTS)
    assert step > 2 * inference
    model.activation_checkpointing_enable()
    assert inference < model.bytes_of_cloud(NUM_POINTS) < step
    assert model.requires_grad_(False).bytes_of_cloud(NUM_POINTS) == inference  # nothing is kept for a backward pass


def test_a_batch_for_which_memory_cannot_suffice_is_refused_and_one_that_fits_is_named(model, make, free):
    points = make.points(30, NUM_POINTS)
    with torch.no_grad():
        cloud = model.bytes_of_cloud(NUM_POINTS)
        free.bytes = 30 * cloud
        model(points)  # what may fit is tried
        free.bytes = 30 * cloud - 1
        with pytest.raises(BatchTooLargeError) as caught:
            model(points)
        assert "30 clouds of 128 points need at least 0.0 GiB for inference" in str(caught.value)
        assert f"A batch of {(30 * cloud - 1) // (ROOM['inference'] * cloud)} fits" in str(caught.value)
        model(points[:1])
        free.bytes = cloud
        with pytest.raises(BatchTooLargeError, match="A batch of 1 fits"):
            model(points)
        model(points[:1])
        free.bytes = cloud - 1
        for batch in (points, points[:1]):
            with pytest.raises(BatchTooLargeError, match="Bring the clouds to fewer points"):
                model(batch)


def test_a_training_step_needs_more_than_inference(model, make, free):
    points = make.points(4, NUM_POINTS)
    with torch.no_grad():
        free.bytes = 4 * model.bytes_of_cloud(NUM_POINTS)
        model(points)
    with pytest.raises(BatchTooLargeError, match="for a training step"):
        model.train()(points)


@pytest.mark.parametrize("told", [None, 1 << 50])
def test_where_memory_is_not_known_or_plenty_nothing_is_refused(model, make, free, told):
    free.bytes = told
    check_memory(model, make.points(4, NUM_POINTS))


def test_the_system_is_not_asked_for_a_small_batch_or_another_device(model, make, monkeypatch):
    monkeypatch.setattr(batch_memory, "available_memory", lambda device: pytest.fail("asked"))
    check_memory(model, make.points(4, NUM_POINTS))
    monkeypatch.setattr(batch_memory, "SMALL", 0)
    check_memory(model, torch.empty(4, NUM_POINTS, 3, device="meta"))


@pytest.mark.parametrize(
    "failure",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    ],
)
def test_an_allocation_that_fails_names_a_batch_that_fits(model, make, free, monkeypatch, failure):
    def fail(*inputs):
        raise failure

    monkeypatch.setattr(model.tokenizer, "forward", fail)
    free.bytes = None  # not known: half of the batch is named
    with pytest.raises(BatchTooLargeError, match="A batch of 2 fits"):
        model(make.points(5, NUM_POINTS))
    with pytest.raises(BatchTooLargeError, match="Bring the clouds to fewer points"):
        model(make.points(1, NUM_POINTS))
    free.bytes = 5 * model.bytes_of_cloud(NUM_POINTS)
    with pytest.raises(BatchTooLargeError, match="A batch of 1 fits"):
        model(make.points(5, NUM_POINTS))


@torch.no_grad()
def test_a_segmenter_names_a_batch_with_which_its_head_fits_too(make, free, monkeypatch):
    def fail(*inputs):
        raise torch.OutOfMemoryError("out of memory")

    model, points = make.segmenter("bert"), make.points(30, NUM_POINTS)
    free.bytes = 30 * model.bytes_of_cloud(NUM_POINTS) - 1
    assert free.bytes > 30 * model.any2point.bytes_of_cloud(NUM_POINTS)
    with pytest.raises(BatchTooLargeError, match=f"A batch of {30 // ROOM['inference']} fits") as refused:
        model(points)
    free.bytes += 1
    model(points)
    for part in (model.any2point.tokenizer, model.segmenter):
        with monkeypatch.context() as patch:
            patch.setattr(part, "forward", fail)
            with pytest.raises(BatchTooLargeError) as failed:
                model(points)
        assert str(failed.value) == str(refused.value)


def test_the_trainer_may_look_for_a_batch_size_by_itself(model, make, free):
    from accelerate.utils import find_executable_batch_size

    with torch.no_grad():
        free.bytes = 3 * model.bytes_of_cloud(NUM_POINTS)
        run = find_executable_batch_size(lambda size: model(make.points(size, NUM_POINTS)), starting_batch_size=64)
        assert len(run().pooler_output) <= 3


def test_other_errors_stay_as_they_are(model, make, monkeypatch):
    def fail(*inputs):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(model.tokenizer, "forward", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        model(make.points(2, NUM_POINTS))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_memory_of_the_failed_forward_is_free_when_the_next_size_is_chosen(model, make, monkeypatch):
    alive = []

    def fail(*inputs):
        large = torch.ones(1000)
        alive.append(weakref.ref(large))
        raise torch.OutOfMemoryError("out of memory")

    def ask(device):
        alive.append(alive[0]() is not None)

    monkeypatch.setattr(model.tokenizer, "forward", fail)
    monkeypatch.setattr(batch_memory, "available_memory", ask)
    with pytest.raises(BatchTooLargeError):
        model(make.points(2, NUM_POINTS))
    assert alive[1] is False


def test_a_cloud_of_a_million_points_is_sent_to_the_processor(model):
    from any2point_hf.modeling import PointCloudError

    with pytest.raises(PointCloudError, match=r"at most 65536 points, got 1000000\. Any2PointProcessor\(num_points"):
        model(torch.zeros(1, 1_000_000, 3))
