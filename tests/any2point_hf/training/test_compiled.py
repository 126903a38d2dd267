"""The stock Trainer with `torch_compile=True`, by inductor: the same training as without."""

import copy

import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments, set_seed

from any2point_hf.modeling import Any2PointConfig, Any2PointForPointCloudClassification

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),  # what inductor imports
]


def test_a_compiled_training_is_the_eager_one(bert, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    set_seed(0)
    config = Any2PointConfig(
        backbone=str(bert), num_labels=2, num_points=64, num_neighbors=8, backbone_blocks=1, adapter_dropout=0.0
    )
    model = Any2PointForPointCloudClassification(config)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    rows = {"points": torch.randn(11, 64, 3).tolist(), "labels": [0, 1] * 5 + [0]}
    dataset = Dataset.from_dict(rows).with_format("torch")
    losses, weights = [], []
    for is_compiled in (False, True):
        torch._dynamo.reset()
        arguments = TrainingArguments(
            output_dir=str(tmp_path / str(is_compiled)),
            num_train_epochs=2,
            per_device_train_batch_size=6,  # 6 and 5 clouds
            per_device_eval_batch_size=8,
            learning_rate=1e-2,
            optim="sgd",
            torch_compile=is_compiled,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
        )
        own = copy.deepcopy(model)
        trainer = Trainer(own, arguments, train_dataset=dataset, eval_dataset=dataset)
        trained = trainer.train().training_loss
        losses.append((trained, trainer.evaluate()["eval_loss"]))
        weights.append({name: value for name, value in own.named_parameters() if value.requires_grad})
    torch._dynamo.reset()
    eager, compiled = weights
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    moved = {name for name, value in model.named_parameters() if name in eager and not torch.equal(value, eager[name])}
    assert moved
    for name in eager:
        torch.testing.assert_close(compiled[name], eager[name], atol=1e-4, rtol=1e-3, msg=name)
