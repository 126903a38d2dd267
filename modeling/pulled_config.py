"""What a config.json from elsewhere may claim, checked before anything of it is built.

Its own claims are bounded; large ones must be those of the tensors beside it, whose shapes stand in the header of their
file. Fields that could fetch code are ignored.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers.utils import logging

from .checkpoint_integrity import HEADS
from .errors import CheckpointError, ConfigurationError, require
from .field_names import meant_name
from .publishing.remote_code import AUTO_MAP, OF_MODEL

MOST_LABELS = 100_000
MOST_BLOCKS = 2048
LARGEST_NUMBER = 2**24  # of any other field
_LARGE = {"width": 4096, "blocks": 128, "classes": 10_000}  # more of these must stand in the tensors' header, too
_SMALL_ADAPTER = 2**24  # parameters; a tiny backbone may have a larger adapter
_FETCH_CODE = ("auto_map", "trust_remote_code", "code_revision", "custom_pipelines")
IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")  # may name a kernel on the Hub
OWN_IMPLEMENTATIONS = (None, "eager", "sdpa", "flex_attention", "flash_attention_2", "grouped_mm", "batched_mm")
# What transformers writes into a config.json, or passes on when it loads one, besides the fields of its dataclass.
_OF_TRANSFORMERS = {*_FETCH_CODE, *IMPLEMENTATIONS, "is_heterogeneous", "model_type", "name_or_path", "num_labels"}
_OF_TRANSFORMERS |= {"output_attentions", "per_layer_config", "quantization_config", "return_unused_kwargs"}
_OF_TRANSFORMERS |= {"torch_dtype", "use_cache"}
_IN_UNITS = ("target_mean", "target_std")  # of numbers of any size

logger = logging.get_logger(__name__)


def checked_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Checks the values of a config.json, and leaves out those that could fetch code, with a warning.

    Raises:
        CheckpointError: a value is out of range, or classes are not numbered and named.
    """
    ignored: list[str] = []
    own = {AUTO_MAP} if values.get(AUTO_MAP) == OF_MODEL else set()  # it would load what is running
    cleaned = _without_code({name: value for name, value in values.items() if name not in own}, ignored)
    if cleaned.pop("quantization_config", None) is not None:  # of the adapter itself; a backbone's is recorded with it
        ignored.append("quantization_config")
    if ignored:
        logger.warning(f"of the adapter's config.json these fields are ignored: {', '.join(sorted(set(ignored)))}.")
    labels = cleaned.get("id2label")
    if labels is not None:
        _check_labels(labels)
    _check(cleaned.get("return_dict") in (None, True), "return_dict must be true", cleaned.get("return_dict"))
    for name, value in _numbers(cleaned):
        _check(abs(value) <= _bound(name), f"{name} must be at most {_bound(name)}", value)
    return cleaned


def refuse_unknown(names: Iterable[str], fields: Iterable[str], described: Iterable[str]) -> None:
    """Refuses names of a config that are neither its fields nor written or passed on by transformers itself.

    Args:
        names: that were given.
        fields: of the config's class.
        described: those among which the meant one is looked for.

    Raises:
        ConfigurationError: a name is unknown.
    """
    known = _OF_TRANSFORMERS | {*fields}
    unknown = sorted(name for name in names if name not in known and not name.startswith("_"))
    if unknown:
        raise ConfigurationError(
            f"Any2PointConfig takes the fields of its documentation, got {unknown[0]!r}, which is none."
            f"{meant_name(unknown[0], described)} A config.json that a newer version wrote needs that version."
        )


def check_num_labels(num_labels: int | None, problem_type: str | None = None, id2label: Any = None) -> None:
    """Checks the number of classes, before transformers names each of them.

    Raises:
        ConfigurationError: there are too many, or a single one of which each cloud would have to be.
    """
    require((num_labels or 0) <= MOST_LABELS, f"num_labels must be at most {MOST_LABELS}", num_labels)
    count = num_labels if id2label is None else len(id2label)
    rule = "problem_type='single_label_classification' needs at least 2 classes (num_labels)"
    fix = " For a number take 'regression', for yes or no 2 classes."
    require(problem_type != "single_label_classification" or count != 1, rule, count, fix)


def check_fields(config: Any, names: Iterable[str]) -> None:
    """Checks the size of a config's own fields.

    Raises:
        ConfigurationError: one is too large.
    """
    for name in names:
        for _, value in _numbers({name: getattr(config, name)}):
            require(abs(value) <= _bound(name), f"{name} must be at most {_bound(name)}", value)


def _bound(name: str) -> int:
    if "label" in name:
        return MOST_LABELS
    return MOST_BLOCKS if any(part in name for part in ("layers", "n_layer", "depth", "_blocks")) else LARGEST_NUMBER


def _numbers(values: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    """The numbers of a config, at any depth, with the name of their field; of a list also its length."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers({str(key): inner for key, inner in value.items()})
        elif isinstance(value, (list, tuple)):
            yield name, len(value)
            if name not in _IN_UNITS:
                yield from ((name, inner) for inner in value if _is_number(inner))
        elif _is_number(value) and "theta" not in name:  # the base of rotary angles is no size
            yield name, value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _without_code(values: Mapping[str, Any], ignored: list[str]) -> dict[str, Any]:
    kept = {}
    for name, value in values.items():
        implements = name.removeprefix("_").removesuffix("_internal") in IMPLEMENTATIONS
        if name in _FETCH_CODE or (implements and value not in OWN_IMPLEMENTATIONS):
            ignored += [name] if value else []
        elif not implements:
            kept[name] = _without_code(value, ignored) if isinstance(value, Mapping) else value
    return kept


def _check_labels(labels: Any) -> None:
    _check(isinstance(labels, Mapping) and 0 < len(labels) <= MOST_LABELS, "id2label must name the classes", labels)
    numbered = sorted(labels, key=lambda key: (len(str(key)), str(key)))
    rule = "id2label must number the classes 0, 1, 2, … without gaps"
    _check([str(key) for key in numbered] == [str(index) for index in range(len(labels))], rule, list(labels))
    wrong = [name for name in labels.values() if not isinstance(name, str)]
    _check(not wrong, "id2label must name each class by a text", wrong)


def _check(condition: bool, rule: str, received: object) -> None:
    if not condition:
        raise CheckpointError(
            f"in an adapter's config.json, {rule}, got {str(received)[:80]}. It is damaged or no Any2Point adapter: "
            "pull it again."
        )


def check_header(config: Any, folder: Path, overridden: Iterable[str] = ()) -> None:
    """Compares the sizes that a config claims with the shapes of the tensors beside it; no tensor is read.

    Args:
        config: of the adapter, with the backbone's.
        folder: with its files.
        overridden: names of fields that are not the adapter's but the caller's.

    Raises:
        CheckpointError: a large size is not that of the tensors, the adapter is larger than its backbone, or an index
            names other files than safetensors of this folder.
    """
    from .backbones.spec import num_blocks  # it imports models, and those our config, to register it

    shapes: dict[str, list[int]] = {}
    for file in weight_files(folder):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - the file is no dict
                shapes[name.removeprefix("any2point.")] = opened.get_slice(name).get_shape()
    if config.backbone_config is None:
        return
    width, depth = config.backbone_config.hidden_size, num_blocks(config.backbone_config)
    adapted = {name.split(".")[1] for name in shapes if name.startswith("bottlenecks.")}
    stored_classes = [shapes[name][0] for name in (f"{head}.output.bias" for head in HEADS) if name in shapes]
    claims = {
        "width": (width, shapes.get("cls_token", [0])[-1], ()),
        "blocks": (len(config.adapted_blocks(config.used_blocks(depth))), len(adapted), ("adapter_blocks",)),
        "classes": (config.num_labels, sum(stored_classes), ("num_labels", "id2label")),
    }
    for name, (claimed, stored, fields) in claims.items():
        if claimed > _LARGE[name] and claimed != stored and not set(fields) & set(overridden):
            raise CheckpointError(
                f"an adapter's config.json must describe the tensors beside it, and claims {claimed} {name} where they "
                f"have {stored} ({folder}). It is damaged or of another adapter: pull it again."
            )
    elsewhere = ("backbone.", *(f"{head}." for head in HEADS))
    own = sum(_size(shape) for name, shape in shapes.items() if not name.startswith(elsewhere))
    if own > max(12 * depth * width**2, _SMALL_ADAPTER):
        raise CheckpointError(
            f"an adapter must be smaller than its backbone, and {folder} has {own:,} parameters for a backbone of "
            f"{depth} blocks of width {width}. It is damaged, or no adapter."
        )


def _size(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def weight_files(folder: Path) -> list[Path]:
    """Lists the files of an adapter's tensors: one, or those that an index of parts names.

    Raises:
        CheckpointError: the index names other files than safetensors of this folder.
    """
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file() or not index.is_file():
        return sorted(folder.glob("model*.safetensors"))
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        is_plain = all(Path(name).name == name and name.endswith(".safetensors") for name in names)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index} must name the files of an adapter's tensors, and cannot be read: {error}"
        ) from error
    if not is_plain:
        raise CheckpointError(
            f"{index} must name files of this folder that end in .safetensors, got {', '.join(map(str, names))[:80]}. "
            "Other files are never opened."
        )
    return [folder / name for name in names]
