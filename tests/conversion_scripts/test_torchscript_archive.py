"""TorchScript archives made by torch itself, and what is done to them to run code or to read what is not there."""

import os
import pickle
import shutil
import warnings
import zipfile

import pytest
import torch
from torch import nn

from any2point_hf.conversion_scripts.torchscript_archive import is_torchscript_archive, read_torchscript_archive
from any2point_hf.modeling.errors import CheckpointError


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2, bias=False))
        self.layers[1].half()
        self.attention = nn.MultiheadAttention(4, 2)
        self.scale = nn.Parameter(torch.tensor(2.5))
        self.empty = nn.Parameter(torch.empty(0, 3))
        self.transposed = nn.Parameter(torch.randn(3, 4).T)
        table = torch.randn(6, 2)
        self.register_buffer("row", table[2])  # a view of a larger storage
        self.register_buffer("other_row", table[3:5])
        self.register_buffer("counts", torch.arange(3))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("brain", torch.randn(2).bfloat16())
        self.sizes = [1, 2]
        self.names = {"a": 1}

    def forward(self, features):
        return self.layers[0](features) * self.scale


def save_archive(module, path, example=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive = torch.jit.script(module) if example is None else torch.jit.trace(module, example)
        torch.jit.save(archive, path)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return Tiny().eval()


@pytest.fixture(scope="module")
def archive(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "tiny.pt"
    save_archive(tiny, path)
    return path


@pytest.fixture
def rewrite(archive, tmp_path):
    """A copy of the archive with other records, by their names inside it; None leaves one out."""

    def rewrite(records, compression=zipfile.ZIP_STORED):
        path = tmp_path / "rewritten.pt"
        with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w", compression) as new:
            for information in old.infolist():
                name = information.filename.partition("/")[2]
                content = records.pop(name, old.read(information))
                if content is not None:
                    new.writestr(information.filename, content)
            for name, content in records.items():
                new.writestr(f"tiny/{name}", content)
        return path

    return rewrite


@pytest.mark.parametrize("example", [None, torch.zeros(1, 3)], ids=["scripted", "traced"])
def test_the_tensors_are_those_of_the_state_dict(tiny, tmp_path, example):
    save_archive(tiny, tmp_path / "tiny.pt", example)
    assert is_torchscript_archive(tmp_path / "tiny.pt")
    tensors, other = read_torchscript_archive(tmp_path / "tiny.pt")
    expected = tiny.state_dict()
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor), name
    assert {"training", "layers.0.training", "attention.out_proj.training"} <= set(other)


def test_modules_in_two_places_or_in_themselves_have_an_end(tmp_path):
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    module.append(module[1])
    save_archive(module, tmp_path / "shared.pt", torch.zeros(1, 2))
    assert read_torchscript_archive(tmp_path / "shared.pt").tensors.keys() == {"0.weight", "0.bias"}


def global_(name):
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def module_of(**attributes):
    """A pickle of a module with these attributes, each given as opcodes."""
    entries = b"".join(pickle.dumps(name, 2)[2:-1] + value for name, value in attributes.items())
    return b"\x80\x02" + global_("__torch__.Tiny") + b")\x81}(" + entries + b"ub."


def opcodes(value):
    return pickle.dumps(value, 2)[2:-1]


def tensor_of(storage="FloatStorage", record="0", length=6, offset=0, size=(2, 3), stride=(3, 1), kind="storage"):
    """Opcodes of a tensor."""
    head = opcodes(kind) + global_(f"torch.{storage}") + opcodes(record) + opcodes("cpu") + opcodes(length)
    shape = opcodes(offset) + opcodes(size) + opcodes(stride) + b"\x89" + global_("collections.OrderedDict") + b")R"
    return global_("torch._utils._rebuild_tensor_v2") + b"((" + head + b"tQ" + shape + b"tR"


SIX = torch.arange(6.0).numpy().tobytes()


def test_the_tests_own_pickles_are_read_where_nothing_is_wrong(rewrite):
    path = rewrite({"data.pkl": module_of(weight=tensor_of()), "data/0": SIX})
    assert torch.equal(read_torchscript_archive(path).tensors["weight"], torch.arange(6.0).view(2, 3))
    helper = global_("torch.jit._pickle.restore_type_tag") + b"(" + opcodes([1]) + opcodes("List[int]") + b"tR"
    path = rewrite({"data.pkl": module_of(sizes=helper, end=tensor_of(offset=5, size=(), stride=())), "data/0": SIX})
    tensors, other = read_torchscript_archive(path)
    assert tensors["end"] == 5
    assert other == ["sizes"]


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "posix.system", "builtins.eval", "builtins.getattr", "collections.Counter"),
        *("torch.load", "torch.hub.load", "torch._utils._rebuild_tensor", "__torch_.x", "__torchx__.x"),
    ],
)
def test_a_malicious_pickle_is_refused_and_not_run(rewrite, tmp_path, name):
    mark = tmp_path / "it_ran"
    call = global_(name) + b"(" + opcodes(f"touch {mark}") + b"tR"
    for content in (module_of(weight=call), b"\x80\x02" + call + b"."):
        with pytest.raises(CheckpointError, match=f"it names '{name}', which was not run"):
            read_torchscript_archive(rewrite({"data.pkl": content}))
    stack_global = b"\x80\x04" + opcodes(name.rpartition(".")[0]) + opcodes(name.rpartition(".")[2]) + b"\x93."
    with pytest.raises(CheckpointError, match="which was not run"):
        read_torchscript_archive(rewrite({"data.pkl": stack_global}))
    assert not mark.exists()


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_python_itself_pickles_maliciously_is_not_run(rewrite, tmp_path, protocol):
    mark = tmp_path / "it_ran"
    with pytest.raises(CheckpointError, match="which was not run"):
        read_torchscript_archive(rewrite({"data.pkl": pickle.dumps(Touch(mark), protocol)}))
    assert not mark.exists()


@pytest.mark.parametrize(
    "instruction",
    [
        b"}(" + opcodes("__setstate__") + opcodes(1) + b"ub",  # attributes of the inert class itself
        b"N}(" + opcodes("__init__") + opcodes(1) + b"u\x86b",
    ],
)
def test_a_pickle_cannot_change_the_class_that_it_is_read_to(rewrite, archive, tiny, instruction):
    content = b"\x80\x02" + global_("__torch__.Tiny") + instruction + b"."
    with pytest.raises(CheckpointError, match="damaged"):
        read_torchscript_archive(rewrite({"data.pkl": content}))
    assert read_torchscript_archive(archive).tensors.keys() == tiny.state_dict().keys()


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ({"offset": 1}, "reaches to 6 in a storage of 6"),
        ({"stride": (4, 1)}, "reaches to 6 in a storage of 6"),
        ({"size": (6,), "stride": (2,)}, "reaches to 10 in a storage of 6"),
        ({"size": (), "stride": (), "offset": 6}, "reaches to 6 in a storage of 6"),
        ({"size": (7,), "stride": (1,)}, "cannot be"),
        ({"size": (10**6, 10**6), "stride": (0, 0)}, "cannot be"),
        ({"size": (2, 2), "stride": (-1, 1)}, "whole numbers"),
        ({"size": (-1, 2)}, "whole numbers"),
        ({"offset": -1}, "whole numbers"),
        ({"offset": True}, "whole numbers"),
        ({"offset": 0.0}, "whole numbers"),
        ({"size": (2,)}, "cannot be"),
        ({"size": (2**70, 0), "stride": (2**70, 1)}, "damaged"),
        ({"size": None}, "damaged"),
        ({"length": 7}, "must be 7 numbers of torch.float32, and its record has 24 bytes"),
        ({"length": 2**62}, "its record has 24 bytes"),
        ({"length": -6}, "its record has 24 bytes"),
        ({"storage": "HalfStorage"}, "must be 6 numbers of torch.float16, and its record has 24 bytes"),
        ({"storage": "DoubleStorage"}, "must be 6 numbers of torch.float64"),
        ({"storage": "QInt8Storage"}, "it names 'torch.QInt8Storage'"),
        ({"record": "absent"}, "damaged.*no item named"),
        ({"record": "../data.pkl"}, "damaged.*no item named"),
        ({"record": 0}, "must be in storages"),
        ({"kind": "module"}, "must be in storages"),
        ({"length": 6.0}, "must be in storages"),
    ],
)
def test_tensors_beyond_their_bytes_are_refused(rewrite, tensor, message):
    path = rewrite({"data.pkl": module_of(weight=tensor_of(**tensor)), "data/0": SIX})
    with pytest.raises(CheckpointError, match=message):
        read_torchscript_archive(path)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({"data.pkl": None}, r"must have one data.pkl, found \[\]"),
        ({"data.pkl": b""}, "damaged"),
        ({"data.pkl": b"\x80\x02Nr\xff\xff\xff\xef."}, "counts to 4026531839 in 9 bytes"),
        ({"data.pkl": b"\x80\x02Np4026531839\n."}, "counts to 4026531839 in"),
        ({"data.pkl": b"\x80\x05\x96\x00\x00\x00\x00\x04\x00\x00\x00."}, "damaged"),
        ({"data.pkl": b"\x80\x02K\x01."}, "must hold a module, got <class 'int'>"),
        ({"data.pkl": b"\x80\x02X\x05\x00\x00\x00helloQ."}, "must be in storages"),
        ({"data.pkl": b"\x80\x02" + global_("__torch__.Tiny") + b")\x81(K\x01K\x02tb."}, "must be dictionaries"),
        ({"data.pkl": b"\x80\x02" + global_("__torch__.Tiny") + b"(K\x01t\x81."}, "damaged"),
        ({"data/0": None}, "damaged.*no item named 'tiny/data/0'"),
        ({"data/0": b""}, "its record has 0 bytes"),
    ],
)
def test_other_pickles_and_records_are_refused(rewrite, records, message):
    with pytest.raises(CheckpointError, match=message):
        read_torchscript_archive(rewrite(dict(records)))


def test_two_archives_in_one_are_refused(archive, tmp_path):
    shutil.copy(archive, tmp_path / "two.pt")
    with zipfile.ZipFile(tmp_path / "two.pt", "a") as file:
        file.writestr("second/data.pkl", b".")
    with pytest.raises(CheckpointError, match="must have one data"):
        read_torchscript_archive(tmp_path / "two.pt")


def test_compressed_records_are_refused(rewrite):
    with pytest.raises(CheckpointError, match=r"data.pkl of a TorchScript archive must be stored uncompressed"):
        read_torchscript_archive(rewrite({}, compression=zipfile.ZIP_DEFLATED))


def test_a_module_inside_itself_has_an_end(rewrite):
    content = b"\x80\x02" + global_("__torch__.Tiny") + b")\x81q\x00}(" + opcodes("again")[:-2] + b"h\x00ub."
    tensors, other = read_torchscript_archive(rewrite({"data.pkl": content}))
    assert (tensors, other) == ({}, [])


def test_flipped_bits_and_truncated_files_are_refused(archive, tmp_path):
    content = archive.read_bytes()
    with zipfile.ZipFile(archive) as file:
        start = file.getinfo("tiny/data.pkl").header_offset + 200
    flipped = tmp_path / "flipped.pt"
    flipped.write_bytes(content[:start] + bytes([content[start] ^ 255]) + content[start + 1 :])
    with pytest.raises(CheckpointError, match="damaged"):
        read_torchscript_archive(flipped)
    for length in (0, 4, 100, len(content) // 2, len(content) - 1):
        flipped.write_bytes(content[:length])
        assert not is_torchscript_archive(flipped)
        with pytest.raises(CheckpointError, match="must be a whole TorchScript archive"):
            read_torchscript_archive(flipped)


def test_what_is_no_torchscript_archive_is_told(tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "foreign.zip", "w") as file:
        file.writestr("constants.pkl", b"")
        file.writestr("a/b/constants.pkl", b"")
    for name in ("plain.pth", "foreign.zip", "absent.pt"):
        assert not is_torchscript_archive(tmp_path / name)
