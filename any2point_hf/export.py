"""Models as files that run without this library: `torch.export` programs and ONNX, sampling included (docs/export.md).

Unusual here: every export is checked. It runs on clouds and batch sizes that the export has not seen, and its logits
must be within 1e-4 of the model's; otherwise no file is put in place.
"""

import contextlib
import importlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from . import __version__
from .modeling.errors import Any2PointError
from .modeling.files import folder_written_whole
from .modeling.modeling_any2point_classification import Any2PointForPointCloudClassification
from .modeling.modeling_any2point_segmentation import Any2PointForPointCloudSegmentation
from .processing_any2point import Any2PointProcessor
from .segmentation.labelling import category_parts_of

OPSET = 20  # the first with GELU; ONNX Runtime knows it since 1.17
LARGEST_DIFFERENCE = 1e-4  # of a logit, from the model's own
EXAMPLE_BATCH = 3
CHECKED_BATCHES = (1, 5)  # other sizes than the example's
INPUTS = ("points", "point_features")  # beside which there may be `category`
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
METADATA_FILE = "any2point.json"  # in a .pt2

ExportedModel: TypeAlias = Any2PointForPointCloudClassification | Any2PointForPointCloudSegmentation


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Args:
        format: `"onnx"` or `"torch"`.
        files: paths; a second one holds the weights of an ONNX model above 1.5 GiB.
        bytes: size of all files together.
        opset: of ONNX, else None.
        num_points: N, the points of every cloud.
        max_difference: the largest difference of a logit from the model's in the check, at most 1e-4.
    """

    format: str
    files: list[str]
    bytes: int
    opset: int | None
    num_points: int
    max_difference: float


class _Logits(nn.Module):
    """The model as points [B, N, 3] (and features [B, N, F], categories [B]) -> its logits, and nothing else."""

    def __init__(self, model: ExportedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, points: Tensor, point_features: Tensor | None = None, category: Tensor | None = None) -> Tensor:
        return self.model(points, point_features, **({} if category is None else {"category": category})).logits


def export_program(
    model: ExportedModel,
    path: str | os.PathLike | None = None,
    processor: Any2PointProcessor | None = None,
) -> ExportedProgram:
    """The model as one graph of torch operations, for a CPU: points [B, N, 3] float32 -> logits [B, classes].

    A model with features has a second input, [B, N, F] float32. A segmenter gives logits [B, N, parts] of all points,
    and takes `category=` [B] int64, by this name, if it has categories.

    Args:
        model: with its active adapter; it is left as it was.
        path: a file `.pt2` to write too, for `torch.export.load`; class names and processor are in it.
        processor: gives the number of points N; by default it is the config's.

    Raises:
        Any2PointError: the model cannot be exported, or what was exported computes other logits.
        OSError: the file cannot be written; a file that was there before stays whole.
    """
    processor = processor or _default_processor(model)
    with _on_cpu_in_eval(model):
        program = _trace(model, processor.num_points)
        check_logits(model, program.module(), processor.num_points)
    if path is not None:
        extra_files = {METADATA_FILE: json.dumps(metadata(model, processor))}
        _write(Path(path), lambda file: torch.export.save(program, file, extra_files=extra_files))
    return program


def export_onnx(
    model: ExportedModel, path: str | os.PathLike, processor: Any2PointProcessor | None = None
) -> ExportReport:
    """Writes the model as ONNX: input `points` [batch, N, 3] float32, output `logits` [batch, classes].

    A model with features has a second input, `point_features` [batch, N, F] float32. A segmenter gives logits
    [batch, N, parts] of all points, and has an input `category` [batch] int64 if it has categories.

    Args:
        model: with its active adapter; it is left as it was.
        path: file to write, whole or not at all; weights above 1.5 GiB go beside it, to `<name>.data`.
        processor: gives the number of points N, and is in the file's metadata; by default N is the config's.

    Raises:
        Any2PointError: a package is missing, the model cannot be exported, or ONNX Runtime computes other logits.
        OSError: the files cannot be written.
    """
    _require(ONNX_PACKAGES)
    path, processor = Path(path), processor or _default_processor(model)
    with _on_cpu_in_eval(model):
        program = _to_onnx(_trace(model, processor.num_points))
        program.model.metadata_props.update(metadata(model, processor))
        difference = 0.0

        def save_and_check(file: Path) -> None:
            nonlocal difference
            program.save(file)
            difference = check_logits(model, _onnx_runtime(file), processor.num_points)

        files = _write(path, save_and_check)
    return ExportReport("onnx", *_sizes(files), OPSET, processor.num_points, difference)


def export_file(model: ExportedModel, processor: Any2PointProcessor, format: str, path: Path) -> dict[str, Any]:
    """What the command line does: writes one format and says what was written, as a dict of `ExportReport`."""
    if format == "onnx":
        return asdict(export_onnx(model, path, processor))
    program = export_program(model, path, processor)
    with _on_cpu_in_eval(model):
        difference = check_logits(model, program.module(), processor.num_points)
    return asdict(ExportReport("torch", *_sizes([path]), None, processor.num_points, difference))


def check_logits(model: nn.Module, run: Callable[..., Tensor], num_points: int) -> float:
    """The largest difference of the logits of `run` from the model's, on new random clouds, one of each batch flat.

    A segmenter's categories take turns. Of a regression, differences are counted in the deviations of its targets.

    Raises:
        Any2PointError: it is above 1e-4, or not a number.
    """
    generator = torch.Generator().manual_seed(20)
    deviations, differences = torch.tensor(getattr(model.config, "target_std", None) or 1.0), []
    for batch_size in CHECKED_BATCHES:
        points = torch.randn(batch_size, num_points, 3, generator=generator)
        points[0, :, 2] = 0
        points /= points.norm(dim=-1).amax(dim=1).view(-1, 1, 1)
        inputs = (points, *_features(model, points, generator))
        category = _category(model, batch_size)
        with torch.no_grad():
            difference_of_batch = run(*inputs, **category) - model(*inputs, **category).logits
            differences.append((difference_of_batch / deviations).abs().max())
    difference = float(torch.stack(differences).max())
    if not difference <= LARGEST_DIFFERENCE:
        raise Any2PointError(
            f"exported logits must be within {LARGEST_DIFFERENCE:g} of the model's, got a difference of "
            f"{difference:.2g}; nothing was written. Export a float32 backbone; docs/export.md lists what is supported."
        )
    return difference


def metadata(model: ExportedModel, processor: Any2PointProcessor) -> dict[str, str]:
    """What a file says of itself, each value as JSON: class names, points a cloud, features, processor's settings.

    Of a segmenter these names are the parts', and `category_parts` has pairs of a category and its parts, or null.
    """
    values: dict[str, Any] = {
        "id2label": model.config.id2label,
        "num_points": processor.num_points,
        "point_feature_names": model.config.point_feature_names,
        "processor": processor.to_dict(),
        "any2point_version": __version__,
    }
    if isinstance(model, Any2PointForPointCloudSegmentation):
        categories = category_parts_of(model)
        values["category_parts"] = None if categories is None else list(categories.items())
    return {name: json.dumps(value) for name, value in values.items()}


def _default_processor(model: ExportedModel) -> Any2PointProcessor:
    start: Any = model.config.sampling_start
    return Any2PointProcessor(model.config.num_points, sampling_start=start)


def _trace(model: ExportedModel, num_points: int) -> ExportedProgram:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(EXAMPLE_BATCH, num_points, 3, generator=generator)
    inputs = (points, *_features(model, points, generator))
    category = _category(model, EXAMPLE_BATCH)
    batch = Dim("batch", min=1)
    shapes = {name: {0: batch} for name in (*INPUTS[: len(inputs)], *category)}
    with torch.no_grad(), _without_known_noise(), _explained("torch.export"):
        return torch.export.export(_Logits(model).eval(), inputs, category, dynamic_shapes=shapes)


def _features(model: Any, points: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Random features [B, N, F] of points, for a model that takes some."""
    num_features = model.config.num_point_features
    return [torch.rand(*points.shape[:2], num_features, generator=generator)] if num_features else []


def _category(model: Any, batch_size: int) -> dict[str, Tensor]:
    """`category` [B], all in turn, for a segmenter that has categories."""
    is_told = isinstance(model, Any2PointForPointCloudSegmentation) and model.config.category_parts is not None
    return {"category": torch.arange(batch_size) % len(model.config.category_parts)} if is_told else {}


def _to_onnx(program: ExportedProgram) -> Any:
    names = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    with _without_known_noise(), _explained("torch.onnx"):
        return torch.onnx.export(
            program,
            input_names=names,
            output_names=["logits"],
            dynamic_shapes={name: {0: "batch"} for name in names},  # the name of the axis in the file
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )


def _onnx_runtime(file: Path) -> Callable[..., Tensor]:
    import onnxruntime

    with _explained("ONNX Runtime"):
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor, **others: Tensor) -> Tensor:
        named = dict(zip(INPUTS, inputs, strict=False)) | others
        return torch.from_numpy(session.run(["logits"], {name: value.numpy() for name, value in named.items()})[0])

    return run


@contextlib.contextmanager
def _explained(tool: str) -> Iterator[None]:
    """Turns an error of an exporter, whatever its class, into an Any2PointError of one line; it is the cause."""
    try:
        yield
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Any2PointError(
            f"the model cannot be exported as it is, because {tool} refuses it: {said} docs/export.md lists what is "
            "supported."
        ) from error


@contextlib.contextmanager
def _without_known_noise() -> Iterator[None]:
    """Silences the exporter's message on torchvision, which nothing here needs, and torch's on its own deprecation."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*axis name: batch will not be used", UserWarning)  # of a second input
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _on_cpu_in_eval(model: nn.Module) -> Iterator[None]:
    """Keeps the model on the CPU in eval mode while the block runs; then restores its device and mode."""
    device: Any = model.device
    training = model.training
    model.to("cpu").eval()
    try:
        yield
    finally:
        model.to(device).train(training)


def _require(packages: tuple[str, ...]) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise Any2PointError(
                f"ONNX export needs {', '.join(packages)}, and {package} is not installed. Run: "
                'pip install "any2point-hf[export]"'
            ) from error


def _write(path: Path, save: Callable[[Path], None]) -> list[Path]:
    """Lets `save` write a file (and others) into a folder beside the path, then puts all in place, the file last."""
    with folder_written_whole(path.parent, last=path.name) as beside:
        save(beside / path.name)
        names = sorted((file.name for file in beside.iterdir()), key=path.name.__eq__)
        if len(names) > 1:
            path.unlink(missing_ok=True)  # an old file must not read the new weights beside it
    return [path.with_name(name) for name in reversed(names)]


def _sizes(files: list[Path]) -> tuple[list[str], int]:
    return [str(file) for file in files], sum(file.stat().st_size for file in files)
