"""Which of a backbone's blocks tokens pass, which are adapted, and which a segmentation head reads."""

from .errors import require


class BlockChoice:
    """Methods of a config that count blocks of its backbone."""

    # Fields of the config that inherits this one.
    backbone_blocks: int | None
    adapter_blocks: int | list[int] | None
    segmentation_blocks: list[int] | None

    def used_blocks(self, num_blocks: int) -> int:
        """Returns how many of the backbone's `num_blocks` blocks the tokens pass.

        Raises:
            ConfigurationError: `backbone_blocks` is more than there are.
        """
        used = num_blocks if self.backbone_blocks is None else self.backbone_blocks
        require(0 <= used <= num_blocks, f"backbone_blocks must lie in 0…{num_blocks} (the backbone's)", used)
        return used

    def adapted_blocks(self, num_blocks: int) -> list[int]:
        """Indices of the blocks that carry adapters, out of `num_blocks`.

        Raises:
            ConfigurationError: `adapter_blocks` names a block that the backbone does not have.
        """
        if self.adapter_blocks is None:
            return list(range(num_blocks))
        listed = self.adapter_blocks
        indices = list(range(listed)) if isinstance(listed, int) else sorted(set(listed))
        require(
            all(0 <= index < num_blocks for index in indices) and (not isinstance(listed, int) or listed >= 0),
            f"adapter_blocks must lie within the backbone's {num_blocks} blocks",
            listed,
        )
        return indices

    def blocks_of_segmentation(self, num_blocks: int) -> list[int]:
        """Indices of the blocks whose outputs the segmentation head reads, out of `num_blocks`; −1 for its input.

        Raises:
            ConfigurationError: `segmentation_blocks` names a block that tokens do not pass.
        """
        if self.segmentation_blocks is None:
            return sorted({-(-third * num_blocks // 3) - 1 for third in (1, 2, 3)})
        listed = self.segmentation_blocks
        require(
            len(listed) > 0 and all(0 <= index < num_blocks for index in listed) and len(set(listed)) == len(listed),
            f"segmentation_blocks must be different numbers in 0…{num_blocks - 1} (the blocks that tokens pass)",
            listed,
        )
        return sorted(listed)
