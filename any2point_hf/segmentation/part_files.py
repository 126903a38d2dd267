"""Files with a part for each point of a cloud: .ply to look at, .npy to compute with, .csv to read."""

import os
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.csv

from ..modeling.errors import Any2PointError
from ..pictures.picture_content import BACKGROUND_COLOR, category_colors
from ..point_clouds.labels import IGNORED
from .labelling import LabelledPoints


def write_parts(labelled: LabelledPoints, path: str | os.PathLike) -> Path:
    """Writes the points of a cloud with their parts, in their order; whole or not at all.

    - `.ply`: binary, each vertex with x, y, z, a colour (`red`, `green`, `blue`) for each part, always the same for an
      id, the part's id (`part`) and its `probability`; comments in the header name the parts.
    - `.npy`: the ids, [N] int64.
    - `.csv`: a line each, with the columns `x`, `y`, `z`, `part` and `part_name`.

    Invalid points that were dropped have the part −100; they are grey in a .ply, and without a name in a .csv.

    Args:
        labelled: what `label_points` gives.
        path: its extension names the format; its folder is made.

    Returns:
        The path.

    Raises:
        Any2PointError: the extension is none of them.
    """
    path = Path(path)
    write = WRITERS[check_part_file(path)]
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        write(labelled, beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def check_part_file(path: Path) -> str:
    """The format of a file to be written, by its extension.

    Raises:
        Any2PointError: it is none that is known.
    """
    if path.suffix.lower() not in WRITERS:
        raise Any2PointError(f"a file of parts must end in {', '.join(WRITERS)}, got {str(path)!r}.")
    return path.suffix.lower()


def _write_ply(labelled: LabelledPoints, path: Path) -> None:
    points = labelled.points
    number, name = ("<f4", "float") if points.dtype in (np.float16, np.float32) else ("<f8", "double")
    channels = ("red", "green", "blue")
    fields = [*((axis, number) for axis in "xyz"), *((channel, "u1") for channel in channels)]
    vertices = np.empty(len(points), np.dtype([*fields, ("part", "<i4"), ("probability", "<f4")]))
    colors = np.array([_channels(c) for c in (*category_colors(len(labelled.part_names)), BACKGROUND_COLOR)], np.uint8)
    colored = colors[np.where(labelled.parts == IGNORED, -1, labelled.parts)]
    for index, (axis, channel) in enumerate(zip("xyz", channels, strict=True)):
        vertices[axis], vertices[channel] = points[:, index], colored[:, index]
    vertices["part"], vertices["probability"] = labelled.parts, labelled.probabilities
    header = ["ply", "format binary_little_endian 1.0"]
    header += [f"comment part {part} {' '.join(text.split())}" for part, text in enumerate(labelled.part_names)]
    header += [f"element vertex {len(points)}", *(f"property {name} {axis}" for axis in "xyz")]
    header += [f"property uchar {channel}" for channel in channels]
    header += ["property int part", "property float probability", "end_header\n"]
    with path.open("wb") as file:
        file.write("\n".join(header).encode())
        vertices.tofile(file)


def _write_npy(labelled: LabelledPoints, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, labelled.parts)


def _write_csv(labelled: LabelledPoints, path: Path) -> None:
    number = labelled.points.dtype.newbyteorder("=")  # all that Arrow takes
    columns = {axis: pa.array(labelled.points[:, index].astype(number)) for index, axis in enumerate("xyz")}
    ids = pa.array(labelled.parts, mask=labelled.parts == IGNORED)
    names = pa.array(labelled.part_names, pa.string()).take(ids)
    pyarrow.csv.write_csv(pa.table(columns | {"part": pa.array(labelled.parts), "part_name": names}), path)


def _channels(color: str) -> tuple[int, ...]:
    """Red, green and blue, 0…255, of "#rrggbb"."""
    return tuple(bytes.fromhex(color[1:]))


WRITERS: dict[str, Callable[[LabelledPoints, Path], None]] = {
    ".ply": _write_ply,
    ".npy": _write_npy,
    ".csv": _write_csv,
}
"""By the extension of the file."""
