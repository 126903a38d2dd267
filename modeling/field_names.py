"""The names of a config's fields, known without importing the config, which imports torch and takes seconds."""

import ast
from collections.abc import Iterable
from pathlib import Path

from .errors import did_you_mean

OF_BACKBONE = ("backbone", "backbone_revision", "backbone_config")  # which one, not what is done with it
_OTHER_NAMES = dict.fromkeys(("num_channels", "in_channels", "input_channels", "num_features"), "num_point_features")


def method_fields() -> tuple[str, ...]:
    """Fields of `Any2PointConfig` besides those that name the backbone, in order, read from its source."""
    source = Path(__file__).with_name("configuration_any2point.py").read_text(encoding="utf-8")
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    annotated = [node.target for node in classes["Any2PointConfig"].body if isinstance(node, ast.AnnAssign)]
    names = [target.id for target in annotated if isinstance(target, ast.Name)]
    return tuple(name for name in names if name not in OF_BACKBONE)


def meant_name(name: str, described: Iterable[str]) -> str:
    """A sentence with the field that was probably meant by an unknown name, or an empty string."""
    meant = _OTHER_NAMES.get(name)
    return f" Did you mean {meant}?" if meant else did_you_mean(name, described)
