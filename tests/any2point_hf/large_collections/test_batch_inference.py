"""embed and predict over collections: the results, kills, bad clouds, other settings, several processes."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Array2D, ClassLabel, Dataset, Features, Value

from any2point_hf.large_collections import batch_inference
from any2point_hf.large_collections.batch_inference import run_job
from any2point_hf.large_collections.job import BatchJob, open_job
from any2point_hf.large_collections.shard_files import ShardFiles
from any2point_hf.modeling import Any2PointConfig, Any2PointForPointCloudClassification
from any2point_hf.modeling.errors import Any2PointError, CheckpointError, PointCloudError
from any2point_hf.processing_any2point import Any2PointProcessor
from any2point_hf.trained_adapter import load
from any2point_hf.training.output_lock import LOCK_FILE, output_lock

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*repeats are added"),  # of the plain forward that is compared with
]

NAMES = ["ball", "disc", "box"]
COUNT = 22


def make_clouds(count=COUNT):
    generator = np.random.default_rng(0)
    return [generator.normal(size=(50 + 10 * (number % 5), 3)).astype(np.float32) for number in range(count)]


@pytest.fixture(scope="module")
def model(tmp_path_factory, bert):
    """An adapter with random weights that tells three classes apart somehow."""
    folder = tmp_path_factory.mktemp("model")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Any2PointConfig(backbone=str(bert), num_points=64, num_neighbors=8, id2label=dict(enumerate(NAMES)))
        made = Any2PointForPointCloudClassification(config)
        processor = Any2PointProcessor(64)
        with torch.no_grad():
            torch.nn.init.normal_(made.classifier.output.weight, std=0.5)
            logits = made.eval()(**processor(make_clouds())).logits
            made.classifier.output.bias -= logits.mean(dim=0)  # or all clouds would be of one class
    made.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Clouds of 50 to 90 points, more and fewer than the model's, in an Arrow data set."""
    features = Features(points=Array2D((None, 3), "float32"), label=ClassLabel(names=NAMES), id=Value("string"))
    rows = {"points": make_clouds(), "label": [number % 3 for number in range(COUNT)]}
    rows["id"] = [f"cloud {number}" for number in range(COUNT)]
    folder = tmp_path_factory.mktemp("source") / "clouds"
    Dataset.from_dict(rows, features=features).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def expected(model):
    """Pooled features and probabilities of each cloud, by the plain forward of one cloud."""
    loaded, processor = load(str(model))
    with torch.no_grad():
        outputs = [loaded(**processor(cloud)) for cloud in make_clouds()]
    features = torch.cat([output.pooler_output for output in outputs]).numpy()
    return features, torch.cat([output.logits for output in outputs]).softmax(dim=-1).numpy()


@pytest.fixture
def job(model, source, tmp_path):
    def make(**changes):
        given = {"task": "embed", "model": str(model), "source": str(source), "out": tmp_path / "out.parquet"}
        return BatchJob(**{**given, "shard_size": 4, "batch_size": 3, **changes})

    return make


@pytest.fixture
def scans(tmp_path):
    """A folder of six files, of which one is cut off and one has too few points."""
    folder = tmp_path / "scans"
    for number, cloud in enumerate(make_clouds(6)):
        (folder / f"room {number % 2}").mkdir(parents=True, exist_ok=True)
        np.save(folder / f"room {number % 2}" / f"{number}.npy", cloud)
    damaged = folder / "room 1" / "3.npy"
    damaged.write_bytes(damaged.read_bytes()[:90])
    np.save(folder / "room 0" / "2.npy", np.ones((80, 3), np.float32))
    return folder


def embeddings(path):
    return np.stack(pq.read_table(path)["embedding"].to_numpy())


@pytest.mark.parametrize(("shard_size", "batch_size", "workers"), [(1024, 32, 0), (5, 2, 0), (8, 3, 1)])
def test_embeddings_equal_the_plain_forward(job, expected, shard_size, batch_size, workers):
    made = job(shard_size=shard_size, batch_size=batch_size, workers=workers)
    assert run_job(made) == {"clouds": COUNT, "skipped": 0}
    table = pq.read_table(made.out)
    assert table.column_names == ["id", "embedding", "label"]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 96)
    assert table["id"].to_pylist() == [f"cloud {number}" for number in range(COUNT)]
    assert table["label"].to_pylist() == [NAMES[number % 3] for number in range(COUNT)]
    assert np.abs(embeddings(made.out) - expected[0]).max() < 1e-5
    assert np.abs(expected[0][0] - expected[0][1]).max() > 0.01  # so that a mix-up of rows would show
    assert pq.ParquetFile(made.out).num_row_groups == -(-COUNT // shard_size)
    assert [path.name for path in made.out.parent.iterdir()] == ["out.parquet"]


def test_two_runs_on_one_output(job, model, tmp_path):
    made = job()
    with output_lock(shards := tmp_path / "out.parquet.shards"):
        with pytest.raises(Any2PointError, match=rf"must have one run at a time, and process {os.getpid()} on"):
            run_job(made)
        assert [path.name for path in shards.iterdir()] == [LOCK_FILE]
    run_job(made)
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
    with output_lock(shards):
        assert run_job(made)["clouds"] == COUNT  # it is complete, and nothing is written


def test_another_run_ended_while_this_one_began(job, monkeypatch):
    def open_and_be_overtaken(asked):
        opened = open_job(asked)
        if asked.shard_size == 4:
            run_job(job(shard_size=8))
        return opened

    monkeypatch.setattr(batch_inference, "open_job", open_and_be_overtaken)
    with pytest.raises(Any2PointError, match="of a run with other settings, these differ: shard_size was 8, is 4"):
        run_job(job())


@pytest.mark.parametrize("shard_size", [1024, 5])
def test_predictions_equal_the_plain_forward(job, expected, shard_size):
    made = job(task="predict", top=2, shard_size=shard_size)
    assert run_job(made) == {"clouds": COUNT, "skipped": 0}
    table = pq.read_table(made.out)
    assert table.column_names == ["id", "label", "probability", "top", "true_label"]
    assert table["true_label"].to_pylist() == [NAMES[number % 3] for number in range(COUNT)]
    for row, probabilities in zip(table.to_pylist(), expected[1], strict=True):
        order = probabilities.argsort()[::-1]
        assert [entry["label"] for entry in row["top"]] == [NAMES[index] for index in order[:2]]
        assert [entry["probability"] for entry in row["top"]] == pytest.approx(probabilities[order[:2]], abs=1e-5)
        assert (row["label"], row["probability"]) == tuple(row["top"][0].values())
    assert len(set(table["label"].to_pylist())) > 1


def test_a_cloud_with_a_far_point_is_bad_and_named(job, tmp_path):
    (folder := tmp_path / "scans").mkdir()
    for number, cloud in enumerate(make_clouds(3)):
        cloud[-1] *= 1e7 if number == 1 else 1
        np.save(folder / f"{number}.npy", cloud)
    with pytest.raises(PointCloudError, match=r"1\.npy must not have points far from all others.*--skip-bad"):
        run_job(job(source=str(folder)))
    made = job(source=str(folder), skip_bad=True)
    assert run_job(made) == {"clouds": 2, "skipped": 1}
    assert pq.read_table(made.out)["id"].to_pylist() == ["0.npy", "2.npy"]


@pytest.fixture
def depth_images(tmp_path):
    """A folder of five clouds, one with rows of NaN and one with many points at the origin; and their clean points."""
    clouds = [np.random.default_rng(number).normal(size=(90, 3)).astype(np.float32) for number in range(5)]
    clean = [*clouds[:1], clouds[1][30:], *clouds[2:3], clouds[3][7:], *clouds[4:]]
    clouds[1][:30], clouds[3][:7] = 0, np.nan
    folder = tmp_path / "depth"
    folder.mkdir()
    for number, cloud in enumerate(clouds):
        np.save(folder / f"{number}.npy", cloud)
    return folder, clean


def test_invalid_points_are_dropped_and_counted(job, model, depth_images):
    folder, clean = depth_images
    with pytest.raises(PointCloudError, match=r"1\.npy must not have more than a quarter .*--drop-invalid"):
        run_job(job(source=str(folder)))
    shutil.rmtree(job().out.with_name("out.parquet.shards"), ignore_errors=True)
    made = job(source=str(folder), drop_invalid=True)
    counts = {"clouds": 5, "skipped": 0, "dropped_points": 37, "clouds_with_dropped_points": 2}
    assert run_job(made) == run_job(made) == counts
    table = pq.read_table(made.out)
    assert table.column_names == ["id", "embedding", "dropped_points"]
    assert table["dropped_points"].to_pylist() == [0, 30, 0, 7, 0]
    loaded, processor = load(str(model))
    with torch.no_grad():
        features = loaded(**processor(clean)).pooler_output.numpy()
    assert np.abs(embeddings(made.out) - features).max() < 1e-5
    with pytest.raises(Any2PointError, match="these differ: drop_invalid was True, is None"):
        run_job(job(source=str(folder)))


def test_a_processor_that_drops_needs_no_option(job, model, depth_images, tmp_path):
    shutil.copytree(model, tmp_path / "dropping")
    Any2PointProcessor(64, drop_invalid=True).save_pretrained(tmp_path / "dropping")
    made = job(source=str(depth_images[0]), model=str(tmp_path / "dropping"), task="predict")
    assert run_job(made)["dropped_points"] == 37


def test_a_job_of_before_there_was_drop_invalid_goes_on(job):
    run_job(made := job())
    settings = json.loads(pq.read_schema(made.out).metadata[b"any2point_run"])
    assert "drop_invalid" not in settings
    with pytest.raises(Any2PointError, match="these differ: drop_invalid was None, is True"):
        run_job(dataclasses.replace(made, drop_invalid=True))


def test_more_classes_are_asked_for_than_there_are(job):
    run_job(made := job(task="predict", top=9))
    assert [len(row) for row in pq.read_table(made.out)["top"].to_pylist()] == [3] * COUNT


def note_shards(monkeypatch, stop_at=None):
    """The shards that are made, and their files' times just before they are joined; stops as Ctrl+C would."""
    run_shard, join = batch_inference.run_shard, ShardFiles.join
    made, times = [], {}

    def noting(*arguments):
        if arguments[-1] == stop_at:
            raise KeyboardInterrupt
        made.append(arguments[-1])
        run_shard(*arguments)

    def noting_join(shards):
        times.update({path.name: path.stat().st_mtime_ns for path in shards.folder.glob("*.parquet")})
        join(shards)

    monkeypatch.setattr(batch_inference, "run_shard", noting)
    monkeypatch.setattr(ShardFiles, "join", noting_join)
    return made, times


def test_a_stopped_run_goes_on_without_repeating_a_shard(job, tmp_path, monkeypatch):
    run_job(whole := job(out=tmp_path / "whole.parquet"))
    stopped = job()
    with monkeypatch.context() as patch:
        note_shards(patch, stop_at=2)
        with pytest.raises(KeyboardInterrupt):
            run_job(stopped)
    folder = tmp_path / "out.parquet.shards"
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    assert sorted(before) == ["00000.parquet", "00001.parquet"]
    assert not stopped.out.exists()
    with monkeypatch.context() as patch:
        made, times = note_shards(patch)
        run_job(stopped)
    assert made == [2, 3, 4, 5]
    assert {name: times[name] for name in before} == before
    assert stopped.out.read_bytes() == whole.out.read_bytes()
    assert not folder.exists()


KILLED = """
import os, signal, sys
import pyarrow.parquet as pq
from any2point_hf.large_collections import shard_files
from any2point_hf.large_collections.batch_inference import run_job
from any2point_hf.large_collections.job import BatchJob

class KillingParquet:
    calls = 0
    def write_table(self, table, where, **options):
        self.calls += 1
        if self.calls == 3:
            where.write_bytes(b"PAR1 half a file")
            os.kill(os.getpid(), signal.SIGKILL)
        pq.write_table(table, where, **options)

shard_files.pq = KillingParquet()
run_job(BatchJob("embed", *sys.argv[1:4], shard_size=4, batch_size=3))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_process_killed_while_it_writes(job, tmp_path, monkeypatch, subprocess_environment):
    run_job(whole := job(out=tmp_path / "whole.parquet"))
    killed = job()
    command = [sys.executable, "-c", KILLED, killed.model, killed.source, str(killed.out)]
    result = subprocess.run(command, env=subprocess_environment, capture_output=True, check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()
    assert len(list((tmp_path / "out.parquet.shards").glob("*.parquet"))) == 2
    assert len(list((tmp_path / "out.parquet.shards").glob("*.tmp"))) == 1
    made, _ = note_shards(monkeypatch)
    run_job(killed)
    assert made == [2, 3, 4, 5]
    assert killed.out.read_bytes() == whole.out.read_bytes()


def test_a_complete_run_is_left_as_it_is(job, tmp_path, monkeypatch):
    run_job(made := job())
    before = made.out.stat().st_mtime_ns
    leftover = tmp_path / "out.parquet.shards"  # of a kill between the last two steps
    leftover.mkdir()
    (leftover / "00003.parquet").write_bytes(b"")
    monkeypatch.setattr(batch_inference, "load_model", None)
    assert run_job(made) == {"clouds": COUNT, "skipped": 0}
    assert made.out.stat().st_mtime_ns == before
    assert not leftover.exists()
    with pytest.raises(Any2PointError, match=r"out\.parquet is of a run with other settings, these differ: task was"):
        run_job(job(task="predict"))
    pq.write_table(pa.table({"id": ["of someone else"]}), made.out)
    with pytest.raises(Any2PointError, match=r"out\.parquet exists and is no output of such a run"):
        run_job(made)
    assert pq.read_table(made.out)["id"].to_pylist() == ["of someone else"]


def test_a_moved_adapter_goes_on_and_a_run_that_finished_nothing_binds_nobody(job, model, tmp_path, monkeypatch):
    begun = job(model=str(shutil.copytree(model, tmp_path / "other_model")))
    with monkeypatch.context() as patch:
        note_shards(patch, stop_at=0)
        with pytest.raises(KeyboardInterrupt):
            run_job(begun)
    begun = dataclasses.replace(begun, shard_size=5)
    with monkeypatch.context() as patch:
        note_shards(patch, stop_at=1)
        with pytest.raises(KeyboardInterrupt):
            run_job(begun)
    assert run_job(dataclasses.replace(begun, model=str(model)))["clouds"] == COUNT


def test_shards_of_other_settings_are_not_mixed(job, model, source, bert, tmp_path, monkeypatch):
    other_model = shutil.copytree(model, tmp_path / "other_model")
    other_source = shutil.copytree(source, tmp_path / "other_source")
    begun = job(model=str(other_model), source=str(other_source))
    with monkeypatch.context() as patch:
        note_shards(patch, stop_at=1)
        with pytest.raises(KeyboardInterrupt):
            run_job(begun)

    def differs(changed, **changes):
        with pytest.raises(
            Any2PointError, match=rf"other settings, these differ: {changed} was [^,]*, is [^,]*\. Give"
        ):
            run_job(dataclasses.replace(begun, **changes))

    differs("shard_size", shard_size=5)
    differs("backbone", backbone=str(shutil.copytree(bert, tmp_path / "copied_bert")))
    with pytest.raises(Any2PointError, match="task was 'embed', is 'predict', top was None, is 3"):
        run_job(dataclasses.replace(begun, task="predict"))
    config = json.loads((other_model / "preprocessor_config.json").read_text())
    (other_model / "preprocessor_config.json").write_text(json.dumps({**config, "num_points": 65}))
    differs("adapter")
    (other_model / "preprocessor_config.json").write_bytes((model / "preprocessor_config.json").read_bytes())
    (arrow,) = other_source.glob("*.arrow")
    state = arrow.stat()
    os.utime(arrow, ns=(0, 0))
    differs("source_fingerprint")
    os.utime(arrow, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert run_job(dataclasses.replace(begun, batch_size=7, workers=0)) == {"clouds": COUNT, "skipped": 0}


def test_the_first_bad_cloud_ends_the_run(job, scans, tmp_path):
    made = job(source=str(scans), shard_size=1)
    with pytest.raises(PointCloudError) as error:
        run_job(made)
    message = str(error.value)
    assert "\n" not in message
    assert f"{Path('room 0', '2.npy')} must have at least 8 distinct points, got 1 (of 80 points)" in message
    assert f"Finished shards are kept in {tmp_path / 'out.parquet.shards'}; go on with --skip-bad" in message
    assert sorted(path.name for path in (tmp_path / "out.parquet.shards").iterdir()) == ["00000.parquet", "run.json"]
    assert not made.out.exists()


@pytest.mark.parametrize("shard_size", [1, 4, 100])
def test_bad_clouds_are_listed_and_skipped(job, scans, expected, tmp_path, shard_size):
    made = job(source=str(scans), shard_size=shard_size, skip_bad=True)
    with pytest.raises(PointCloudError):
        run_job(dataclasses.replace(made, skip_bad=False))
    assert run_job(made) == {"clouds": 4, "skipped": 2}
    table = pq.read_table(made.out)
    assert table.column_names == ["id", "embedding"]
    assert table["id"].to_pylist() == ["room 0/0.npy", "room 0/4.npy", "room 1/1.npy", "room 1/5.npy"]
    assert np.abs(embeddings(made.out) - expected[0][[0, 4, 1, 5]]).max() < 1e-5
    bad = [json.loads(line) for line in (tmp_path / "out.bad.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [entry["id"] for entry in bad] == ["room 0/2.npy", "room 1/3.npy"]
    assert "at least 8 distinct points" in bad[0]["reason"]
    assert "cannot be read as .npy" in bad[1]["reason"]
    assert not (tmp_path / "out.parquet.shards").exists()


def test_what_was_skipped_is_not_forgotten(job, scans, tmp_path, monkeypatch):
    made = job(source=str(scans), shard_size=3, skip_bad=True)
    with monkeypatch.context() as patch:
        note_shards(patch, stop_at=1)
        with pytest.raises(KeyboardInterrupt):
            run_job(made)
    with pytest.raises(PointCloudError, match=r"finished shards skipped bad clouds: .*2\.npy must .* with --skip-bad"):
        run_job(dataclasses.replace(made, skip_bad=False))
    assert run_job(made) == {"clouds": 4, "skipped": 2}
    (tmp_path / "out.parquet").unlink()
    shutil.rmtree(scans / "room 1")
    (scans / "room 0" / "2.npy").unlink()
    assert run_job(made) == {"clouds": 2, "skipped": 0}
    assert not (tmp_path / "out.bad.jsonl").exists()  # the report of the earlier run


@pytest.mark.parametrize("task", ["embed", "predict"])
def test_nothing_but_bad_clouds(job, tmp_path, task):
    (tmp_path / "scans").mkdir()
    for name in "abc":
        (tmp_path / "scans" / f"{name}.xyz").write_text("1 2 3\n")
    made = job(task=task, source=str(tmp_path / "scans"), shard_size=2, skip_bad=True)
    for _ in range(2):
        with pytest.raises(Any2PointError, match=r"not one cloud of .*scans can be used: see .*out\.bad\.jsonl"):
            run_job(made)
        assert len((tmp_path / "out.bad.jsonl").read_text().splitlines()) == 3
        assert not made.out.exists()


PROCESS = """
import sys
from accelerate import PartialState
from any2point_hf.large_collections import batch_inference
from any2point_hf.large_collections.job import BatchJob

run_shard = batch_inference.run_shard
def noting(*arguments):
    run_shard(*arguments)
    with open(sys.argv[4], "a") as file:
        file.write(f"{PartialState().process_index} {PartialState().num_processes} {arguments[-1]}\\n")

batch_inference.run_shard = noting
batch_inference.run_job(BatchJob("embed", *sys.argv[1:4], shard_size=4, batch_size=3))
"""


def test_two_processes_give_the_same_as_one(job, tmp_path, monkeypatch, subprocess_environment):
    run_job(whole := job(out=tmp_path / "whole.parquet"))
    shared = job()
    with monkeypatch.context() as patch:
        note_shards(patch, stop_at=1)
        with pytest.raises(KeyboardInterrupt):
            run_job(shared)
    (tmp_path / "process.py").write_text(PROCESS)
    arguments = [tmp_path / "process.py", shared.model, shared.source, shared.out, tmp_path / "made.txt"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *map(str, arguments)]
    result = subprocess.run(command, env=subprocess_environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    made = sorted((tmp_path / "made.txt").read_text().splitlines())
    assert made == ["0 2 1", "0 2 3", "0 2 5", "1 2 2", "1 2 4"]
    assert shared.out.read_bytes() == whole.out.read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "train"}, "task must be one of embed, predict, segment, got 'train'"),
        ({"top": 0}, "top must be at least 1, got 0"),
        ({"shard_size": 0}, "shard_size must be at least 1"),
        ({"batch_size": -1}, "batch_size must be at least 1"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"out": Path("features.csv")}, r"--out must be a file that ends in \.parquet or \.index, got 'features\.csv'"),
    ],
)
def test_settings_out_of_range(job, changes, message):
    with pytest.raises(Any2PointError, match=message):
        job(**changes)


def test_what_cannot_be_run(job, source, tmp_path):
    with pytest.raises(Any2PointError, match="--engine must be one of accelerate, ray, got 'dask'"):
        run_job(job(), engine="dask")
    with pytest.raises(Any2PointError, match="--out must lie outside of the folder that is read"):
        run_job(job(out=source / "out.parquet"))
    with pytest.raises(CheckpointError, match="an adapter must be a folder or Hub repository with"):
        run_job(job(model=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []
