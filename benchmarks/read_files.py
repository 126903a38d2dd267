"""How long reading a million points takes, beside the libraries that read the same file, in turns.

    python benchmarks/read_files.py [POINTS]

Each file is written once and read three times by each; the shortest times are compared. Our reading includes the checks
(finite, as many as the file says), and the last column also the colours.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh

from any2point_hf import read_point_cloud, read_point_cloud_with_features

ROUNDS = 3


def write_ply(path: Path, points: np.ndarray, rgb: np.ndarray) -> None:
    """Binary, float32 and 8-bit colours."""
    fields = [*((axis, "<f4") for axis in "xyz"), *((name, "u1") for name in ("red", "green", "blue"))]
    table = np.empty(len(points), fields)
    for column, values in zip(table.dtype.names or (), [*points.T, *rgb.T], strict=True):
        table[column] = values
    kinds = {"<f4": "float", "|u1": "uchar"}
    header = [f"property {kinds[table.dtype[name].str]} {name}" for name in table.dtype.names or ()]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}", *header, "end_header", ""]
    path.write_bytes("\n".join(lines).encode() + table.tobytes())


def write_las(path: Path, points: np.ndarray, rgb: np.ndarray) -> None:
    """Millimetres in map coordinates, 16-bit colours."""
    import laspy

    las: Any = laspy.create(point_format=3, file_version="1.4")
    las.header.scales, las.header.offsets = [0.001] * 3, [4e5, 5e6, 0]
    las.x, las.y, las.z = (points + np.array([4e5, 5e6, 0])).T
    las.red, las.green, las.blue = rgb.T.astype(np.uint16) * 257
    las.write(path)


def read_las(path: Path) -> np.ndarray:
    """As laspy alone does."""
    import laspy

    return laspy.read(path).xyz


def write_text(path: Path, points: np.ndarray, rgb: np.ndarray) -> None:
    """With names in its first line."""
    delimiter = "," if path.suffix == ".csv" else " "
    table = np.column_stack([points, rgb])
    header = delimiter.join(["x", "y", "z", "red", "green", "blue"])
    formats = ["%.6f"] * 3 + ["%d"] * 3
    np.savetxt(path, table, formats, delimiter, header=header, comments="")


def read_text(path: Path) -> np.ndarray:
    """As numpy alone does, knowing all of the layout."""
    delimiter = "," if path.suffix == ".csv" else None
    return np.loadtxt(path, delimiter=delimiter, skiprows=1, usecols=(0, 1, 2))


def write_pcd(path: Path, points: np.ndarray, rgb: np.ndarray) -> None:
    """Binary, packed colours."""
    packed = (rgb.astype(np.uint32) * [1 << 16, 1 << 8, 1]).sum(axis=1).astype("<u4")
    table = np.column_stack([points.astype("<f4"), packed.view("<f4")])
    header = f"FIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F F\nWIDTH {len(points)}\nHEIGHT 1\nDATA binary\n"
    path.write_bytes(header.encode() + table.astype("<f4").tobytes())


def write_obj(path: Path, points: np.ndarray, rgb: np.ndarray) -> None:
    """Vertices with colours between 0 and 1."""
    np.savetxt(path, np.column_stack([points, rgb / 255]), "v %.6f %.6f %.6f %.4f %.4f %.4f")


def read_trimesh(path: Path) -> np.ndarray:
    """As trimesh alone does."""
    loaded: Any = trimesh.load(path, process=False)
    return np.asarray(loaded.vertices)


FORMATS: dict[str, tuple[Callable[..., None], Callable[[Path], np.ndarray] | None, str]] = {
    ".ply": (write_ply, read_trimesh, "trimesh"),
    ".las": (write_las, read_las, "laspy"),
    ".laz": (write_las, read_las, "laspy"),
    ".pcd": (write_pcd, None, ""),
    ".obj": (write_obj, read_trimesh, "trimesh"),
    ".xyz": (write_text, read_text, "numpy"),
    ".csv": (write_text, read_text, "numpy"),
}


def seconds(read: Callable[[Path], Any], path: Path) -> float:
    """Of one read."""
    start = time.perf_counter()
    read(path)
    return time.perf_counter() - start


def main(num_points: int = 1_000_000) -> None:
    """Prints a row for each format."""
    print(f"{num_points:,} points, {torch.backends.cpu.get_cpu_capability()}, shortest of {ROUNDS}, seconds")
    print("| file | ours | alone | ratio | with colours |\n|---|---|---|---|---|")
    generator = np.random.default_rng(0)
    points, rgb = generator.normal(size=(num_points, 3)), generator.integers(0, 256, size=(num_points, 3))
    with tempfile.TemporaryDirectory() as folder:
        for extension, (write, read_alone, library) in FORMATS.items():
            path = Path(folder, f"cloud{extension}")
            write(path, points, rgb.astype(np.uint8))
            times: dict[str, list[float]] = {"ours": [], "alone": [], "colours": []}
            for _ in range(ROUNDS):
                times["ours"].append(seconds(read_point_cloud, path))
                if read_alone is not None:
                    times["alone"].append(seconds(read_alone, path))
                times["colours"].append(seconds(lambda file: read_point_cloud_with_features(file, ["rgb"]), path))
            ours, colors = min(times["ours"]), min(times["colours"])
            alone = f"{min(times['alone']):.2f} ({library})" if read_alone else "none"
            ratio = f"{ours / min(times['alone']):.2f}" if read_alone else ""
            print(f"| {extension} | {ours:.2f} | {alone} | {ratio} | {colors:.2f} |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
