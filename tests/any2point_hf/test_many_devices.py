"""Training in many processes: two of them on this CPU, started from this very file, against one with all clouds."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from accelerate.utils.launch import prepare_multi_gpu_env
from torch import distributed
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.nn.parallel import DistributedDataParallel
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from any2point_hf.data import build_dataset_dict
from any2point_hf.data.augmentation import Augmentation
from any2point_hf.modeling import Any2PointConfig, Any2PointForPointCloudClassification
from any2point_hf.processing_any2point import Any2PointProcessor
from any2point_hf.training.trainer import make_trainer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

CONFIGS = Path(__file__).parents[2] / "docs" / "accelerate"
WARNINGS = [f"-Werror::{name}" for name in ("DeprecationWarning", "FutureWarning", "PendingDeprecationWarning")]
SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
BACKBONES = {
    "bert": lambda: BertModel(BertConfig(**SIZES, vocab_size=50, max_position_embeddings=24)),
    "vit": lambda: ViTModel(ViTConfig(**SIZES, image_size=16, patch_size=8), add_pooling_layer=False),
}
BLOCKS = {"bert": "BertLayer", "vit": "ViTLayer"}
DTYPES = [torch.float64, torch.float32]
NUM_TEST = 7


def make_model(family="bert", dtype=torch.float64, **fields):
    """The same tiny model in every process, without dropout."""
    torch.manual_seed(0)
    fields = {"sampling_start": "first", **fields}  # from the farthest points, two maxima nearly tie
    config = Any2PointConfig(num_points=64, num_neighbors=8, num_labels=2, adapter_dropout=0.0, **fields)
    model = Any2PointForPointCloudClassification(config, backbone=BACKBONES[family]()).to(dtype)
    model.classifier.dropout1.p = model.classifier.dropout2.p = 0.0
    return model.train()


def make_batch(dtype, rank=None):
    """Eight clouds and their labels, or one process' half of them."""
    points = torch.randn(8, 64, 3, generator=torch.Generator().manual_seed(4)).to(dtype)
    share = slice(None) if rank is None else slice(4 * rank, 4 * rank + 4)
    return points[share], (torch.arange(8) % 2)[share]


def train_steps(model, points, labels, steps=3):
    """Losses, the first step's gradients, and trained weights and running statistics after the last."""
    module = getattr(model, "module", model)
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3)
    losses, gradients = [], {}
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(points, labels=labels).loss
        loss.backward()
        gradients = gradients or {name: parameter.grad.clone() for name, parameter in trained.items()}
        optimizer.step()
        losses.append(loss.detach())
    weights = {name: parameter.detach() for name, parameter in trained.items()}
    return SimpleNamespace(
        losses=torch.stack(losses), gradients=gradients, state=weights | dict(module.named_buffers())
    )


def make_tiny_trainer(folder, batch_size):
    """Of a model of double precision, on 16 clouds for training and 7 for testing that enter as they are."""
    generator = np.random.default_rng(0)
    splits = {
        split: (generator.normal(size=(count, 64, 3)).astype(np.float32), [index % 2 for index in range(count)])
        for split, count in (("train", 16), ("test", NUM_TEST))
    }
    dataset = build_dataset_dict(splits, ["a", "b"])
    settings = {"epochs": 2, "batch_size": batch_size, "seed": 0, "augmentation": Augmentation((1, 1), 0.0)}
    return make_trainer(make_model(), Any2PointProcessor(64), dataset, folder / "trainer", **settings)


def train_and_predict(folder, batch_size):
    """Two epochs by the stock Trainer: its losses, and what the model predicts before and after."""
    untrained = make_tiny_trainer(folder, batch_size)  # another one: see docs/many_devices.md
    before = untrained.predict(untrained.eval_dataset)
    trainer = make_tiny_trainer(folder, batch_size)
    trainer.train()
    after = trainer.predict(trainer.eval_dataset)
    return {
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "steps": trainer.state.global_step,
        "before": before.predictions,
        "after": after.predictions,
        "labels": before.label_ids.tolist(),
        "accuracy": after.metrics["test_accuracy"],
    }


def launch_environment(config, *options):
    """What `accelerate launch` sets for its processes."""
    arguments = launch_command_parser().parse_args(["--config_file", str(CONFIGS / config), *options, "train.py"])
    arguments, _, _ = _validate_launch_command(arguments)
    return {name: value for name, value in prepare_multi_gpu_env(arguments).items() if "FSDP" in name}


# What each of the two processes does


def run_data_parallel(folder, rank):
    results = {}
    for dtype in DTYPES:
        model = DistributedDataParallel(make_model(dtype=dtype))
        results[dtype] = vars(train_steps(model, *make_batch(dtype, rank)))
    return results


def run_trainer(folder, rank):
    return train_and_predict(folder, batch_size=2)


def run_sharded(folder, rank):
    """One training step by accelerate's own sharding, as docs/accelerate/fsdp.yaml sets it up, and the adapter."""
    os.environ.update(launch_environment("fsdp.yaml"))
    results = {}
    for family, block in BLOCKS.items():
        plugin = FullyShardedDataParallelPlugin(transformer_cls_names_to_wrap=[block])
        assert plugin.fsdp_version == 2
        state = SimpleNamespace(fsdp_plugin=plugin)
        accelerator = SimpleNamespace(state=state, mixed_precision="no", is_main_process=rank == 0, device="cpu")
        model = fsdp2_prepare_model(accelerator, make_model(family))
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        points, labels = make_batch(torch.float64, rank)
        loss = model(points, labels=labels).loss
        loss.backward()
        gradients = {name: p.grad.full_tensor() for name, p in model.named_parameters() if p.requires_grad}
        optimizer.step()
        frozen = [parameter for parameter in model.backbone.parameters() if not parameter.requires_grad]
        state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if rank == 0:
            model.save_pretrained(folder / family, state_dict=state)
        with torch.no_grad():
            logits = model.eval()(make_batch(torch.float64)[0]).logits
        results[family] = {
            "loss": loss.detach(),
            "gradients": gradients,
            "logits": logits,
            "held": sum(parameter.to_local().numel() for parameter in frozen),
            "whole": sum(parameter.numel() for parameter in frozen),
        }
    return results


PARTS = (run_data_parallel, run_trainer, run_sharded)


def run_process(folder, rank):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for part in PARTS:
        torch.save(part(folder, rank), folder / f"{part.__name__}_{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory, subprocess_environment):
    """The folder of two processes that accelerate takes for its own, where `found` reads what they found."""
    folder = tmp_path_factory.mktemp("two_processes")
    processes = []
    for rank in range(2):
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "ACCELERATE_USE_CPU": 1}
        environment = subprocess_environment | {name: str(value) for name, value in own.items()}
        command = [sys.executable, *WARNINGS, __file__, str(folder), str(rank)]
        processes.append(subprocess.Popen(command, env=environment))
    try:
        for process in processes:
            process.wait(timeout=300)
    finally:
        for process in processes:
            process.kill()
    return folder  # a part that failed has left no file, and its tests fail


def found(folder, part):
    """What a part above returned in each of the two processes."""
    return [torch.load(folder / f"{part.__name__}_{rank}.pt", weights_only=False) for rank in range(2)]


# Data parallel


def least_lead_of_a_maximum():
    """Over the next largest, of the maxima over tokens: rounded the other way, a near tie sends gradients elsewhere."""
    tokens = make_model().any2point(make_batch(torch.float64)[0]).last_hidden_state[:, 1:]
    largest, next_largest = tokens.topk(2, dim=1).values.unbind(dim=1)
    return (largest - next_largest).min()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_two_processes_lose_what_one_does(both, dtype):
    assert least_lead_of_a_maximum() > 1e-3
    expected = train_steps(make_model(dtype=dtype), *make_batch(dtype)).losses
    first, second = (rank[dtype]["losses"] for rank in found(both, run_data_parallel))
    torch.testing.assert_close((first + second) / 2, expected, atol=1e-5, rtol=0)
    assert (expected[0] - expected[-1]) > 1e-3


def test_two_processes_learn_what_one_does(both):
    expected = train_steps(make_model(), *make_batch(torch.float64))
    first, second = (rank[torch.float64] for rank in found(both, run_data_parallel))
    for part in ("gradients", "state"):
        assert first[part].keys() == getattr(expected, part).keys()
        for name, value in getattr(expected, part).items():
            assert torch.equal(first[part][name], second[part][name]), name
            torch.testing.assert_close(first[part][name], value, atol=1e-9, rtol=0, msg=name)
    start = make_model().state_dict()
    for name in ("any2point.cls_token", "classifier.norm1.running_var"):
        assert (expected.state[name] - start[name]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "fields",
    [
        {"position_encoding": "none"},
        {"position_encoding": "learnable"},
        {"ensemble": "mean"},
        {"aggregation": "none"},
        {"aggregation": "3d"},
        {"adapter_blocks": [0]},
        {"adapter_blocks": []},
        {"released_compatibility": True},
    ],
    ids=str,
)
def test_every_trained_parameter_gets_a_gradient(fields):
    """So that no process has to look for those that do not (`ddp_find_unused_parameters`)."""
    model = make_model(**fields)
    points, labels = make_batch(torch.float64)
    model(points, labels=labels).loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


# The Trainer


@pytest.fixture(scope="module")
def trained_alone(tmp_path_factory):
    return train_and_predict(tmp_path_factory.mktemp("alone"), batch_size=4)


def test_the_trainer_s_loss_is_that_of_one_process_with_twice_the_batch(both, trained_alone):
    for rank in found(both, run_trainer):
        assert rank["steps"] == trained_alone["steps"] == 8
        assert rank["losses"] == pytest.approx(trained_alone["losses"], abs=1e-5)
        assert len(rank["losses"]) == 2


def test_evaluation_gathers_each_cloud_once(both, trained_alone):
    for rank in found(both, run_trainer):
        assert rank["before"].shape == (NUM_TEST, 2)
        assert rank["labels"] == trained_alone["labels"] == [0, 1, 0, 1, 0, 1, 0]
        np.testing.assert_allclose(rank["before"], trained_alone["before"], atol=1e-9, rtol=0)
        np.testing.assert_allclose(rank["after"], trained_alone["after"], atol=1e-5, rtol=0)
        assert rank["accuracy"] == trained_alone["accuracy"]
        assert (rank["accuracy"] * NUM_TEST) == pytest.approx(round(rank["accuracy"] * NUM_TEST), abs=1e-9)


# Fully sharded


@pytest.mark.parametrize("family", BLOCKS)
def test_a_sharded_model_computes_what_a_whole_one_does(both, family):
    first, second = (rank[family] for rank in found(both, run_sharded))
    model = make_model(family)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    points, labels = make_batch(torch.float64)
    loss = model(points, labels=labels).loss
    loss.backward()
    optimizer.step()
    torch.testing.assert_close((first["loss"] + second["loss"]) / 2, loss.detach(), atol=1e-9, rtol=0)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert first["gradients"].keys() == trained.keys()
    for name, parameter in trained.items():
        torch.testing.assert_close(first["gradients"][name], parameter.grad, atol=1e-9, rtol=0, msg=name)
    with torch.no_grad():
        torch.testing.assert_close(first["logits"], model.eval()(points).logits, atol=1e-9, rtol=0)
    assert first["held"] + second["held"] == first["whole"]
    assert first["held"] == pytest.approx(first["whole"] / 2, rel=0.1)


@pytest.mark.parametrize("family", BLOCKS)
def test_the_adapter_of_a_sharded_model_is_whole(both, family):
    backbone = make_model(family).backbone
    loaded = Any2PointForPointCloudClassification.from_pretrained(both / family, backbone=backbone, dtype=torch.float64)
    with torch.no_grad():
        logits = loaded(make_batch(torch.float64)[0]).logits
    torch.testing.assert_close(logits, found(both, run_sharded)[0][family]["logits"], atol=1e-9, rtol=0)


# accelerate's own configuration and launcher


@pytest.mark.parametrize(
    ("name", "kind", "machines", "processes"),
    [("one_machine", "MULTI_GPU", 1, 4), ("two_machines", "MULTI_GPU", 2, 8), ("fsdp", "FSDP", 1, 4)],
)
def test_the_example_files_are_accelerate_s_own(name, kind, machines, processes):
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert config.distributed_type.value == kind
    assert (config.num_machines, config.num_processes) == (machines, processes)
    assert config.mixed_precision == "no"


def test_the_example_of_fsdp_is_version_2():
    environment = launch_environment("fsdp.yaml")
    expected = {"VERSION": "2", "AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "TRANSFORMER_CLS_TO_WRAP": "BertLayer"}
    expected |= {"STATE_DICT_TYPE": "FULL_STATE_DICT", "RESHARD_AFTER_FORWARD": "true", "OFFLOAD_PARAMS": "false"}
    assert {name: environment[f"FSDP_{name}"] for name in expected} == expected


def test_accelerate_launches_the_command(bert, two_classes, tmp_path, subprocess_environment):
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    train = ["any2point_hf", "train", "--data", two_classes.path, "--backbone", bert, "--output", tmp_path / "trained"]
    sizes = ["--num-points", "64", "--num-neighbors", "8", "--epochs", "1", "--batch-size", "4"]
    done = subprocess.run(
        [sys.executable, "-m", *launch, "-m", *map(str, train), *sizes],
        env={**subprocess_environment, "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written to") == 1
    Any2PointForPointCloudClassification.from_pretrained(tmp_path / "trained")
    assert "2 processes trained together" in (tmp_path / "trained" / "README.md").read_text(encoding="utf-8")
    (state,) = (tmp_path / "trained").glob("checkpoint-*/trainer_state.json")
    assert json.loads(state.read_text())["global_step"] == 2  # 16 clouds, 4 for each of two processes


if __name__ == "__main__":
    run_process(Path(sys.argv[1]), int(sys.argv[2]))
