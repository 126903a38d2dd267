"""Any2Point: a frozen transformer of any modality made to understand point clouds (arXiv 2404.07989).

The trip of the data: points [B, N, 3], and features → point tokenizer → tokens [B, G, D] and centres → virtual
projection → encodings [B, G, D] and cells → [CLS; tokens] + encodings → the backbone's own blocks with bottleneck and
guided aggregation → final norm → pooled feature [B, 2D] (→ head → logits [B, classes], in the classification model).

Unusual here: the backbone is attached after the adapters are loaded, because transformers builds models on the meta
device, which would corrupt a backbone made inside `__init__`. It is never part of a checkpoint.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.utils import can_return_tuple

from . import released_compatibility as released
from .adapter.guided_adapter import Bottleneck, GuidedAggregation, LocalAttention, Neighborhoods, aggregation_bytes
from .backbones.blocks import (
    ROWS_AT_ONCE,
    ROWS_KEPT,
    block_dtype,
    call_block,
    freeze_backbone,
    make_final_norm,
    record_attention,
    start_final_norm,
)
from .backbones.bottleneck_hook import insert_bottleneck
from .backbones.detector import backbone_spec
from .backbones.loading import (
    build_backbone,
    check_same_family,
    commit_of,
    load_backbone,
    record_backbone,
    share_backbone,
)
from .backbones.self_test import check_parts, is_tried_out, self_test
from .backbones.spec import BlockArguments, find, norm_eps, num_blocks, read_tensor
from .batch_memory import check_memory, names_batch_that_fits
from .checkpoint_integrity import HEADS
from .configuration_any2point import Any2PointConfig
from .input_checks import check_inputs, finite_inputs
from .modeling_outputs import Any2PointModelOutput as Any2PointModelOutput
from .numerics.initialization import StartValues, draw_seed, torch_draws
from .numerics.precision import product_dtype
from .numerics.start_scales import TokenScale, start_scales
from .numerics.untouched import is_untouched
from .pretrained_model import Any2PointPreTrainedModel
from .projection.position_encoding import LearnableEncoding, sinusoidal_encoding
from .projection.virtual_projection import voxel_cells
from .projection_choice import choose_position_encoding, make_projection
from .several_adapters.mixed_batch import forward_mixed
from .tokenizer.point_tokenizer import PointTokenizer


class Any2PointModel(Any2PointPreTrainedModel):
    """Computes features of point clouds by a frozen backbone with guided adapters.

    Args:
        config: its `backbone` is loaded, or its `backbone_config` built with random weights.
        backbone: a module to use instead; it is shared and frozen, not copied.
        attach: whether to put the backbone under the adapters now; a task model does so when it is complete itself.
        start_seed: seed of all start values; by default drawn from torch's generator.

    Raises:
        UnsupportedBackboneError: the backbone's family is not supported, or none is named.
        BackboneLoadError: the backbone cannot be loaded.
    """

    _keys_to_ignore_on_load_unexpected = (  # a task model's checkpoint holds a base model
        *Any2PointPreTrainedModel._keys_to_ignore_on_load_unexpected,
        rf"^({'|'.join(HEADS)})\.",
    )
    adapter_attributes = (
        *Any2PointPreTrainedModel.adapter_attributes,
        *("spec", "modality", "used_blocks", "adapted_blocks", "position_encoding", "call_block", "must_warn", "lora"),
        *("learnable_encoding", "cls_position", "local_attention", "final_norm", "token_scale"),  # where they are None
    )
    start_seed: int
    backbone: Any  # None until it is attached
    final_norm: nn.Module | None

    def __init__(
        self,
        config: Any2PointConfig,
        backbone: PreTrainedModel | None = None,
        attach: bool = True,
        start_seed: int | None = None,
    ) -> None:
        start_seed = draw_seed() if start_seed is None else start_seed
        config = record_backbone(config, backbone)
        super().__init__(config)
        self.start_seed = start_seed
        backbone_config: Any = config.backbone_config
        hidden_size = backbone_config.hidden_size
        self.spec = backbone_spec(backbone_config)
        self.modality = config.modality or self.spec.modality
        self.used_blocks = config.used_blocks(num_blocks(backbone_config))
        self.adapted_blocks = config.adapted_blocks(self.used_blocks)
        self.position_encoding = choose_position_encoding(config, self.spec)

        tokenizer_class = released.ReleasedPointTokenizer if config.released_compatibility else PointTokenizer
        self.tokenizer = tokenizer_class.of(config, hidden_size)
        self.token_scale = TokenScale(hidden_size) if config.token_scale == "embedding" else None
        self.projection = make_projection(config, self.spec)
        self.learnable_encoding = LearnableEncoding(hidden_size) if self.position_encoding == "learnable" else None
        self.cls_token = nn.Parameter(torch.empty(1, 1, hidden_size))
        self.cls_position = nn.Parameter(torch.empty(1, 1, hidden_size)) if self.adds_positions else None

        self.bottlenecks = nn.ModuleDict()
        self.aggregations = nn.ModuleDict()
        aggregates = config.aggregation != "none" and len(self.adapted_blocks) > 0
        self.local_attention = LocalAttention.of(config, hidden_size) if aggregates else None
        for index in self.adapted_blocks:
            self.bottlenecks[str(index)] = Bottleneck.of(config, hidden_size)
            if aggregates:
                self.aggregations[str(index)] = aggregation = GuidedAggregation.of(config, hidden_size)
                if config.released_compatibility:
                    num_cells = self.projection.num_cells
                    aggregation.view_norm = released.ReleasedCellNorm(hidden_size, config.num_views, num_cells)
        self.final_norm = make_final_norm(self.spec, hidden_size, config.final_norm_eps or norm_eps(backbone_config))

        across_batch = config.released_compatibility and self.modality == "1d"
        self.call_block = released.call_block_across_batch if across_batch else call_block
        self.must_warn = across_batch  # only when it first runs in eval mode
        self.gradient_checkpointing, self.backbone, self.lora = False, None, None
        self.post_init()
        if attach:
            self.load_and_attach_backbone(backbone)

    @property
    def adds_positions(self) -> bool:
        """Whether encodings are added to the tokens."""
        if self.position_encoding == "virtual":
            return self.spec.positions is not None
        return self.position_encoding != "none"

    def draw_parameters(self, start: StartValues) -> None:
        """Draws the start values of CLS token and position (method.md 5)."""
        start.token(self.cls_token, "cls_token")
        if self.cls_position is not None:
            start.token(self.cls_position, "cls_position")

    def load_and_attach_backbone(self, backbone: PreTrainedModel | None = None) -> None:
        """Loads, builds or takes a new model's backbone, whose final norm and CLS embedding become start values."""
        if self.cls_token.is_meta:
            return  # from_pretrained attaches the backbone itself, when the adapters are loaded
        config = self.config
        if backbone is None and config.backbone is not None:
            backbone = load_backbone(str(config.backbone), config.backbone_revision, config.modality)
            config.backbone_revision = commit_of(backbone.config) or config.backbone_revision
        elif backbone is None:
            backbone_config: Any = config.backbone_config
            with torch_draws(self.start_seed, "backbone"):
                backbone = build_backbone(backbone_config)
        self.attach_backbone(backbone)
        with torch.no_grad():
            if self.spec.cls_token is not None:
                self.cls_token.copy_(read_tensor(self.backbone, self.spec.cls_token).reshape(1, 1, -1))
            if self.final_norm is not None:
                start_final_norm(self.final_norm, self.backbone, self.spec)
        self.start_trained_backbone()
        start_scales(self)

    def attach_backbone(self, backbone: PreTrainedModel) -> None:
        """Puts a backbone under the adapters: shared tensor by tensor, frozen, with the bottlenecks hooked in.

        Raises:
            CheckpointError: the backbone's family, width or depth is not the recorded one.
            UnsupportedBackboneError: its family is not in the table, and it fails the self-test.
        """
        recorded: Any = self.config.backbone_config
        check_same_family(recorded, backbone.config)
        self.backbone = share_backbone(backbone, self.config.modality)
        tried_out = is_tried_out(recorded, self.spec)
        if tried_out:
            check_parts(self.backbone, self.spec)
        freeze_backbone(self.backbone, self.spec, self.config.layer_norm_eps)
        if self.config.released_compatibility:
            released.leave_out_key_value_rows(self.backbone)
        if tried_out and not self.cls_token.is_meta:
            self_test(self.backbone, self.spec)
        blocks = find(self.backbone, self.spec.blocks)
        for index in self.adapted_blocks:
            insert_bottleneck(blocks[index], self.spec, self.bottlenecks[str(index)], self.config.adapter_placement)
        self.ignore_backbone_on_save()

    def encode_positions(self, centers: Tensor, coordinates: Tensor) -> Tensor | None:
        """Encodings of CLS and tokens, None if none: centers [B, G, 3], coordinates [B, M, G, A] -> [B, 1 + G, D]."""
        variant = self.position_encoding
        if not self.adds_positions:
            return None
        if variant == "learnable":
            assert self.learnable_encoding is not None
            encoding = self.learnable_encoding(centers.to(self.cls_token.dtype))
        elif variant == "sinusoidal":
            encoding = sinusoidal_encoding(centers, self.cls_token.shape[-1])
        else:
            encoding = self.projection.encode(coordinates, self.spec.table(self.backbone))
        assert self.cls_position is not None
        cls_position = self.cls_position.expand(centers.shape[0], -1, -1)
        return torch.cat([cls_position, encoding.to(cls_position.dtype)], dim=1)

    def block_arguments(self, coordinates: Tensor) -> BlockArguments:
        """Keyword arguments by a block's index, with positions that act in blocks, at coordinates [B, M, G, A]."""
        in_blocks, num_tokens = self.spec.in_blocks, coordinates.shape[2] + 1
        dtype = block_dtype(find(self.backbone, self.spec.blocks)[0])
        if in_blocks is None or self.position_encoding != "virtual":
            own = self.spec.neutral_arguments(self.backbone, num_tokens, dtype, coordinates.device)
        else:
            positions = self.projection.positions(coordinates)
            own = in_blocks.arguments(self.backbone, positions, self.projection.extent, dtype)
        return lambda index: {**self.spec.arguments, **own(index)}

    def find_neighborhoods(self, centers: Tensor, coordinates: Tensor) -> Neighborhoods | None:
        """Returns which tokens share a cell of each view, and a voxel; None where nothing is aggregated."""
        if self.local_attention is None:
            return None
        voxels = voxel_cells(centers, self.config.voxel_size)
        views = self.projection.cells(coordinates)
        most_cells = self.projection.num_cells + 1  # rounding may put a token at the very end, in one more cell
        if self.config.aggregation == "3d":
            views, most_cells = voxels.unsqueeze(1).expand_as(views), views.shape[-1]
        found = Neighborhoods.of(views, voxels, most_cells, product_dtype(self.cls_token))
        if not is_untouched(self.local_attention, LocalAttention):
            return found
        return found._replace(layers=self.local_attention.layers(centers.shape[0]))

    @can_return_tuple
    @names_batch_that_fits
    def forward(
        self,
        points: Tensor,
        point_features: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        adapter_names: Sequence[str] | None = None,
        output_point_levels: bool = False,
    ) -> Any2PointModelOutput:
        """Encodes point clouds.

        Args:
            points: [B, N, 3] float, 64 ≤ N ≤ 65536; never rescaled here.
            point_features: [B, N, F] float, what the config's `point_feature_names` name; None where F is 0.
            output_hidden_states: whether to return the tokens before and after every block.
            output_attentions: whether to return the blocks' attention weights; needs eager attention.
            return_dict: False for a tuple.
            adapter_names: names of the adapters, one for each cloud; by default the active one for all.
            output_point_levels: whether to return the tokenizer's features of all points and of its stages' centres.

        Raises:
            PointCloudError: points or features of another shape or kind than the model takes, or not finite.
            BatchTooLargeError: the memory cannot hold the batch; the message names a size that fits.
            Any2PointError: a name is unknown, or there are more or fewer names than clouds.
            ValueError: attentions of a backbone whose attention is not eager.
        """
        if adapter_names is not None:
            options: Any = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
            options |= {"output_point_levels": output_point_levels}
            return forward_mixed(self, points, point_features, adapter_names, **options)
        config = self.config
        check_inputs(points, point_features, config.point_feature_names)
        check_memory(self, points)
        if self.must_warn and not self.training:
            self.must_warn = False
            released.warn_of_attention_across_batch()
        wants_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        points, point_features, finite = finite_inputs(points, point_features, self.cls_token.dtype)
        tokens, centers, *levels = self.tokenizer(points, point_features, output_point_levels)
        if self.token_scale is not None:
            tokens = self.token_scale(tokens)
        coordinates = self.projection(centers)
        positions: Any = self.encode_positions(centers, coordinates)
        arguments = self.block_arguments(coordinates)
        neighborhoods = self.find_neighborhoods(centers, coordinates)

        hidden = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens.to(self.cls_token.dtype)], dim=1)
        hidden = hidden.where(finite, torch.nan)
        if positions is not None and config.position_injection != "blocks":
            hidden = hidden + positions
        if self.spec.input_norm is not None:
            norm = find(self.backbone, self.spec.input_norm)
            hidden = norm(hidden.to(norm.weight.dtype)).to(hidden.dtype)
        inject = positions is not None and config.position_injection != "input"
        states = [hidden] if wants_states else []
        blocks = self.blocks()
        with record_attention(self.backbone, self.spec, output_attentions) as attentions:
            for index, block in enumerate(blocks):
                hidden = self._run_block(block, hidden + positions if inject else hidden, arguments(index))
                if str(index) in self.aggregations:
                    cls, tokens = hidden.split([1, hidden.shape[1] - 1], dim=1)
                    tokens = self.aggregations[str(index)](tokens, neighborhoods, self.local_attention)
                    hidden = torch.cat([cls, tokens], dim=1)
                if wants_states:
                    states.append(hidden)
        if self.final_norm is not None:
            hidden = self.final_norm(hidden)
        pooled = {"cls": hidden[:, 0], "max": hidden[:, 1:].amax(dim=1)}
        return Any2PointModelOutput(
            last_hidden_state=hidden,
            pooler_output=torch.cat([pooled[name] for name in config.pooling], dim=-1),
            point_centers=centers,
            hidden_states=tuple(states) if wants_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            point_levels=tuple(levels) if output_point_levels else None,
        )

    def bytes_of_cloud(self, num_points: int, holds_states: bool = False) -> int:
        """Returns a lower bound on the bytes that a forward takes for each cloud, without what does not grow with them.

        Args:
            num_points: N of the cloud.
            holds_states: whether the tokens of all blocks are held to the end, as for `output_hidden_states`.
        """
        blocks, num_tokens = self.blocks(), num_points // 8 + 1
        halved = torch.is_autocast_enabled(self.cls_token.device.type)
        keeps = torch.is_grad_enabled() and self.cls_token.requires_grad
        value = 2 if halved or not blocks else min(4, block_dtype(blocks[0]).itemsize)
        row = num_tokens * self.cls_token.shape[-1] * value
        keeps_blocks = keeps and not (self.gradient_checkpointing and self.training)
        num_rows = len(blocks) if keeps else ROWS_AT_ONCE + holds_states * max(0, len(blocks) - 1)
        if keeps_blocks:
            num_rows = ROWS_KEPT * len(blocks) + Bottleneck.ROWS_KEPT * len(self.bottlenecks)
        trunk = num_rows * row
        if self.local_attention is not None:
            num_kept = len(self.aggregations) if keeps_blocks else 0
            trunk += aggregation_bytes(self.config, num_tokens, value, num_kept)
        value = 2 if halved else self.cls_token.element_size()
        if keeps:
            return trunk + self.tokenizer.bytes_of_cloud(num_points, value, keeps=True)
        return max(trunk, self.tokenizer.bytes_of_cloud(num_points, value, keeps=False))

    def blocks(self) -> list[nn.Module]:
        """The backbone's blocks that tokens pass."""
        return list(find(self.backbone, self.spec.blocks))[: self.used_blocks]

    def _run_block(self, block: nn.Module, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        # The aggregation stays outside: recomputing it would update its running statistics twice.
        if self.gradient_checkpointing and self.training:
            return self._gradient_checkpointing_func(self.call_block, block, hidden, arguments)
        return self.call_block(block, hidden, arguments)


AutoModel.register(Any2PointConfig, Any2PointModel, exist_ok=True)
