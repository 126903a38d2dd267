"""The shards of a job on a local Ray cluster of two workers: a killed one, bad clouds, Ray that is not there."""

import os
import signal
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from any2point_hf.large_collections.batch_inference import run_job
from any2point_hf.large_collections.job import BatchJob
from any2point_hf.large_collections.ray_engine import ShardWorker, run_with_ray
from any2point_hf.modeling import Any2PointConfig, Any2PointForPointCloudClassification
from any2point_hf.modeling.errors import Any2PointError
from any2point_hf.processing_any2point import Any2PointProcessor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),  # Ray warns of its own settings
]

COUNT = 16


@pytest.fixture(scope="module")
def cluster():
    """Two workers, each with a CPU; their tests' module is not importable there, so classes travel by value."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # a busy machine would starve nice ones
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    pytest.importorskip("ray.data", reason="the extra `ray` is not installed")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory, bert):
    folder = tmp_path_factory.mktemp("model")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Any2PointConfig(backbone=str(bert), num_points=64, num_neighbors=8, num_labels=3)
        Any2PointForPointCloudClassification(config).save_pretrained(folder)
    Any2PointProcessor(64).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder, generator = tmp_path_factory.mktemp("scans"), np.random.default_rng(0)
    for number in range(COUNT):
        np.save(folder / f"{number:02d}.npy", generator.normal(size=(60 + number, 3)).astype(np.float32))
    return folder


@pytest.fixture
def job(model, scans, tmp_path):
    def make(**changes):
        given = {"task": "predict", "model": str(model), "source": str(scans), "out": tmp_path / "ray.parquet"}
        return BatchJob(**{**given, "shard_size": 2, "batch_size": 2, **changes})

    return make


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_worker_killed_in_the_middle(cluster, job, tmp_path):
    run_job(alone := job(out=tmp_path / "alone.parquet"))

    class Killed(ShardWorker):
        """Dies at its first attempt at shard 4, and notes who makes which shard."""

        def __call__(self, row):
            was_killed = tmp_path / "killed"
            if row["item"] == 4 and not was_killed.exists():
                was_killed.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            if not self.shards.is_finished(row["item"]):
                (tmp_path / f"made {row['item']} by {os.getpid()}").touch()
            return super().__call__(row)

    made = job()
    assert run_with_ray(made, Killed) == {"clouds": COUNT, "skipped": 0}
    makers = [path.name.split()[1::2] for path in tmp_path.glob("made *")]
    assert sorted(int(shard) for shard, _ in makers) == list(range(8))  # each once
    killed = (tmp_path / "killed").read_text()
    assert dict(makers)["4"] != killed
    assert made.out.read_bytes() == alone.out.read_bytes()


def test_bad_clouds(cluster, job, scans, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("00.npy", "01.npy", "02.npy"):
        (folder / name).write_bytes((scans / name).read_bytes())
    (folder / "01.npy").write_bytes(b"not an array")
    made = job(source=str(folder), shard_size=4)
    with pytest.raises(Any2PointError, match=r"01\.npy cannot be read as \.npy: .* go on with --skip-bad") as error:
        run_job(made, engine="ray")
    assert "\n" not in str(error.value)
    skipping = job(source=str(folder), shard_size=4, skip_bad=True)
    assert run_job(skipping) == {"clouds": 2, "skipped": 1}  # either engine goes on with what the other began
    assert pq.read_table(made.out)["id"].to_pylist() == ["00.npy", "02.npy"]
    assert '"id": "01.npy"' in (tmp_path / "ray.bad.jsonl").read_text()
    assert run_job(skipping, engine="ray") == {"clouds": 2, "skipped": 1}


def test_without_ray(job, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Any2PointError, match=r'--engine ray needs Ray, .* Run: pip install "any2point-hf\[ray\]"'):
        run_job(job(), engine="ray")
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
