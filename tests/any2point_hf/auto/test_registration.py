"""The Auto classes learn of ours whatever is imported first; each case in a fresh interpreter."""

import subprocess
import sys

import pytest

import any2point_hf
import any2point_hf.modeling

LIGHT = """
import sys
import any2point_hf, any2point_hf.cli
print([name for name in ("torch", "datasets", "numpy", "transformers.models.auto") if name in sys.modules])
print(set(any2point_hf.__all__) - set(dir(any2point_hf)))
"""
OURS_FIRST = """
import any2point_hf
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor
"""
AUTO_FIRST = """
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor
import any2point_hf
"""
MODELING_FIRST = """
from any2point_hf.modeling import Any2PointModel
import any2point_hf
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor
"""
HALF_OF_AUTO_FIRST = """
from transformers import AutoConfig
import any2point_hf
from transformers import AutoFeatureExtractor, AutoModel, AutoProcessor
"""
BACKBONE_CLASS_FIRST = """
import any2point_hf
from transformers import BertModel
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor
"""
LOAD = """
import sys
folder = sys.argv[1]
{imports}
config, model = AutoConfig.from_pretrained(folder), AutoModel.from_pretrained(folder)
processor, extractor = AutoProcessor.from_pretrained(folder), AutoFeatureExtractor.from_pretrained(folder)
assert type(config) is any2point_hf.Any2PointConfig, type(config)
assert type(model) is any2point_hf.Any2PointModel, type(model)
assert type(processor) is type(extractor) is any2point_hf.Any2PointProcessor, (type(processor), type(extractor))
assert processor.num_points == model.config.num_points == 64
import numpy
points = numpy.random.default_rng(0).normal(size=(80, 3))
print(float(model(processor(points)["points"]).pooler_output.abs().sum()))
"""


@pytest.fixture
def run_python(subprocess_environment):
    def run(script, *arguments):
        command = [sys.executable, "-W", "error::DeprecationWarning:any2point_hf", "-c", script, *map(str, arguments)]
        process = subprocess.run(command, env=subprocess_environment, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        return process.stdout

    return run


@pytest.fixture(scope="module")
def saved(tmp_path_factory, bert):
    """An encoder without a head, and its processor."""
    config = any2point_hf.Any2PointConfig(backbone=str(bert), num_points=64, num_neighbors=8)
    folder = tmp_path_factory.mktemp("saved")
    any2point_hf.Any2PointModel(config).save_pretrained(folder)
    any2point_hf.Any2PointProcessor(64).save_pretrained(folder)
    return folder


def test_importing_the_package_costs_nothing(run_python):
    assert run_python(LIGHT).split("\n")[:2] == ["[]", "set()"]  # nothing heavy is imported, no public name is missing


@pytest.mark.parametrize("order", [OURS_FIRST, AUTO_FIRST, MODELING_FIRST, HALF_OF_AUTO_FIRST, BACKBONE_CLASS_FIRST])
def test_auto_classes_know_ours_in_any_order_of_imports(run_python, saved, order):
    assert float(run_python(LOAD.format(imports=order), saved)) > 0


@pytest.mark.parametrize("module", [any2point_hf, any2point_hf.modeling])
def test_every_public_name_resolves(module):
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)
    with pytest.raises(AttributeError, match="has no attribute 'Any2PointModle'"):
        _ = module.Any2PointModle


def test_registering_twice_changes_nothing():
    from any2point_hf.auto.registration import register_auto_classes

    finders = list(sys.meta_path)
    register_auto_classes()
    from transformers import AutoConfig, AutoModel

    assert type(AutoConfig.for_model("any2point")) is any2point_hf.Any2PointConfig
    assert AutoModel._model_mapping[any2point_hf.Any2PointConfig] is any2point_hf.Any2PointModel
    sys.meta_path[:] = finders
