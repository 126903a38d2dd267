"""Heads of one's own in place of the classifier: a module that is passed, or a class that is registered by a name."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from transformers import initialization as init

from .errors import ConfigurationError, listed, require
from .numerics.initialization import torch_draws

CLASSIFIERS: dict[str, type[nn.Module]] = {}
"""Classes of heads by the names that `config.classifier` calls them."""


def register_classifier(name: str, head_class: type[nn.Module]) -> None:
    """Lets `config.classifier` name a class of heads, so that models with it are made and loaded by the name.

    Args:
        name: what a config.json calls it.
        head_class: of modules that turn pooled features [B, in_features] into [B, num_labels] numbers. It is called as
            `head_class(in_features, num_labels)`.

    Raises:
        ConfigurationError: it is no class of modules, or the name stands for another one.
    """
    require(isinstance(name, str) and name != "", "a head's name must be a text", name)
    is_class = isinstance(head_class, type) and issubclass(head_class, nn.Module)
    require(is_class, "a registered head must be a class of torch.nn.Module", head_class)
    known = CLASSIFIERS.setdefault(name, head_class)
    same = (known.__module__, known.__qualname__) == (head_class.__module__, head_class.__qualname__)
    require(same, f"the head {name!r} is registered as {known.__qualname__} already", head_class.__qualname__)
    CLASSIFIERS[name] = head_class  # a notebook's cell may define it again


def name_of_head(head: nn.Module) -> str:
    """What a config calls a head: the name that its class is registered by, or else the class's own."""
    return next((name for name, known in CLASSIFIERS.items() if known is type(head)), type(head).__name__)


def custom_head(config: Any, in_features: int, given: nn.Module | None, start_seed: int) -> nn.Module:
    """The head that was given, or a new one of the class that `config.classifier` names, ready to be loaded into.

    Args:
        config: of the model; it records the name of a given head's class.
        in_features: width of the pooled features.
        given: a module, which becomes part of the model, or None.
        start_seed: of the start values of a new one.

    Raises:
        ConfigurationError: no class is registered by the name, or the head is a lazy module, without sizes yet.
    """
    if given is not None:
        require(isinstance(given, nn.Module), "classifier must be a torch.nn.Module", type(given).__name__)
        config.classifier = name_of_head(given)
        head = given
    else:
        name = config.classifier
        if name not in CLASSIFIERS:
            raise ConfigurationError(
                f"the head {name!r} is no part of any2point_hf and must be made known, and registered are "
                f"{listed(CLASSIFIERS)}. Pass classifier=<the module>, or call register_classifier({name!r}, "
                "<its class>) first."
            )
        # On a CPU even where transformers makes models without values: what a checkpoint lacks keeps its start value.
        with torch.device("cpu"), torch_draws(start_seed, "classifier"):
            head = CLASSIFIERS[name](in_features, config.num_labels)
    sizes_known = not any(is_lazy(tensor) for tensor in (*head.parameters(), *head.buffers()))
    fix = " Make it of nn.Linear and the like in place of nn.LazyLinear."
    require(
        sizes_known, f"a head must have its sizes from the start (here {in_features} features)", "lazy modules", fix
    )
    for module in head.modules():
        tensors = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
        values = {part: tensor.detach().clone() for part, tensor in tensors.items()}
        module.draw_parameters = partial(_restore, module, values)  # type: ignore[assignment]  # as our own parts have
    return head


def _restore(module: nn.Module, values: dict[str, Tensor], start: object) -> None:
    """Gives tensors that no checkpoint had the values with which the head was made."""
    for name, value in values.items():
        init.copy_(getattr(module, name), value)


def check_outputs(outputs: Any, batch_size: int, config: Any) -> None:
    """Raises a `ConfigurationError` unless a head of one's own gives [B, num_labels]."""
    expected = [batch_size, config.num_labels]
    received = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    fix = " Set num_labels or id2label in the config to what it gives."
    require(received == expected, f"the head {config.classifier!r} must give {expected} (num_labels)", received, fix)
