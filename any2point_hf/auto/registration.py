"""Makes transformers' Auto classes and `pipeline` know ours, without importing them.

Unusual here: importing those modules takes seconds, so `import any2point_hf` only installs a finder that registers
our classes when somebody imports them. With modules that are already imported they are registered at once.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_LAYERS = "transformers.modeling_layers"


def _register_config(_: ModuleType) -> None:
    for name in (
        "configuration_any2point",
        "backbones.imagebind_audio.configuration_imagebind_audio",
    ):  # they register themselves
        importlib.import_module(f"any2point_hf.modeling.{name}")


def _register_models(_: ModuleType) -> None:
    layers = sys.modules.get(_LAYERS)
    if layers is not None and not hasattr(layers, "GradientCheckpointingLayer"):
        return  # it is being imported, and imports the Auto classes itself, before what our models need of it
    for name in ("modeling_any2point", "backbones.imagebind_audio.modeling_imagebind_audio"):
        importlib.import_module(f"any2point_hf.modeling.{name}")


def _register_processor(auto_module: ModuleType) -> None:
    from ..modeling.configuration_any2point import Any2PointConfig
    from ..processing_any2point import Any2PointProcessor

    name = "AutoProcessor" if auto_module.__name__.endswith("processing_auto") else "AutoFeatureExtractor"
    getattr(auto_module, name).register(Any2PointConfig, Any2PointProcessor, exist_ok=True)


def _register_pipelines(_: ModuleType) -> None:
    for name in ("classification_pipeline", "feature_extraction_pipeline", "segmentation_pipeline"):
        importlib.import_module(f"any2point_hf.auto.{name}")


_AUTO = "transformers.models.auto."
_AFTER_IMPORT: dict[str, Callable[[ModuleType], None]] = {
    _AUTO + "configuration_auto": _register_config,
    _AUTO + "modeling_auto": _register_models,
    _LAYERS: _register_models,
    _AUTO + "processing_auto": _register_processor,
    _AUTO + "feature_extraction_auto": _register_processor,
    "transformers.pipelines": _register_pipelines,
}


class _RegisteringLoader(Loader):
    """Runs a module's own loader, then the registration."""

    def __init__(self, loader: Loader, register: Callable[[ModuleType], None]) -> None:
        self.loader, self.register = loader, register

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        self.register(module)


class _AutoClassFinder(MetaPathFinder):
    """Finds these modules as the other finders do, and gives them a loader that registers."""

    def __init__(self) -> None:
        self.waiting = dict(_AFTER_IMPORT)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        register: Any = self.waiting.pop(fullname, None)
        spec = None if register is None else find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader, register)
        return spec


def register_auto_classes() -> None:
    """Registers config, models, processor and pipelines with transformers, now or when its modules are imported."""
    finder = _AutoClassFinder()
    for name, register in _AFTER_IMPORT.items():
        module = sys.modules.get(name)
        if module is not None:
            del finder.waiting[name]
            register(module)
    if finder.waiting:
        sys.meta_path.insert(0, finder)
