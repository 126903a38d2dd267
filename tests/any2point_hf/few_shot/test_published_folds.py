"""The field's pickles are read as they are; nothing that a pickle names is run."""

import io
import pickle
import re
import tracemalloc

import numpy as np
import pytest

from any2point_hf.few_shot.folds import open_folds
from any2point_hf.few_shot.published_folds import is_published_folds, read_plain_pickle, read_published_fold
from any2point_hf.modeling.errors import Any2PointError, DatasetError

SHOTS, CLASSES = 3, (8, 30)  # chair and sofa


def make_rows(count, columns=6, dtype=np.float32, seed=0):
    generator = np.random.default_rng(seed)
    return [
        (generator.normal(size=(16, columns)).astype(dtype), label, np.int32(number))
        for label, number in enumerate(CLASSES)
        for _ in range(count)
    ]


def write(folder, content, protocol=4):
    path = folder / "2way_3shot" / "0.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


def read(folder):
    return read_published_fold(folder, 2, SHOTS, 0)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(("columns", "dtype"), [(6, np.float32), (3, np.float64), (3, ">f4")])
def test_every_protocol_gives_the_same_clouds(tmp_path, protocol, columns, dtype):
    content = {"train": make_rows(SHOTS, columns, dtype), "test": make_rows(4, columns, dtype, seed=1)}
    write(tmp_path, content, protocol)
    fold = read(tmp_path)
    assert fold["train"].features["label"].names == ["chair", "sofa"]
    assert fold["test"]["label"] == [0] * 4 + [1] * 4
    for part, rows in content.items():
        for cloud, (points, *_) in zip(fold[part].with_format("numpy")["points"], rows, strict=True):
            np.testing.assert_array_equal(cloud, points[:, :3].astype(np.float32))


def test_arrays_of_every_kind_of_number_and_order(tmp_path):
    arrays = [np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(3, dtype=">i2"), np.zeros((0, 3)), np.array(5)]
    for protocol in (2, 4, 5):
        path = write(tmp_path, arrays, protocol)
        for found, array in zip(read_plain_pickle(path), arrays, strict=True):
            np.testing.assert_array_equal(found.array(), array)


def test_their_folder_is_recognised(tmp_path):
    assert not is_published_folds(tmp_path)
    write(tmp_path, {"train": make_rows(SHOTS), "test": make_rows(2)})
    assert is_published_folds(tmp_path)
    assert not is_published_folds(tmp_path / "2way_3shot")
    assert len(open_folds(str(tmp_path))(2, SHOTS, 0)["train"]) == 6
    with pytest.raises(DatasetError, match=r"must be a file .*1\.pkl, and there is none.*2way_3shot"):
        read_published_fold(tmp_path, 2, SHOTS, 1)


class Runs:
    """Pickled, it is a call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def refused_calls(marker):
    import os
    import subprocess

    yield os.mkdir, (str(marker),), f"{os.mkdir.__module__}.mkdir"
    yield eval, (f"open({str(marker)!r}, 'w')",), "builtins.eval"
    yield getattr, ("", "join"), "builtins.getattr"
    yield subprocess.check_call, (["true"],), "subprocess.check_call"
    yield np.load, (str(marker),), "numpy.load"
    yield np.fromfile, (str(marker),), "numpy.fromfile"


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_nothing_is_run(tmp_path, number, protocol):
    function, arguments, name = list(refused_calls(tmp_path / "was_run"))[number]
    write(tmp_path, {"train": Runs(function, *arguments), "test": []}, protocol)
    said = r"names '(\S+)', which was not run\. Do not trust this file"
    with pytest.raises(DatasetError, match=said) as refusal:
        read(tmp_path)
    named = re.search(said, str(refusal.value)).group(1)
    assert named.replace("__builtin__", "builtins").partition(".")[2] == name.partition(".")[2]
    assert str(tmp_path) in str(refusal.value)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    "value",
    [np.array([{}, None], dtype=object), np.array(["a"]), np.array([(1, 2.0)], dtype="i4,f4"), np.array([1 + 2j])],
    ids=["objects", "strings", "records", "complex"],
)
def test_arrays_of_anything_but_numbers(tmp_path, value):
    with pytest.raises(DatasetError, match=r"must (hold|name only) arrays of numbers"):
        read_plain_pickle(write(tmp_path, [value]))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps({"train": make_rows(3)})[:-200],
        b"\x80\x04r\xff\xff\xff\xff.",  # a memo of four billion
        b"\x80\x05\x96" + (1 << 60).to_bytes(8, "little") + b"x.",  # an array of an exabyte
        b"\x80\x04\x8e" + (1 << 60).to_bytes(8, "little") + b"x.",
    ],
)
def test_damaged_files(tmp_path, content):
    with pytest.raises(DatasetError, match="damaged or no pickle of arrays"):
        read(write(tmp_path, content).parent.parent)


def test_an_array_larger_than_its_bytes(tmp_path):
    written = pickle.dumps(np.zeros((7, 3), dtype=np.float64), 2)
    assert written.count(b"K\x07K\x03") == 1  # the shape
    with pytest.raises(DatasetError, match=r"an array of float64 \[200, 3\] must have as many bytes, got 168"):
        read_plain_pickle(write(tmp_path, written.replace(b"K\x07K\x03", b"K\xc8K\x03")))


def change(**parts):
    return {"train": make_rows(SHOTS), "test": make_rows(2)} | parts


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "must be a dictionary with train and test, got list"),
        ({"train": make_rows(SHOTS)}, "must be a dictionary with train and test"),
        (change(test={}), "test must be a list of"),
        (change(test=[]), "test must be a list of"),
        (change(test=[1]), r"test\[0\] must be \(points, label, class\), got int"),
        (change(test=[(5, 0, 8)]), r"must begin with points \[n, 3\] or \[n, 6\], got int"),
        (change(test=[(np.zeros((9, 4)), 0, 8)]), r"got ndarray \[9, 4\]"),
        (change(test=[(np.ones((9, 3)), 2, 8)]), "a label in 0…1 and a class in 0…39, got 2 and 8"),
        (change(test=[(np.ones((9, 3)), 0, 40)]), "got 0 and 40"),
        (change(test=[(np.ones((9, 3)), 0.5, 8)]), "must have integers as label and class, got float"),
        (change(test=[(np.random.rand(9, 3), 0, 9)]), "label 0 must be one class, got chair and class 9"),
        (change(test=[(np.ones((9, 3)), 0, 8)]), "at least 8 distinct points"),
        (change(test=[(np.full((9, 3), np.nan), 0, 8)]), "must be finite"),
        (change(train=make_rows(2)), r"3 training clouds of each of 2 classes, got \[2, 2\]"),
        (change(train=make_rows(3)[:3]), r"got \[3, 0\]"),
    ],
)
def test_other_layouts(tmp_path, content, said):
    with pytest.raises(Any2PointError, match=said):
        read(write(tmp_path, content).parent.parent)


def test_one_cloud_named_many_times(tmp_path):
    row = (np.random.default_rng(0).normal(size=(64, 3)), 0, 8)
    with pytest.raises(DatasetError, match="train repeats clouds"):
        read(write(tmp_path, change(train=[row] * 1000)).parent.parent)


MEGABYTE = 1 << 20


def many_calls(text, module, function, arguments, count=64):
    """A pickle that names one megabyte and calls a function with it again and again."""
    named = f"c{module}\n{function}\n".encode()
    return b"\x80\x04" + text + b"q\x00" + named + b"q\x01]" + (b"h\x01(h\x00" + arguments + b"tRa") * count + b"."


def test_bytes_named_many_times_take_memory_once(tmp_path):
    size = MEGABYTE.to_bytes(4, "little")
    kind_and_shape = b"cnumpy\ndtype\nX\x02\0\0\0i1\x85RJ" + size + b"\x85X\x01\0\0\0C"
    arrays = many_calls(b"B" + size + bytes(MEGABYTE), "numpy.core.numeric", "_frombuffer", kind_and_shape)
    texts = many_calls(b"X" + size + b"a" * MEGABYTE, "_codecs", "encode", b"X\x06\0\0\0latin1")
    paths = [write(tmp_path / name, content) for name, content in (("arrays", arrays), ("texts", texts))]
    tracemalloc.start()
    try:
        assert len(read_plain_pickle(paths[0])) == 64
        with pytest.raises(DatasetError, match="it repeats them"):
            read_plain_pickle(paths[1])
        assert tracemalloc.get_traced_memory()[1] < 8 * MEGABYTE
    finally:
        tracemalloc.stop()


def nested(depth, inner=0):
    for _ in range(depth):
        inner = [inner] * 10
    return inner


class Elsewhere(pickle.Pickler):
    """Says that a list is kept elsewhere, by a name that is long when it is written out."""

    def persistent_id(self, value):
        return nested(6) if value == ["elsewhere"] else None


def test_lists_that_hold_one_list_many_times_are_not_spread_out(tmp_path):
    content = change(test=[(np.random.rand(9, 3), nested(6), 8)])
    with pytest.raises(DatasetError, match="must have integers as label and class, got list"):
        read(write(tmp_path, content).parent.parent)
    Elsewhere(written := io.BytesIO(), 4).dump([["elsewhere"]])
    with pytest.raises(DatasetError) as refusal:
        read_plain_pickle(write(tmp_path, written.getvalue()))
    assert len(str(refusal.value)) < 400


def test_what_a_pickle_names_stays_as_it_is(tmp_path):
    state = b"N}X\x0c\0\0\0__defaults__X\x04\0\0\0junk\x85s\x86b."
    for name in ("c_codecs\nencode\n", "cnumpy.core.multiarray\nscalar\n", "cbuiltins\nbytes\n"):
        with pytest.raises(DatasetError, match="it changes it"):
            read_plain_pickle(write(tmp_path, b"\x80\x04" + name.encode() + state))


def test_an_array_that_was_never_begun(tmp_path):
    row = b"cnumpy\nndarray\n)\x81K\0K\x08\x87"
    write(tmp_path, b"\x80\x04}X\x05\0\0\0train](" + row + b"esX\x04\0\0\0test]s.")
    with pytest.raises(DatasetError, match="never filled"):
        read(tmp_path)
