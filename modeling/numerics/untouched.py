"""Whether a part of the model may be computed from its weights, without calling its layers."""

from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_untouched(module: nn.Module, *own: type[nn.Module]) -> bool:
    """Whether no layer inside is hooked, wrapped or replaced: then computing from its weights equals calling it.

    Args:
        module: the part; itself and all modules inside are checked.
        own: the only classes that these may have.
    """
    return all(
        type(part) in own and "forward" not in vars(part) and not any(getattr(part, name) for name in _HOOKS)
        for part in module.modules()
    )
