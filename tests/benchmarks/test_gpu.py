"""`benchmarks/gpu.py` at a tiny size on a CPU: packing, a whole run, resuming, failures, and the pairing of rows."""

import json
import queue
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROWS = ("no backbone", "full", "full, scaled start")  # of the plan "dry-run"
KEYS = {f"dry run|{row}|{which}|0" for row in ROWS[1:] for which in ("pretrained", "permuted")}
KEYS |= {"dry run|no backbone||0"}

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture
def gpu(monkeypatch):
    """The command's module, and what it changes of this process taken back."""
    for name, value in {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    import gpu

    return gpu


def write_data(path, num_train=24, num_test=10, num_points=90):
    """Balls and discs in the layout of ModelNet10's packed file."""
    generator = np.random.default_rng(0)
    labels = np.arange(num_train + num_test) % 2
    points = generator.normal(size=(len(labels), num_points, 3))
    points[labels == 1, :, 2] *= 0.05
    np.savez(
        path,
        points=points.astype(np.float32),
        labels=labels,
        split=(np.arange(len(labels)) >= num_train).astype(np.int64),
        class_names=np.array(["ball", "disc"]),
    )
    return path


@pytest.fixture(scope="module")
def inputs(bert, tmp_path_factory):
    """What `pack` writes, by the names that the plans take."""
    folder = tmp_path_factory.mktemp("gpu")
    data = write_data(folder / "modelnet10_1024.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        from gpu_run.inputs import pack

        pack(folder / "packed", [data], {"minilm": str(bert)}, 80)
    return folder / "packed"


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory, subprocess_environment):
    """The folder that a whole run left, and what it printed."""
    out = tmp_path_factory.mktemp("run")
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--inputs", str(inputs), "--out", str(out)]
    options = ("--device", "cpu", "--quick", "--plan", "dry-run", "--minutes", "9", "--seeds", "0", "--processes", "1")
    process = subprocess.run(
        [*command, *options], env=subprocess_environment, capture_output=True, text=True, timeout=570
    )
    assert process.returncode == 0, process.stderr
    return out, process


# Packing


def test_packed_clouds_are_half_precision_prefixes_in_farthest_point_order(gpu, inputs, tmp_path):
    from gpu_run.inputs import load_clouds, sampled

    with np.load(inputs / "modelnet10_1024.npz") as packed:
        assert packed["points"].dtype == np.float16
        assert packed["points"].shape == (34, 80, 3)
        assert list(packed["class_names"]) == ["ball", "disc"]
    clouds = load_clouds(inputs / "modelnet10_1024.npz", "cpu")
    assert {name: tuple(points.shape) for name, (points, _) in clouds.items()} == {
        "train": (24, 80, 3),
        "test": (10, 80, 3),
    }
    points, labels = clouds["train"]
    assert points.dtype == torch.float32
    torch.testing.assert_close(points.norm(dim=-1).amax(dim=1), torch.ones(24))
    assert points.mean(dim=1).abs().max() < 1e-6
    assert labels.tolist() == [0, 1] * 12
    with np.load(inputs.parent / "modelnet10_1024.npz") as own, np.load(inputs / "modelnet10_1024.npz") as packed:
        exact = torch.from_numpy(own["points"])
        assert torch.equal(sampled(exact, 32), sampled(exact, 80)[:, :32])  # fewer points are the first ones
        np.testing.assert_allclose(packed["points"], sampled(exact, 80).numpy(), rtol=1e-3, atol=1e-6)


def test_packed_backbones_are_small_and_the_same_but_for_their_words(gpu, inputs, bert):
    from gpu_run.inputs import load_packed_backbone

    packed, own = load_packed_backbone(inputs, "minilm"), AutoModel.from_pretrained(bert)
    assert {parameter.dtype for parameter in packed.parameters()} == {torch.float32}
    theirs = packed.state_dict()
    for name, tensor in own.state_dict().items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_vocabulary_is_cut(gpu, bert, tmp_path, monkeypatch):
    from gpu_run import inputs

    monkeypatch.setattr(inputs, "_WORDS", 20)
    inputs.pack(tmp_path, [], {"cut": str(bert)}, 80)
    assert inputs.load_packed_backbone(tmp_path, "cut").get_input_embeddings().weight.shape == (20, 48)


def test_as_many_clouds_of_every_class(gpu):
    from gpu_run.inputs import balanced

    labels = torch.tensor([0] * 9 + [1] * 3 + [2] * 20)
    rows = balanced(labels, 4)
    assert labels[rows].bincount().tolist() == [4, 3, 4]
    assert len(rows.unique()) == 11
    assert torch.equal(balanced(labels, 4), rows)


# A whole run


def test_a_run_writes_json_and_tables(finished):
    out, process = finished
    records = json.loads((out / "training.json").read_text())["records"]
    assert records.keys() == KEYS
    for key, record in records.items():
        assert record["finished"], key
        assert 0 <= record["accuracy"] <= 1
        assert record["history"][-1]["step"] == 1  # 8 clouds are a batch
        assert np.isfinite(record["history"][-1]["loss"])
        assert record["trained_parameters"] > 0
    table = (out / "training.md").read_text()
    assert table.startswith("### dry run\n")
    assert [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")][2:] == [
        *("| no backbone", "| full, pretrained", "| full, permuted"),
        *("| full, scaled start, pretrained", "| full, scaled start, permuted"),
    ]
    assert "0 of 3 seeds" not in table.splitlines()[5]  # no backbone is above nothing
    assert "1 of 3 seeds" in table
    assert "not finished" not in table
    assert "training.json" not in process.stderr


def test_a_run_writes_ratios_and_the_environment(finished):
    out, _ = finished
    ratios = json.loads((out / "ratios.json").read_text())
    assert [(row["mode"], row["batch"]) for row in ratios if "ratio" in row] == [("train", 2), ("eval", 2)]
    assert all(row["ratio"]["median"] > 0 for row in ratios if "ratio" in row)
    assert not [row for row in ratios if "failed" in row]
    assert len([row for row in ratios if "parts" in row]) == 2
    table = (out / "ratios.md").read_text()
    assert table.startswith("| ")
    assert "Parts, tiny, train" in table
    assert json.loads((out / "environment.json").read_text())["threads"] == 1
    tests = (out / "tests.txt").read_text()  # a CPU runs none of tests/gpu
    assert "skipped" in tests or "stopped after 90 s" in tests


# Resuming


def run_here(gpu, monkeypatch, inputs, out, *options):
    """The command in this process, with the jobs that it would have run."""
    jobs = []

    def run_jobs(left, folder, device, seconds, processes, streams, keep):
        jobs.extend(left)
        for job in left:
            keep({"settings": job.settings(), "accuracy": 0.5, "finished": True, "seconds": 1, "trained_parameters": 1})

    monkeypatch.setattr("gpu_run.queue.run_jobs", run_jobs)
    arguments = ["gpu.py", "--inputs", str(inputs), "--out", str(out), "--device", "cpu", "--parts", "training"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--seeds", "0", *options])
    gpu.main()
    return jobs, json.loads((out / "training.json").read_text())


def test_resuming_trains_nothing_twice(gpu, finished, inputs, tmp_path, monkeypatch):
    earlier = json.loads((finished[0] / "training.json").read_text())
    options = ("--plan", "dry-run", "--resume", str(finished[0]))
    jobs, found = run_here(gpu, monkeypatch, inputs, tmp_path, *options)
    assert jobs == []
    assert found == earlier
    assert (tmp_path / "training.md").read_text() == (finished[0] / "training.md").read_text()


def test_resuming_trains_what_failed_or_is_not_finished(gpu, finished, inputs, tmp_path, monkeypatch):
    earlier = json.loads((finished[0] / "training.json").read_text())
    earlier["records"]["dry run|full|pretrained|0"]["finished"] = False
    failed = {"settings": earlier["records"]["dry run|full|permuted|0"]["settings"], "failed": "RuntimeError"}
    earlier["records"]["dry run|full|permuted|0"] = failed
    (tmp_path / "training.json").write_text(json.dumps(earlier))
    options = ("--plan", "dry-run", "--resume", str(tmp_path))
    jobs, found = run_here(gpu, monkeypatch, inputs, tmp_path, *options)
    assert [job.key() for job in jobs] == ["dry run|full|pretrained|0", "dry run|full|permuted|0"]
    assert found["records"].keys() == KEYS
    assert all(record["finished"] for record in found["records"].values())


def test_resuming_keeps_the_epochs(gpu, inputs, tmp_path, monkeypatch):
    from gpu_run import plans

    def open_ended(seeds):
        return [replace(job, epochs=0) for job in plans.dry_run(seeds)]

    monkeypatch.setitem(plans.PLANS, "open", open_ended)
    monkeypatch.setattr("gpu_run.queue.steps_a_second", lambda *_: 1000.0)
    jobs, found = run_here(gpu, monkeypatch, inputs, tmp_path, "--plan", "open", "--minutes", "3", "--processes", "2")
    # 85 % of 2 processes' steps in the time, that is 3 minutes without 20/9 s a minute, over five jobs' steps an epoch
    epochs = found["epochs"]
    assert epochs == pytest.approx(0.85 * 2000 * (180 - 20 / 3) / (5 * (3991 // 8)), abs=2)
    assert {job.epochs for job in jobs} == {epochs}
    monkeypatch.setattr("gpu_run.queue.steps_a_second", None)  # not asked again
    options = ("--plan", "open", "--resume", str(tmp_path), "--seeds", "0,1")
    jobs, found = run_here(gpu, monkeypatch, inputs, tmp_path, *options)
    assert {job.seed for job in jobs} == {1}
    assert {job.epochs for job in jobs} == {found["epochs"]} == {epochs}
    assert len(found["records"]) == 10


# Failures, and the time


@pytest.fixture
def dry_jobs(gpu):
    from gpu_run import plans

    return plans.dry_run([0])


def run_work(folder, jobs, seconds=100.0, streams=2):
    """The records that a process hands back, without the process."""
    from gpu_run.queue import work

    waiting, results = queue.Queue(), queue.Queue()
    for settings in [*(job.settings() for job in jobs), None]:
        waiting.put(settings)
    work(folder, "cpu", streams, time.time() + seconds, waiting, results)
    records = list(results.queue)
    assert records[-1] is None
    return records[:-1]


def test_a_job_that_fails_ends_alone_and_is_reported(dry_jobs, inputs):
    from gpu_run import paired

    first, second = dry_jobs[:2]
    absent = replace(first, row="absent", backbone="absent")
    broken = replace(second, row="broken", num_points=10)  # the model refuses its first step
    records = run_work(inputs, [absent, first, broken, second])
    by_row = {record["settings"]["row"]: record for record in records}
    assert len(records) == 4
    assert by_row["no backbone"]["finished"]
    assert by_row["full"]["finished"]
    assert "BackboneLoadError" in by_row["absent"]["failed"]
    assert "64" in by_row["broken"]["failed"]
    table = paired.tables(records)
    assert "- not finished: dry run, absent, seed 0" in table
    assert "- not finished: dry run, broken, seed 0" in table
    assert "| absent" not in table


def test_what_is_not_finished_in_time_is_handed_back_as_it_is(dry_jobs, inputs, monkeypatch):
    from gpu_run import paired
    from gpu_run import queue as jobs_queue

    monkeypatch.setattr(jobs_queue, "_LAST_SECONDS", 0.0)
    monkeypatch.setattr(jobs_queue, "_STEPS_AT_ONCE", 1)
    endless = replace(dry_jobs[0], epochs=10**6)
    (record,) = run_work(inputs, [endless], seconds=3.0)
    assert not record["finished"]
    assert record["history"][-1]["step"] > 1
    assert "not finished: dry run, no backbone" in paired.tables([record])
    assert run_work(inputs, [endless], seconds=-1.0) == []  # nothing was begun


def test_the_run_ends_with_jobs_that_nobody_took(gpu, inputs, subprocess_environment, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from source_tree import make_importable; make_importable()\n"
        "from pathlib import Path\n"
        "from gpu_run import plans\n"
        "from gpu_run.queue import run_jobs\n"
        "if __name__ == '__main__':\n"
        "    jobs = plans.dry_run(range(500))\n"  # more than a pipe holds
        "    run_jobs(jobs, Path(sys.argv[2]), 'cpu', -9.0, 1, 1, print)\n"
        "    print('done', flush=True)\n"
    )
    command = [sys.executable, str(program), str(BENCHMARKS), str(inputs)]
    process = subprocess.run(command, env=subprocess_environment, capture_output=True, text=True, timeout=240)
    assert (process.returncode, process.stdout) == (0, "done\n"), process.stderr


# Pairing


def watched(inputs, job, num_steps):
    """The clouds of each step, and what the head dropped of ones, [B, 256] bool, beside it."""
    from gpu_run.queue import Workshop

    training = Workshop(inputs, "cpu").training(job)
    clouds, dropped = [], []
    training.model.register_forward_pre_hook(
        lambda _, inputs, options: clouds.append((inputs[0].clone(), options["labels"].clone())), with_kwargs=True
    )
    classifier = training.model.classifier
    inner = classifier.dropout2.forward
    classifier.dropout2.forward = lambda hidden: inner(torch.ones_like(hidden))
    classifier.dropout2.register_forward_hook(lambda _, __, output: dropped.append(output == 0))
    for _ in range(num_steps):
        training.step()
    return clouds, dropped


def test_rows_of_a_seed_see_the_same_clouds_and_drop_the_same(dry_jobs, inputs):
    options = {"epochs": 3, "per_class": 0, "batch": 8}  # 3 steps an epoch
    without, full = replace(dry_jobs[0], **options), replace(dry_jobs[1], **options)
    assert (without.row, full.row) == ROWS[:2]
    (expected, dropped), (found, found_dropped) = (watched(inputs, job, 6) for job in (without, full))
    assert len(expected) == len(dropped) == 6
    for (points, labels), (other_points, other_labels) in zip(expected, found, strict=True):
        assert points.shape == (8, 64, 3)
        assert torch.equal(points, other_points)
        assert torch.equal(labels, other_labels)
    assert all(torch.equal(one, other) for one, other in zip(dropped, found_dropped, strict=True))
    assert not torch.equal(dropped[0], dropped[1])
    assert not torch.equal(expected[0][0], expected[3][0])  # of the next epoch
    (others, others_dropped) = watched(inputs, replace(full, seed=1), 6)
    assert not any(torch.equal(one[0], other[0]) for one, other in zip(expected, others, strict=True))
    assert not torch.equal(others_dropped[0], dropped[0])


def test_an_epoch_has_each_cloud_once_anew(dry_jobs, inputs):
    from gpu_run.queue import Workshop

    training = Workshop(inputs, "cpu").training(replace(dry_jobs[0], epochs=2, per_class=0, batch=8))
    chosen = []
    for _ in range(6):
        training.step()
        chosen.append(training.chosen.clone())
    first, second = torch.cat(chosen[:3]), torch.cat(chosen[3:])
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(24))
    assert not torch.equal(first, second)
    assert training.is_done


def test_the_same_job_gives_the_same_record(dry_jobs, inputs):
    job = replace(dry_jobs[1], epochs=2)
    first, second = (run_work(inputs, [job])[0] for _ in range(2))
    assert first["history"] == second["history"]
    assert first["accuracy"] == second["accuracy"]


def test_rows_of_a_seed_start_alike(dry_jobs, inputs):
    from gpu_run.queue import Workshop

    workshop = Workshop(inputs, "cpu")
    without, full, permuted = (workshop.training(job).model for job in dry_jobs[:3])
    assert torch.equal(without.classifier.hidden1.weight, full.classifier.hidden1.weight)
    first, second = full.state_dict(), permuted.state_dict()
    unequal = [name for name in first if not torch.equal(first[name], second[name])]
    assert unequal
    assert all(".backbone." in name for name in unequal)


def test_loading_a_backbone_changes_no_start_value(dry_jobs, inputs, monkeypatch):
    from gpu_run import queue as jobs_queue

    load = jobs_queue.load_packed_backbone
    monkeypatch.setattr(jobs_queue, "load_packed_backbone", lambda *names: (load(*names), torch.rand(1))[0])
    workshop = jobs_queue.Workshop(inputs, "cpu")
    loading, kept = (workshop.training(dry_jobs[1]).model for _ in range(2))
    assert torch.equal(loading.classifier.hidden1.weight, kept.classifier.hidden1.weight)


def test_the_rate_rises_and_falls_as_a_cosine(dry_jobs, inputs):
    from gpu_run.queue import Workshop

    training = Workshop(inputs, "cpu").training(replace(dry_jobs[0], epochs=20, warm_up=0.1))
    rates = []
    for _ in range(20):
        training.step()
        rates.append(float(training.rate))
    assert rates[0] == pytest.approx(0.5e-3)
    assert rates[1] == pytest.approx(1e-3)
    assert rates[10] == pytest.approx(0.5e-3)
    assert all(later < sooner for sooner, later in pairwise(rates[1:]))
    assert rates[-1] < 1e-4
