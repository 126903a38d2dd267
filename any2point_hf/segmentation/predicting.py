"""What `any2point predict` does with a segmenter: files in, for each a file of parts and a summary out."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ..modeling.errors import Any2PointError
from ..modeling.segmentation.large_clouds import SUBSETS_AT_ONCE
from ..trained_adapter import load_segmenter
from .labelling import category_number, category_parts_of, label_points
from .part_files import WRITERS, check_part_file, write_parts


def predict_parts(
    model: str,
    files: Sequence[str | Path],
    backbone: PreTrainedModel | str | None = None,
    category: str | int | None = None,
    out: str | Path | None = None,
    format: str = "ply",
    batch_size: int = SUBSETS_AT_ONCE,
    drop_invalid: bool = False,
    block: float | None = None,
    context: float | None = None,
) -> list[dict[str, Any]]:
    """For each file: `file`, `out` (what was written, or None) and what `LabelledPoints.summary` says.

    Args:
        model: folder or Hub id of a segmenter.
        files: paths of point clouds or meshes, each of any size.
        backbone: Hub id or folder instead of the recorded one, or a module, which is shared.
        category: of all the files, where the model has categories: name or id.
        out: for one file a path ending in .ply, .npy or .csv (`write_parts`), or for any number a folder, which gets
            `<name>-parts.<format>` for each; None to write nothing.
        format: of the files in a folder.
        batch_size: subsets of a cloud at a time; the result does not depend on it.
        drop_invalid: whether to drop invalid points, with a warning; so also if the adapter's processor says so.
        block: of scenes, the width of the squares that are labelled one by one (`label_points`).
        context: width of the margin around them.

    Raises:
        Any2PointError: something in the input does not fit. Files of parts that were written before stay.
    """
    outs = [None] * len(files) if out is None else part_files([Path(file) for file in files], Path(out), format)
    loaded, processor = load_segmenter(model, backbone)
    category_number(category_parts_of(loaded), category, "--category")
    processor.drop_invalid |= drop_invalid
    results = []
    for file, path in zip(files, outs, strict=True):
        labelled = label_points(loaded, processor, file, category, block=block, context=context, batch_size=batch_size)
        written = None if path is None else str(write_parts(labelled, path))
        results.append({"file": str(file), "out": written, **labelled.summary()})
    return results


def part_files(files: Sequence[Path], out: Path, format: str = "ply") -> list[Path]:
    """The files of parts to write for these files; nothing that is read is written over.

    Raises:
        Any2PointError: several files and no folder, two that would get one name, or one that would replace its input.
    """
    if f".{format}" not in WRITERS:
        raise Any2PointError(f"--format must be one of {', '.join(w[1:] for w in WRITERS)}, got {format!r}.")
    if out.suffix and not out.is_dir():
        check_part_file(out)
        if len(files) > 1:
            raise Any2PointError(f"--out must be a folder for {len(files)} files, got {out}. Leave out its extension.")
        outs = [out]
    else:
        outs = [out / f"{file.stem}-parts.{format}" for file in files]
    twice = [path.name for path, count in Counter(outs).items() if count > 1]
    if twice:
        raise Any2PointError(f"two of the files would be written to {twice[0]}. Give them to different folders.")
    if replaced := {path.resolve() for path in outs} & {file.resolve() for file in files}:
        raise Any2PointError(f"--out must not replace a file that is read, got {replaced.pop()}. Choose another name.")
    return outs
