"""An adapter written by version 0.1.0 loads in this version and gives the logits that it gave then."""

from pathlib import Path

import numpy as np
import torch

from any2point_hf import Any2PointForPointCloudClassification, Any2PointProcessor

FROZEN = Path(__file__).parent / "fixtures" / "frozen_checkpoint"


def test_an_old_adapter_gives_its_old_logits():
    model = Any2PointForPointCloudClassification.from_pretrained(FROZEN / "adapter", backbone=FROZEN / "backbone")
    processor = Any2PointProcessor.from_pretrained(FROZEN / "adapter")
    assert (processor.num_points, processor.scale_to_unit_sphere) == (128, True)
    assert model.config.id2label == {0: "box", 1: "cone", 2: "torus"}
    with torch.no_grad():
        logits = model(torch.from_numpy(np.load(FROZEN / "points.npy"))).logits
    np.testing.assert_allclose(logits.numpy(), np.load(FROZEN / "logits.npy"), rtol=0, atol=1e-5)
