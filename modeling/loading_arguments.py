"""Arguments of a model's `from_pretrained` that are refused by name."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

from .configuration_any2point import METHOD_FIELDS
from .errors import ConfigurationError, require
from .field_names import meant_name

# What transformers takes out of its keyword arguments, besides those in its signature.
_OF_TRANSFORMERS: tuple[str, ...] = (
    "attn_implementation",
    "device_map",
    "dtype",
    "id2label",
    "label2id",
    "max_memory",
    "num_labels",
)
_OF_TRANSFORMERS += ("output_loading_info", "state_dict", "subfolder")


def refuse_arguments(use_safetensors: bool | None, arguments: Mapping[str, Any]) -> None:
    """Refuses to load anything but safetensors, and to quantise the adapters.

    Raises:
        ConfigurationError: that was asked for.
    """
    quantization, advice = arguments.get("quantization_config"), "backbone_kwargs={'quantization_config': …}"
    require(quantization is None, "the backbone alone is quantised", quantization, f" Pass {advice} instead.")
    fix = " Leave it out: adapters are never saved as pickles."
    require(
        use_safetensors in (None, True), "use_safetensors must be True, as nothing else is read", use_safetensors, fix
    )


def refuse_unknown_argument(error: Exception, model_class: type, arguments: Mapping[str, Any]) -> None:
    """Names the keyword argument that nobody knew, if an error of loading says that there was one.

    Args:
        error: that transformers raised.
        model_class: whose `from_pretrained`, or that of a class it inherits from, takes them.
        arguments: those that were handed on.

    Raises:
        ConfigurationError: there was one.
    """
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if not isinstance(error, TypeError) or found is None or found[1] not in arguments:
        return
    classes: list[Any] = [parent for parent in model_class.__mro__ if "from_pretrained" in vars(parent)]
    signatures = (inspect.signature(parent.from_pretrained).parameters for parent in classes)
    of_loading = {*_OF_TRANSFORMERS, *(name for names in signatures for name in names)}
    meant = meant_name(found[1], (*METHOD_FIELDS, *of_loading))
    raise ConfigurationError(
        "from_pretrained takes the fields of Any2PointConfig and the arguments of its documentation, got "
        f"{found[1]!r}, which is none.{meant}"
    ) from error
