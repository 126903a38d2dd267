"""A forward never makes the host wait for an accelerator: seen on the meta device, and on a GPU where there is one."""

import contextlib
from functools import partial

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITING = {"_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "item"}
WAITING |= {"_unique", "_unique2", "unique_dim", "unique_consecutive", "bincount", "repeat_interleave.Tensor"}

PARTS = {"zebra": [0, 1], "ant": [2]}


class HostWaitsError(AssertionError):
    pass


class NoHostWait(TorchDispatchMode):
    """Raises on operators whose result the host needs, and on copies between the CPU and the device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function._schema.name.removeprefix("aten::")
        if name in WAITING or f"{name}.{function._overloadname}" in WAITING:
            raise HostWaitsError(f"{function} makes the host wait")
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        if name in ("index", "index_put", "index_put_"):
            masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
            if masks:
                raise HostWaitsError(f"{function} with a mask makes the host wait")
        result = function(*args, **kwargs)
        devices = {t.device.type for t in (*given, *tree_leaves(result)) if isinstance(t, torch.Tensor) and t.dim()}
        if name == "_to_copy" and kwargs.get("non_blocking") and result.device.type != "cpu":
            return result  # a few numbers of a config are on their way before the host goes on
        if len(devices) > 1:
            raise HostWaitsError(f"{function} between {devices} makes the host wait")
        if name in ("_to_copy", "copy_") and len({t.device.type for t in (*given, result)}) > 1:
            raise HostWaitsError(f"{function} copies between devices")
        return result


class NoHostData(TorchFunctionMode):
    """Raises on tensors made from Python's numbers on the device, which dispatch does not show on the meta device."""

    makers = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)
    accesses = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in self.makers and result.device.type != "cpu":
            raise HostWaitsError(f"{function.__name__} copies from the host")
        if function in self.accesses and args[0].device.type != "cpu":
            indices = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(index, list) for index in indices):
                raise HostWaitsError("an index that is a list is copied from the host")
        return result


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    pass


@pytest.fixture(autouse=True, scope="module")
def _statistics_on_meta():
    """torch has no shapes of this kernel; its mean and variance are of a row's size, in at least float32."""

    def shapes(values, running_mean, running_var, momentum):
        return tuple(torch.empty_like(running_mean) for _ in range(2))

    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("batch_norm_update_stats", shapes, "Meta")
        yield


@pytest.fixture
def on_meta(make, monkeypatch):
    """Model and inputs of which only shapes are known, on a device that is not the CPU."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())

    def prepare(family, of_points=False, **settings):
        make_model = make.segmenter if of_points else partial(make.model, head=True)
        model = make_model(family, num_points=64, num_labels=3, **settings).to("meta")
        integers = partial(torch.empty, dtype=torch.long, device="meta")
        inputs = {
            "points": torch.empty(3, 64, 3, device="meta"),
            "labels": integers(3, 64) if of_points else integers(3),
        }
        return model, inputs | ({"category": integers(3)} if "category_parts" in settings else {})

    return prepare


def forward_without_waiting(model, inputs):
    with NoHostWait(), NoHostData():
        output = model(**inputs)
        if model.training:
            output.loss.backward()
    assert output.logits.device.type == output.loss.device.type == "meta"
    assert output.logits.shape == (*inputs["labels"].shape, 3)
    return output


# Tables of a line and of a plane, rotations on both, biases on both, and tables that are no parameter
@pytest.mark.parametrize("a_family", ["bert", "vit", "llama", "dinov3", "t5", "mpnet", "beit", "videomae"])
def test_a_forward_never_waits(on_meta, a_family):
    model, inputs = on_meta(a_family)
    forward_without_waiting(model.eval(), inputs)


@pytest.mark.parametrize("a_family", ["clip_text", "dinov2", "beit"])
@pytest.mark.parametrize("released", [False, True], ids=["method", "released"])
def test_a_training_step_never_waits(on_meta, a_family, released):
    if released and a_family == "beit":
        pytest.skip("released_compatibility has no positions inside blocks")
    model, inputs = on_meta(a_family, released_compatibility=released)
    forward_without_waiting(model.train(), inputs)


# Where a label is −100 is not known either
@pytest.mark.parametrize("a_family", ["bert", "beit"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"category_parts": PARTS}, {"class_weight": [0.5, 2.0, 1.0], "label_smoothing": 0.1}],
    ids=["plain", "category", "weights"],
)
def test_segmentation_never_waits(on_meta, a_family, training, settings):
    model, inputs = on_meta(a_family, of_points=True, **settings)
    output = forward_without_waiting(model.train(training), inputs)
    with NoHostWait(), NoHostData():
        parts = model.predict_parts(output.logits, inputs.get("category"))
    assert (parts.device.type, parts.shape) == ("meta", (3, 64))


@pytest.mark.parametrize(
    "settings",
    [
        {"position_encoding": "sinusoidal"},
        {"position_encoding": "learnable"},
        {"position_encoding": "none", "aggregation": "3d"},
        {"aggregation": "none", "neighborhood_norm": "deviation"},
        {"ensemble": "mean", "cell_pooling": "mean"},
        {"released_compatibility": True},
        {"class_weight": [0.5, 2.0, 1.0]},
    ],
    ids=str,
)
def test_no_choice_of_the_config_makes_a_forward_wait(on_meta, settings):
    model, inputs = on_meta("vit", **settings)
    forward_without_waiting(model.eval(), inputs)


WAITERS = {
    "item": lambda t: t.sum().item(),
    "truth": lambda t: bool(t.any()),
    "list": lambda t: t.tolist(),
    "nonzero": lambda t: t.nonzero(),
    "mask": lambda t: t[t > 0],
    "write by mask": lambda t: t.clone().index_put_((t > 0,), t.new_zeros(())),
    "masked_select": lambda t: t.masked_select(t > 0),
    "unique": lambda t: t.unique(),
    "equal": lambda t: torch.equal(t, t),
    "repeats": lambda t: torch.repeat_interleave(t, t.long()),
    "to the CPU": lambda t: t.cpu(),
    "to the CPU, not blocking": lambda t: t.to("cpu", non_blocking=True),
    "from the CPU": lambda t: torch.ones(3).to(t.device),
    "number from the CPU": lambda t: torch.ones(()).to(t.device),
    "write from the CPU": lambda t: t.copy_(torch.ones(4)),
    "table on the CPU": lambda t: torch.ones(4) + t,
    "index from a list": lambda t: t[[0, 2]],
    "new_tensor": lambda t: t.new_tensor([1.0, 2.0]),
    "tensor": lambda t: torch.tensor([1.0, 2.0], device=t.device),
}


@pytest.mark.parametrize("waiter", WAITERS)
def test_what_makes_the_host_wait_is_seen(waiter):
    values = torch.empty(4, device="meta")
    with NoHostWait(), NoHostData(), pytest.raises((HostWaitsError, RuntimeError)):
        WAITERS[waiter](values)


# What a forward cannot refuse without waiting


@pytest.fixture
def unchecked(monkeypatch):
    """On the CPU as on a GPU: finiteness is not looked at before the model runs."""
    for module in ("modeling_any2point", "modeling_any2point_segmentation"):
        monkeypatch.setattr(f"any2point_hf.modeling.{module}.check_inputs", lambda *_: None)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("a_family", ["bert", "vit", "llama", "beit"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=str)
@torch.no_grad()
def test_a_cloud_that_is_not_finite_has_nan_logits_and_the_others_their_own(make, a_family, value):
    model = make.model(a_family, head=True, num_points=64, num_labels=3)
    points = make.points(4, 64)
    expected = model(points)
    points[1, 7, 2], points[2] = value, value  # in one coordinate, and in all
    found = model(points)
    for name in ("logits", "last_hidden_state", "pooler_output"):
        assert found[name][1:3].isnan().all()
        torch.testing.assert_close(found[name][::3], expected[name][::3], atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("unchecked")
def test_the_loss_of_a_training_step_with_such_a_cloud_is_nan(make):
    model = make.model("vit", head=True, num_points=64, num_labels=3).train()
    points = make.points(3, 64)
    points[1, 7, 2] = torch.nan
    assert model(points, labels=torch.tensor([0, 1, 2])).loss.isnan()


@pytest.mark.usefixtures("unchecked")
def test_points_of_a_cloud_that_is_not_finite_have_nan_logits_too(make):
    model = make.segmenter("vit", num_points=64, num_labels=3, category_parts=PARTS)
    points, category = make.points(3, 64), torch.tensor([1, 0, 1])
    labels = torch.randint(3, (3, 64)).masked_fill_(torch.rand(3, 64) < 0.2, -100)
    with torch.no_grad():
        expected = model(points, category=category).logits
        points[1, 7, 2] = torch.nan
        found = model(points, category=category).logits
    assert found[1].isnan().all()
    torch.testing.assert_close(found[::2], expected[::2], atol=1e-6, rtol=1e-5)
    assert model.train()(points, labels=labels, category=category).loss.isnan()


# On a GPU itself

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def on_gpu(make, family):
    model = make.model(family, head=True, num_points=64, num_labels=3).cuda()
    points, labels = make.points(3, 64).cuda(), torch.tensor([0, 1, 2]).cuda()
    model(points, labels=labels)  # kernels are built at first use
    return model, points, labels


@needs_gpu
@pytest.mark.parametrize("training", [False, True])
def test_segmentation_on_a_gpu_never_waits(make, training):
    settings = {"category_parts": PARTS, "class_weight": [0.5, 2.0, 1.0]}
    model = make.segmenter("bert", num_points=64, num_labels=3, **settings).cuda().train(training)
    labels = torch.randint(3, (3, 64)).masked_fill_(torch.rand(3, 64) < 0.2, -100)
    inputs = {"points": make.points(3, 64), "labels": labels, "category": torch.tensor([1, 0, 1])}
    inputs = {name: values.cuda() for name, values in inputs.items()}
    model(**inputs).loss.backward()  # kernels are built at first use
    torch.cuda.set_sync_debug_mode("error")
    try:
        output = model(**inputs)
        output.loss.backward()
        model.predict_parts(output.logits, inputs["category"])
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.parametrize("a_family", ["bert", "vit", "llama", "dinov3", "t5", "beit", "videomae"])
@pytest.mark.parametrize("training", [False, True])
def test_a_forward_on_a_gpu_never_waits(make, a_family, training):
    model, points, labels = on_gpu(make, a_family)
    model.train(training)
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(points, labels=labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.parametrize("a_family", ["bert", "vit", "llama", "beit"])
@torch.no_grad()
def test_a_forward_can_be_captured_in_a_cuda_graph(make, a_family):
    model, points, _ = on_gpu(make, a_family)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        model(points)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = model(points).logits
    for _ in range(3):
        others = make.points(3, 64).cuda()
        points.copy_(others)
        graph.replay()
        torch.testing.assert_close(logits, model(others).logits, atol=1e-5, rtol=0)


@needs_gpu
@pytest.mark.parametrize("a_family", ["bert", "vit"])
@torch.no_grad()
def test_a_forward_can_be_compiled_for_reduced_overhead(make, a_family):
    torch._dynamo.reset()
    model, _, _ = on_gpu(make, a_family)
    compiled = torch.compile(model, mode="reduce-overhead")
    for _ in range(4):  # the first ones record
        points = make.points(3, 64).cuda()
        torch.testing.assert_close(compiled(points).logits.clone(), model(points).logits, atol=1e-4, rtol=0)
    torch._dynamo.reset()
