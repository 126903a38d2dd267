import ast
from pathlib import Path

import pytest

import any2point_hf


@pytest.mark.parametrize("package", [any2point_hf, any2point_hf.modeling], ids=lambda package: package.__name__)
def test_tools_that_only_read_the_source_see_every_public_name(package):
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = {alias.asname: (statement.module, alias.name) for statement in block.body for alias in statement.names}
    assert set(imports) == set(package.__all__) - {"__version__"}
    for name, (module, own_name) in imports.items():
        found = __import__(f"{package.__name__}.{module}", fromlist=[own_name])
        assert getattr(found, own_name) is getattr(package, name)


@pytest.mark.parametrize(
    ("former", "name"),
    [
        ("modeling.backbone", "load_backbone"),
        ("modeling.backbone", "call_block"),
        ("modeling.backbone_specs", "BackboneSpec"),
        ("modeling.backbone_table", "BACKBONES"),
        ("modeling.model_card", "model_card"),
        ("recipe", "read_recipe"),
        ("training", "make_trainer"),
        ("commands", "predict"),
    ],
)
def test_documented_former_paths_still_import(former, name):
    assert hasattr(__import__(f"any2point_hf.{former}", fromlist=[name]), name)


def test_a_name_that_training_never_had_is_missing():
    from any2point_hf import training

    with pytest.raises(AttributeError, match="has no attribute 'make_trainers'"):
        training.make_trainers  # noqa: B018
