"""Whether a part of the model may be computed from its weights, without calling its layers."""

from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_untouched(module: nn.Module, *own: type[nn.Module]) -> bool:
    """Whether nobody has hooked, wrapped or replaced a layer in it: then reading its weights is as good as calling it.

    Args:
        module: with all that is in it.
        own: the classes it is made of.
    """
    return all(
        type(part) in own and "forward" not in vars(part) and not any(getattr(part, name) for name in _HOOKS)
        for part in module.modules()
    )
