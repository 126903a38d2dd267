"""What other libraries ask of a model and this one has not, refused in our words instead of failing inside theirs."""

import sys
from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn

from torch import Tensor

from .errors import Any2PointError, CheckpointError, ConfigurationError

_NO_EMBEDDINGS = "an Any2Point model has no input embeddings, because its tokenizer embeds the points: "


class _NoPeft(dict):
    """Stands for the configs of a model's PEFT adapters, which PEFT reads before it changes anything in the model."""

    def _refuse(self, *_: Any) -> NoReturn:
        raise Any2PointError(
            "get_peft_model would freeze the adapters, and save neither CLS token nor running statistics. Use "
            "model.add_lora(LoraConfig(...)), which trains and saves a LoRA beside them; any other method of PEFT can "
            "be put into the backbone before it is given as backbone=<module>."
        )

    __setitem__ = update = _refuse  # type: ignore[assignment]


class RefusedCalls:
    """Attributes and methods of a model that refuse."""

    peft_config: ClassVar[Mapping[str, Any]] = _NoPeft()

    def get_input_embeddings(self) -> None:
        """Returns None, because the tokenizer embeds the points; accelerate's FSDP asks for it.

        Raises:
            ConfigurationError: NEFTune asks for it, to add noise to them.
        """
        if sys._getframe(1).f_code.co_name == "activate_neftune":  # the Trainer's; it would write into the None
            raise ConfigurationError(
                _NO_EMBEDDINGS + "neftune_noise_alpha cannot add noise to them. Leave it out; points are "
                "augmented by make_trainer's recipe (augmentation) instead."
            )

    def resize_token_embeddings(self, *_: Any, **__: Any) -> NoReturn:
        """Refuses to resize what is not there.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(_NO_EMBEDDINGS + "there are none to resize. A cloud may have any number of points.")


def check_not_quantized(state_dict: Mapping[str, Any]) -> None:
    """Checks that what is to be saved are the tensors that were trained.

    Args:
        state_dict: of the model.

    Raises:
        CheckpointError: `quantize_dynamic` has replaced layers of the model.
    """
    packed = [name for name, value in state_dict.items() if not isinstance(value, Tensor) or value.is_quantized]
    if packed:
        raise CheckpointError(
            f"an adapter is saved as it was trained, and {len(packed)} of its weights are quantised, such as "
            f"{packed[0]}. Save the model before quantize_dynamic, and quantise it after it is loaded."
        )
